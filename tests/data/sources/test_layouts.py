"""Every table and archive format in every layout, read by ingest and by embed alike."""

import collections
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import webdataset

from oner_jax import ingest
from oner_jax.data import records
from oner_jax.data.sources import Options, open_source, recognised_format
from oner_jax.data.sources.layout import split_of
from oner_jax.errors import InputError
from oner_jax.indexing.making import parts_of
from tests.data.ingestion import test_joining as tables
from tests.data.samples import encoded, picture, run_program
from tests.data.sources.written import entries, examples_of
from tests.marks import slow

Numbers = Sequence[int]


def write_table(kind: str, path: Path, numbers: Numbers, images: str = "images") -> None:
    """A table at the path, with an ending of its own, and its images in a folder beside it."""
    (path.parent / images).mkdir(parents=True, exist_ok=True)
    rows = [{"image": str(Path(images) / f"{n}.png"), "caption": f"thing {n}"} for n in numbers]
    for n, row in zip(numbers, rows, strict=True):
        (path.parent / row["image"]).write_bytes(encoded(picture(n), "PNG"))
    write, _ = tables.WRITERS[kind]
    written = write(path.parent, rows)
    written.rename(path.with_name(path.name + written.suffix))
    if kind in ("tfrecord", "parquet_with_images", "parquet_with_named_images"):
        for row in rows:  # they are inside
            (path.parent / row["image"]).unlink()


def write_tar(path: Path, numbers: Numbers) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path.with_name(path.name + ".tar"))) as writer:
        for n in numbers:
            image = encoded(picture(n), "PNG")
            writer.write({"__key__": f"{n:05d}", "png": image, "txt": f"thing {n}"})


def write(kind: str, path: Path, numbers: Numbers, images: str = "images") -> None:
    if kind == "webdataset":
        write_tar(path, numbers)
    else:
        write_table(kind, path, numbers, images)


# By file: which examples are in it. A layout without splits is held out from.
LAYOUTS: dict[str, dict[str, Numbers]] = {
    "folders": {"train/data": range(4), "test/data": range(4, 6)},
    "folders_of_shards": {
        "train/0/a": range(2),
        "train/1/a": range(2, 4),
        "validation/a": range(4, 5),
        "test/a": range(5, 7),
    },
    "metadata": {"train/metadata": range(4), "val/metadata": range(4, 7)},
    "file_names": {
        "train-00000-of-00002": range(2),
        "train-00001-of-00002": range(2, 4),
        "validation-00000-of-00001": range(4, 6),
        "test-00000-of-00001": range(6, 7),
    },
    "shards_in_folders": {"a/00000": range(3), "a/00001": range(3, 6), "b/c/00000": range(6, 9)},
    "shards_here_and_below": {"00000": range(3), "more/00000": range(3, 6)},
}
KINDS = [*tables.WRITERS, "webdataset"]
# Of the others, what ingest does with what is read is left to the slow tests.
QUICK = ("jsonl", "parquet_with_images", "webdataset")


def expected_splits(layout: str) -> dict[int, str]:
    return {n: split_of(path) for path, numbers in LAYOUTS[layout].items() for n in numbers}


@pytest.mark.parametrize(
    ("kind", "layout", "program"),
    [
        (slow if program == "ingest" and kind not in QUICK else pytest.param)(
            kind, layout, program, id=f"{kind}-{layout}-{program}"
        )
        for kind in KINDS
        for layout in LAYOUTS
        for program in ("ingest", "embed")
    ],
)
def test_every_format_in_every_layout(tmp_path, capsys, kind, layout, program):
    for path, numbers in LAYOUTS[layout].items():
        # Hugging Face's imagefolder has the images next to their metadata.
        images = "." if layout == "metadata" else f"images-{path.replace('/', '-')}"
        write(kind, tmp_path / "data" / path, numbers, images)
    expected = expected_splits(layout)
    if program == "embed":
        found = examples_of(entries(parts_of(str(tmp_path / "data"), "", 8)))
        assert {int(entry.captions[0].split()[1]): entry.split for entry in found} == expected
        assert len({entry.id for entry in found}) == len(found) == len(expected)
        return
    flags = [f"--source={tmp_path}/data", f"--output={tmp_path}/out", "--validation_fraction=0"]
    assert run_program(ingest, *flags) == 0
    assert splits_made(tmp_path / "out") == {n: name or "train" for n, name in expected.items()}
    first = capsys.readouterr().out.splitlines()[0]
    assert f": {len(LAYOUTS[layout])} files" in first
    if any(expected.values()):
        counts = collections.Counter(map(split_of, LAYOUTS[layout]))
        assert first.endswith("; " + ", ".join(f"{k} {n}" for k, n in sorted(counts.items())))


def splits_made(output: Path) -> dict[int, str]:
    return {
        int(item.captions[0].split()[1]): path.parent.name
        for path in output.glob("*/manifest.json")
        for item in records.open_split(str(path.parent)).records()
    }


