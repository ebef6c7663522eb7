import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data import sources
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.sources import Dropped, FieldNames, Options, RawExample, Reason
from oner_jax.errors import InputError
from tests.data.samples import encoded, picture
from tests.data.sources.entries import examples, fates, images
from tests.data.sources.written import read

_COCO: Any = tfds.builder_cls("coco_captions")
_IMAGENET: Any = tfds.builder_cls("imagenet2012")
_BUILDER: Any = tfds.core.GeneratorBasedBuilder

COCO_SPLITS = {"train": range(0, 7), "restval": range(7, 10), "val": range(10, 12)}


def image_file(number: int) -> bytes:
    return encoded(picture(number, 8, 9), "JPEG")


def coco_example(number: int) -> dict[str, Any]:
    return {
        "image": io.BytesIO(image_file(number)),
        "image/filename": f"COCO_train2014_{number:012d}.jpg",
        "image/id": number,
        "objects": [],
        "captions": [
            {"text": f"caption {k} of pictüre {number}", "id": 10 * number + k} for k in range(5)
        ],
    }


class CocoCaptions(_COCO, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's own builder, with its features, of other examples."""

    name = "coco_captions"
    code_path = None  # TFDS would look for its own licence beside it

    def _split_generators(self, _):
        return {
            name: ((n, coco_example(n)) for n in numbers) for name, numbers in COCO_SPLITS.items()
        }


class Imagenet2012(_IMAGENET, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's own builder, with its 1,000 classes, of other examples."""

    name = "imagenet2012"
    code_path = None

    def _split_generators(self, _):
        return {"train": self._examples([5, 0, 999]), "test": self._examples([-1])}

    def _examples(self, labels):
        for number, label in enumerate(labels):
            name = f"{number}.JPEG"
            image = io.BytesIO(image_file(number))
            yield name, {"image": image, "label": label, "file_name": name}


def prepare(builder: Any, num_shards: int = 2) -> str:
    """Writes the set as TFDS does; its directory."""
    config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=num_shards)
    builder.download_and_prepare(download_config=config)
    return str(builder.data_dir)


def prepare_features(directory: Path, features: dict, rows: list[dict]) -> str:
    """A set with these features and one split."""

    class OwnSet(_BUILDER, skip_registration=True):  # type: ignore[call-arg]
        name = "own_set"
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": enumerate(rows)}

        def _generate_examples(self):
            raise NotImplementedError

    return prepare(OwnSet(data_dir=directory), num_shards=1)


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def coco(request, tmp_path_factory) -> Path:
    """The data directory of a prepared coco_captions."""
    directory = tmp_path_factory.mktemp("tfds")
    prepare(CocoCaptions(data_dir=directory, file_format=request.param))
    return directory


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> Path:
    """The data directory of a prepared imagenet2012."""
    directory = tmp_path_factory.mktemp("tfds")
    prepare(Imagenet2012(data_dir=directory), num_shards=1)
    return directory


def test_coco_captions(coco):
    found = examples("tfds:coco_captions", options=Options(data_dir=str(coco)))
    assert [example.split for example in found] == ["train"] * 7 + ["restval"] * 3 + ["val"] * 2
    number = {int(example.metadata["image/id"]): example for example in found}
    assert sorted(number) == list(range(12))
    for n, example in number.items():
        assert example.captions == tuple(f"caption {k} of pictüre {n}" for k in range(5))
        assert images([example]) == [image_file(n)]
        assert example.metadata == {
            "image/id": str(n),
            "image/filename": f"COCO_train2014_{n:012d}.jpg",
        }


def test_ids_and_order_are_those_of_tfds(tmp_path):
    directory = prepare(CocoCaptions(data_dir=tmp_path))
    found = examples(directory, options=Options(splits=("train",)))
    reading = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
    builder = tfds.builder_from_directory(directory)
    expected = list(builder.as_dataset("train", read_config=reading).as_numpy_iterator())
    assert len({example["tfds_id"].split(b"__")[0] for example in expected}) == 2
    assert [example.id.encode() for example in found] == [e["tfds_id"] for e in expected]
    assert [int(e.metadata["image/id"]) for e in found] == [e["image/id"] for e in expected]


def test_a_directory_a_version_and_a_config(coco):
    whole = [example.id for example in examples(coco / "coco_captions" / "2014" / "1.1.0")]
    for name in ("coco_captions/2014", "coco_captions:1.*.*", "CocoCaptions/2014:1.1.0"):
        found = examples(f"tfds:{name}", options=Options(data_dir=str(coco)))
        assert [example.id for example in found] == whole


def test_splits_and_parts_of_them(coco):
    options: dict[str, Any] = {"data_dir": str(coco)}
    train = examples("tfds:coco_captions", options=Options(splits=("train",), **options))
    some = Options(splits=("val", "train[2:5]"), **options)
    found = examples("tfds:coco_captions", options=some, examples_per_part=2)
    assert [example.split for example in found] == ["val"] * 2 + ["train"] * 3
    assert [example.id for example in found[2:]] == [example.id for example in train[2:5]]
    for split, reason in [
        ("vall", r"no split 'vall' \(did you mean 'val'\?\); it has train, restval, val"),
        ("train[x:]", "cannot be taken"),
        ("train+val", r"no split 'train\+val'"),
    ]:
        with pytest.raises(InputError, match=reason):
            read("tfds:coco_captions", options=Options(splits=(split,), **options))


def test_parts_have_their_sizes(coco):
    for examples_per_part in (1, 2, 100):
        parts = sources.open_source(
            "tfds:coco_captions",
            examples_per_part=examples_per_part,
            options=Options(data_dir=str(coco)),
        )
        assert [part.examples for part in parts] == [len(list(part.read())) for part in parts]


def test_class_names_are_captions(imagenet, tmp_path):
    options: dict[str, Any] = {"data_dir": str(imagenet)}
    with pytest.raises(InputError, match=r"classes are called n01440764 .* give --class_names"):
        read("tfds:imagenet2012", options=Options(**options))
    names = tmp_path / "names.txt"
    classes = tfds.builder_from_directory(f"{imagenet}/imagenet2012/5.1.0").info.features["label"]
    lines = [f"{c} word {n}, other word {n}" for n, c in enumerate(classes.names)]
    names.write_text("\n".join(lines[::-1]))
    found = examples("tfds:imagenet2012", options=Options(class_names=str(names), **options))
    by_file = {example.metadata["file_name"]: example for example in found if example.captions}
    for file, number in (("0.JPEG", 5), ("1.JPEG", 0), ("2.JPEG", 999)):
        assert by_file[file].captions == (f"word {number}", f"other word {number}")
        assert by_file[file].label == f"word {number}"
        assert by_file[file].metadata["class"] == classes.names[number]
        assert by_file[file].split == "train"
    assert [(e.split, e.label) for e in found if not e.captions] == [("test", "")]  # -1: not known
    without = examples(
        "tfds:imagenet2012", names=FieldNames(captions=("none",)), options=Options(**options)
    )
    assert {example.captions for example in without} == {()}
    assert {example.label for example in without} == {"", *(classes.names[n] for n in (0, 5, 999))}


FEATURES = {
    "photo": tfds.features.Image(encoding_format="png"),
    "mask": tfds.features.LabeledImage(labels=3, shape=(None, None, 1)),
    "breed": tfds.features.ClassLabel(names=["great_dane", "poodle"]),
    "age": tfds.features.ClassLabel(num_classes=4),
    "weight": tfds.features.Scalar(tf.float32),
}


def feature_row(number: int, **more) -> dict:
    values = {"photo": picture(number), "mask": picture(number, channels=1)[..., :1] % 3}
    return values | {"breed": number % 2, "age": 3, "weight": 1.1} | more


def test_features_are_found_or_chosen(tmp_path):
    name = prepare_features(tmp_path, FEATURES, [feature_row(n) for n in range(2)])
    # Two labels, and nothing says which is the caption.
    assert {(e.captions, e.label) for e in examples(name)} == {((), "")}
    found = examples(name, names=FieldNames(captions=("breed",)))
    assert {(e.captions, e.label) for e in found} == {
        (("great dane",), "great dane"),
        (("poodle",), "poodle"),
    }
    assert dict(found[0].metadata) | {"class": ""} == {"age": "3", "weight": "1.1", "class": ""}
    for wrong, reason in [
        (FieldNames(image="mask"), "no image 'mask'; its images are photo"),
        (FieldNames(captions=("bred",)), "no text 'bred'"),
    ]:
        with pytest.raises(InputError, match=reason):
            read(name, names=wrong)


def test_texts_are_found_or_chosen(tmp_path):
    texts = {
        "a": tfds.features.Text(),
        "b": tfds.features.Sequence({"en": tfds.features.Text(), "de": tfds.features.Text()}),
    }
    values = {"a": "one", "b": [{"en": "two", "de": "zwei"}, {"en": "three", "de": "drei"}]}
    name = prepare_features(tmp_path, FEATURES | texts, [feature_row(0, **values)])
    with pytest.raises(InputError, match="which feature is the caption"):
        read(name)
    for chosen, expected in [
        (("a",), ("one",)),
        (("b/de", "a"), ("zwei", "drei", "one")),
        (("none",), ()),
    ]:
        (found,) = examples(name, names=FieldNames(captions=chosen))
        assert found.captions == expected
    (found,) = examples(name, names=FieldNames("none", ("a",)))
    assert found.read_image is None


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("TFDS prepares a set")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setattr(tfds.core.DatasetInfo, "initialize_from_bucket", fail)
    (tmp_path / "mnist" / "2.0.0").mkdir(parents=True)
    for name, reason in [
        ("coco_captions/2014", rf"tfds.builder\('coco_captions/2014', data_dir='{tmp_path}'\)"),
        ("imagenet2012", f"into {tmp_path}/downloads/manual .*, then prepare it: python -c"),
        ("coco_captoins", r"no set 'coco_captoins' \(did you mean 'coco_captions'\?\)"),
        ("mnist", "has mnist as 2.0.0; .* prepare it: python -c"),
        ("a b", "no name of a set"),
        ("mnist/x=3", "takes no x"),
    ]:
        with pytest.raises(InputError, match=reason) as error:
            read(f"tfds:{name}", options=Options(data_dir=str(tmp_path)))
        assert "\n" not in str(error.value)


def test_directories_that_are_none(tmp_path):
    for file in ("dataset_info.json", "features.json"):
        (tmp_path / file).write_text("{")
    with pytest.raises(InputError, match="TFDS cannot read it") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="--data_dir"):
        read(tmp_path, options=Options(data_dir="x"))


