"""Every public benchmark on data of its real structure: what TFDS and Karpathy write, made small.

The sets' own builders give features and class names; the pictures in them are made here.
"""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

from oner_jax import ingest
from oner_jax.data import records
from oner_jax.data.evaluation import evaluation_set
from oner_jax.errors import InputError
from oner_jax.evals.engine.datasets import available, choose
from oner_jax.evals.inputs.features import Corpus
from oner_jax.evals.inputs.protocols import PROTOCOLS, Protocol, differences, protocol
from oner_jax.evals.inputs.templates import template_set
from tests.data.samples import encoded, picture, run_program
from tests.data.sources.test_tfds import image_file, prepare

OF_TFDS = {name: own for name, own in PROTOCOLS.items() if own.source.startswith("tfds:")}


CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def builder_class(own: Protocol) -> Any:
    return tfds.builder_cls(own.source.split()[0].removeprefix("tfds:").split("/")[0])


def value_of(feature: Any, number: int, label: int) -> Any:
    """Something for every feature that a builder may ask for."""
    if isinstance(feature, tfds.features.ClassLabel):
        return label % feature.num_classes
    if isinstance(feature, tfds.features.Image):
        kind = "PNG" if feature.shape[-1] == 1 else "JPEG"
        channels = feature.shape[-1] or 3
        height, width = (side or 9 for side in feature.shape[:2])
        pixels = picture(number, height, width)
        return io.BytesIO(encoded(pixels[..., 0] if channels == 1 else pixels, kind))
    if isinstance(feature, tfds.features.BBoxFeature):
        return tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
    return f"{number}.jpg"


def write_tfds(name: str, folder: Path, labels: dict[str, list[int]]) -> str:
    """The benchmark's own builder with one picture for each of these labels."""
    parent: Any = builder_class(PROTOCOLS[name])

    class Small(parent, skip_registration=True):  # type: ignore[call-arg]
        code_path = None

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {split: self._small(own) for split, own in labels.items()}

        def _small(self, own: list[int]) -> Any:
            for number, label in enumerate(own):
                features = self.info.features
                example = {
                    key: value_of(feature, number, label) for key, feature in features.items()
                }
                yield number, example

        def _generate_examples(self) -> None:
            raise NotImplementedError

    Small.name = parent.name
    config = PROTOCOLS[name].source.split()[0].partition("/")[2]
    builder = Small(data_dir=folder, **({"config": config} if config else {}))
    if name == "cifar10":  # whose names are in what TFDS downloads
        builder.info.features["label"].names = CIFAR10
    prepare(builder, num_shards=1)
    return str(folder)


def ingested(name: str, source: list[str], folder: Path) -> Path:
    assert run_program(ingest, *source, f"--output={folder / name}", "--processes=1") == 0
    return folder


def class_names(name: str) -> list[str]:
    if name == "cifar10":
        return CIFAR10
    features = tfds.builder(PROTOCOLS[name].source.split()[0].removeprefix("tfds:")).info.features
    return features["label"].names


@pytest.mark.parametrize("name", OF_TFDS)
def test_the_table_is_what_the_builders_say(name):
    own = PROTOCOLS[name]
    assert len(class_names(name)) in (own.classes, 1000)
    assert template_set(own.templates)


@pytest.mark.parametrize("name", ["imagenet_a", "cifar10", "pets", "flowers102", "eurosat"])
def test_a_benchmark_of_tfds_is_read_and_prompted_as_its_paper_says(name, tmp_path):
    own = PROTOCOLS[name]
    labels = {own.split: [3, 1, 1, 0]} | ({"train": [0, 1, 2]} if own.split != "train" else {})
    prepared = write_tfds(name, tmp_path / "tfds", labels)
    source, *options = own.source.split()
    data = ingested(name, [f"--source={source}", f"--data_dir={prepared}", *options], tmp_path)
    places, left_out = available(choose([], [name], data_directory=data))
    assert left_out == []
    dataset = places[name].dataset(name, image_size=8)
    assert dataset.load is not None
    examples = dataset.load()
    assert len(examples.labels) == 4
    assert (dataset.load_training is None) == (own.split == "train")
    corpus = Corpus.of(examples)
    classes = class_names(name)
    if name.startswith("imagenet"):
        called = dict(
            line.split("\t")
            for line in (Path(records.__file__).parent / "class_names/imagenet.txt")
            .read_text()
            .splitlines()
        )
        expected = [called[classes[label]] for label in (0, 1, 3)]
    else:
        expected = sorted(classes[label].replace("_", " ") for label in (0, 1, 3))
    assert corpus.class_names == expected
    assert sorted(map(list(corpus.classes).count, range(3))) == [1, 1, 2]
    first = template_set(dataset.templates)[0].format(corpus.class_names[0])
    assert (
        first
        == {
            "imagenet_a": "a bad photo of a tench.",
            "cifar10": "a photo of a airplane.",
            "pets": "a photo of a Abyssinian, a type of pet.",
            "flowers102": "a photo of a hard-leaved pocket orchid, a type of flower.",
            "eurosat": f"a centered satellite photo of {expected[0]}.",
        }[name]
    )
    assert any("4 pictures for" in line for line in differences(name, examples))


KARPATHY = {"coco": "val2014", "flickr30k": ""}  # folder of the pictures


@pytest.mark.parametrize("name", KARPATHY)
def test_retrieval_benchmarks_have_their_split_and_five_captions(name, tmp_path):
    folder = KARPATHY[name]
    images = tmp_path / "pictures" / folder
    images.mkdir(parents=True)
    pictures = []
    for number, split in enumerate(["train", "restval", "val", "test", "test"]):
        (images / f"{number}.jpg").write_bytes(image_file(number))
        raw = [f"Sentence {k} of picture {number}." for k in range(5 + (number == 4))]
        pictures.append(
            {
                "filename": f"{number}.jpg",
                "filepath": folder,
                "imgid": number,
                "cocoid": 1000 + number,
                "split": split,
                "sentences": [{"raw": text, "tokens": text.split()} for text in raw],
            }
        )
    file = tmp_path / f"dataset_{name}.json"
    file.write_text(json.dumps({"images": pictures, "dataset": name}))
    source = [f"--source={file}", f"--image_directory={tmp_path / 'pictures'}"]
    data = ingested(name, source, tmp_path)
    place = choose([], [name], data_directory=data)[name]
    assert place.split == str(tmp_path / name / "test")
    examples = evaluation_set(place.split, image_size=8)
    assert [len(own) for own in examples.captions] == [5, 6]
    corpus = Corpus.of(examples)
    assert len(corpus.gallery.texts) == 11  # every caption is a query
    assert differences(name, examples) == [f"2 pictures for {protocol(name).pictures:,}"]
    assert place.training == str(tmp_path / name / "train")


def test_what_is_missing_says_how_to_get_it(tmp_path):
    places = choose([], ["public"], data_directory=tmp_path)
    assert list(places) == list(PROTOCOLS)
    with pytest.raises(InputError, match=r"--source=coco/dataset_coco.json .* --output=.*coco \("):
        available({"coco": places["coco"]})
    with pytest.raises(InputError, match="no benchmark 'cifar11'"):
        protocol("cifar11")