def put(folder: Path, path: str, content: bytes | str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def image(number: int) -> bytes:
    return encoded(picture(number), "PNG")


def texts_beside(root: Path) -> None:
    for n in range(6):
        split = "train" if n < 4 else "test"
        put(root, f"{split}/images/{n}.png", image(n))
        put(root, f"{split}/captions/{n}.txt", f"thing {n}")


def texts_next_to_images(root: Path) -> None:
    for n in range(6):
        split = "train" if n < 4 else "test"
        put(root, f"{split}/{n}.png", image(n))
        put(root, f"{split}/{n}.txt", f"thing {n}")


def metadata_of_images_below(root: Path) -> None:
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        rows = []
        for n in numbers:
            put(root, f"{split}/images/{n}.png", image(n))
            rows.append({"file_name": f"images/{n}.png", "text": f"thing {n}"})
        put(root, f"{split}/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def metadata_above_splits(root: Path) -> None:
    rows = ["file_name,text"]
    for n in range(6):
        path = f"{'train' if n < 4 else 'test'}/{n}.png"
        put(root, path, image(n))
        rows.append(f"{path},thing {n}")
    put(root, "metadata.csv", "\n".join(rows) + "\n")


@pytest.mark.parametrize(
    "layout",
    [texts_beside, texts_next_to_images, metadata_of_images_below, metadata_above_splits],
)
def test_images_in_folders_of_splits(tmp_path, layout):
    layout(tmp_path / "data")
    flags = [f"--source={tmp_path}/data", f"--output={tmp_path}/out"]
    assert run_program(ingest, *flags) == 0
    made = splits_made(tmp_path / "out")
    assert made == {n: "train" if n < 4 else "test" for n in range(6)}
    assert not (tmp_path / "out/dropped.jsonl").exists()


def test_classes_are_on_both_sides_of_what_is_held_out(tmp_path, capsys):
    for n in range(40):
        put(tmp_path, f"data/{('cat', 'dog')[n % 2]}/{n}.png", image(n))
    flags = [f"--source={tmp_path}/data", "--validation_fraction=0.5"]
    assert run_program(ingest, *flags, f"--output={tmp_path}/out") == 0
    assert "read as class_folders" in capsys.readouterr().out.splitlines()[0]
    for name in ("train", "val"):
        labels = [item.label for item in records.open_split(f"{tmp_path}/out/{name}").records()]
        assert set(labels) == {"cat", "dog"}
        assert 10 <= len(labels) <= 30


def no_captions(root: Path) -> None:
    for n in range(4):
        put(root, f"{'train' if n < 2 else 'test'}/images/{n}.png", image(n))


def images_at_two_depths(root: Path) -> None:
    put(root, "cat/1.png", image(1))
    put(root, "dog/more/2.png", image(2))


def tables_of_two_kinds(root: Path) -> None:
    write("csv", root / "a", range(2))
    write("jsonl", root / "a", range(2))


def archives_and_images(root: Path) -> None:
    write_tar(root / "00000", range(2))
    put(root, "more/1.png", image(1))


def a_table_and_texts(root: Path) -> None:
    write("csv", root / "a", range(2))
    put(root, "more/1.png", image(1))
    put(root, "more/1.txt", "text")


def some_without_a_split(root: Path) -> None:
    for name in ("train", "test", "notes"):
        write("jsonl", root / name, range(2))


UNSURE: dict[Callable[[Path], None], tuple[str, str]] = {
    no_captions: ("2 .png in test/images", "--format=folder --unpaired=keep"),
    images_at_two_depths: ("1 .png in dog/more", "say which it is"),
    tables_of_two_kinds: ("1 .csv, ", "give --format=jsonl or --format=csv"),
    archives_and_images: ("1 .png in more", "give --format=webdataset or --format=folder"),
    a_table_and_texts: ("1 .txt in more", "give --format=csv or --format=folder"),
    some_without_a_split: (
        "2 files name a split (test.jsonl: test) and 1 do not (notes.jsonl)",
        "give --splits=test,train to read only those that do, or --splits=none",
    ),
}


@pytest.mark.parametrize("layout", UNSURE)
def test_what_may_be_read_in_several_ways_is_refused(tmp_path, capsys, layout):
    layout(tmp_path / "data")
    flags = [f"--source={tmp_path}/data", f"--output={tmp_path}/out"]
    assert run_program(ingest, *flags) == 2
    (message,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error: ")]
    for said in UNSURE[layout]:
        assert said in message
    assert not (tmp_path / "out").exists()


def test_the_flag_decides(tmp_path):
    some_without_a_split(tmp_path / "data")
    flags = [f"--source={tmp_path}/data", "--validation_fraction=0"]
    assert run_program(ingest, *flags, "--splits=train", f"--output={tmp_path}/one") == 0
    assert splits_made(tmp_path / "one") == {0: "train", 1: "train"}
    assert run_program(ingest, *flags, "--splits=none", f"--output={tmp_path}/all") == 0
    # The same files in three tables.
    assert splits_made(tmp_path / "all") == {0: "train", 1: "train"}
    options = Options(splits=("val",))
    with pytest.raises(InputError, match="has no split 'val'; it has test, train"):
        open_source(str(tmp_path / "data"), examples_per_part=9, options=options)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/a.tar", "train"),
        ("data/Testing/a.tar", "test"),
        ("train/test.csv", "train"),
        ("validation-00000-of-00001-0a1b2c.parquet", "validation"),
        ("flickr30k_dev.csv", "dev"),
        ("train_val.csv", ""),
        ("trained/latest.tar.gz", ""),
        ("contest.csv", ""),
        ("00000.tar", ""),
    ],
)
def test_what_a_path_says_of_its_split(path, split):
    assert split_of(path) == split


def test_only_one_split_that_is_no_training_split(tmp_path):
    for n in range(2):
        write("parquet", tmp_path / f"data/test-{n:05d}-of-00002", range(2 * n, 2 * n + 2))
    assert recognised_format(str(tmp_path / "data")) == "parquet"
    found = examples_of(entries(open_source(str(tmp_path / "data"), examples_per_part=9)))
    assert [entry.split for entry in found] == ["test"] * 4
    (one, *_) = examples_of(
        entries(
            open_source(str(tmp_path / "data/test-00000-of-00002.parquet"), examples_per_part=9)
        )
    )
    assert one.split == ""  # a file that is named itself