def damaged(coco: Path, split: str, change) -> list:
    """The entries of a split of which the first file's content was changed."""
    parts = sources.open_source(
        "tfds:coco_captions",
        examples_per_part=2,
        options=Options(data_dir=str(coco), splits=(split,)),
    )
    path = Path(parts[0].name.split("[")[0])
    content = path.read_bytes()
    path.write_bytes(change(content))
    try:
        return [entry for part in parts for entry in part.read()]
    finally:
        path.write_bytes(content)


def test_a_cut_file_keeps_what_is_whole(coco):
    whole = damaged(coco, "train", lambda content: content)
    assert fates(whole) == [None] * 7
    cut = damaged(coco, "train", lambda content: content[: len(content) // 2])
    lost = [entry for entry in cut if isinstance(entry, Dropped)]
    assert {entry.reason for entry in lost} == {Reason.TRUNCATED_ARCHIVE}
    kept = [entry.id for entry in cut if isinstance(entry, RawExample)]
    assert kept == [entry.id for entry in whole if entry.id in kept]
    assert len(kept) < 7


def test_a_file_that_is_gone(coco):
    options = Options(data_dir=str(coco), splits=("val",))
    part, *_ = sources.open_source("tfds:coco_captions", examples_per_part=9, options=options)
    path = Path(part.name.split("[")[0])
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(OSError, match=path.name):
            list(part.read())
        with pytest.raises(InputError, match="cannot be read"):
            read("tfds:coco_captions", options=options)
    finally:
        path.with_suffix(".away").rename(path)


def test_a_file_cut_between_records(tmp_path):
    directory = prepare(CocoCaptions(data_dir=tmp_path))
    (part, _) = sources.open_source(
        directory, examples_per_part=9, options=Options(splits=("train",))
    )
    path = Path(part.name.split("[")[0])
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records[:-1]:
            writer.write(record)
    found = list(part.read())
    assert fates(found) == [None] * (len(records) - 1) + [Reason.TRUNCATED_ARCHIVE]


@given(data=st.data())
def test_reading_never_raises(coco, data):
    def change(content):
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(changed) - 1))
            changed[place] = data.draw(st.integers(0, 255))
        return bytes(changed[: data.draw(st.integers(0, len(changed)))])

    for entry in damaged(coco, "val", change):
        assert isinstance(entry, RawExample | Dropped)


def test_tfds_is_imported_for_its_own_sets_only(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"caption": "x"}')
    code = (
        "import sys; from oner_jax.data import sources;"
        f"sources.open_source({str(tmp_path / 'a.jsonl')!r}, examples_per_part=1);"
        "sys.exit('tensorflow_datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
