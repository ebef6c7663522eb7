"""A table with a row for each caption: its images become one example each, in every format."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oner_jax import ingest
from oner_jax.data import records
from oner_jax.data.host_tensorflow import tf
from tests.data.ingestion.fakes import example, in_parts, make
from tests.data.samples import encoded, picture, run_program

IMAGES, CAPTIONS = 4, 5
Rows = list[dict[str, Any]]


def write_text_table(folder: Path, rows: Rows, delimiter: str) -> Path:
    path = folder / ("pairs.csv" if delimiter == "," else "pairs.tsv")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(folder: Path, rows: Rows) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(folder: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet", row_group_size=3)
    return folder / "pairs.parquet"


def write_parquet_with_images(folder: Path, rows: Rows, *, named: bool = False) -> Path:
    def inside(path: str) -> dict[str, Any]:
        return {"bytes": (folder / path).read_bytes(), "path": path if named else None}

    return write_parquet(folder, [row | {"image": inside(row["image"])} for row in rows])


def write_tfrecord(folder: Path, rows: Rows) -> Path:
    path = folder / "pairs.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            values = {name: str(value).encode() for name, value in row.items()}
            values["image"] = (folder / row["image"]).read_bytes()
            feature = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for name, value in values.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return path


# Whether a format holds paths of images, or only their bytes.
WRITERS: dict[str, tuple[Callable[[Path, Rows], Path], bool]] = {
    "csv": (lambda folder, rows: write_text_table(folder, rows, ","), True),
    "tsv": (lambda folder, rows: write_text_table(folder, rows, "\t"), True),
    "jsonl": (write_jsonl, True),
    "parquet": (write_parquet, True),
    "parquet_with_named_images": (
        lambda folder, rows: write_parquet_with_images(folder, rows, named=True),
        True,
    ),
    "parquet_with_images": (write_parquet_with_images, False),
    "tfrecord": (write_tfrecord, False),
}


def rows_of(folder: Path, ids: str) -> Rows:
    """Five captions of each of four images, all first captions first, in files in a folder."""
    (folder / "images").mkdir(parents=True)
    for n in range(IMAGES):
        (folder / f"images/{n}.png").write_bytes(encoded(picture(n), "PNG"))
    rows: Rows = [
        {"image": f"images/{n}.png", "caption": f"caption {c} of thing {n}"}
        for c in range(CAPTIONS)
        for n in range(IMAGES)
    ]
    for number, row in enumerate(rows):
        own = {"none": {}, "image": {"id": row["image"]}, "caption": {"id": f"row-{number}"}}[ids]
        row |= own
    return rows


@pytest.mark.parametrize("ids", ["none", "image", "caption"])
@pytest.mark.parametrize("kind", WRITERS)
def test_rows_of_one_image_are_one_example(tmp_path, capsys, kind, ids):
    write, with_paths = WRITERS[kind]
    source = write(tmp_path, rows_of(tmp_path, ids))
    flags = [f"--source={source}", f"--output={tmp_path}/out", "--validation_fraction=0"]
    assert run_program(ingest, *flags) == 0
    printed = capsys.readouterr().out
    found = list(records.open_split(f"{tmp_path}/out/train").records())
    manifest = json.loads((tmp_path / "out/train/manifest.json").read_text())
    assert manifest["captions"] == IMAGES * CAPTIONS
    if ids == "caption" and not with_paths:
        # Different ids and no path: nothing but the bytes says that these are of one image.
        assert [len(item.captions) for item in found] == [1] * IMAGES * CAPTIONS
        assert "joined" not in printed
        return
    assert [item.captions for item in found] == [
        tuple(f"caption {c} of thing {n}" for c in range(CAPTIONS)) for n in range(IMAGES)
    ]
    assert f"joined {IMAGES * (CAPTIONS - 1)} of {IMAGES * CAPTIONS} entries" in printed
    assert manifest["source"]["joined"] == IMAGES * (CAPTIONS - 1)
    assert manifest["source"]["entries"] == IMAGES * CAPTIONS
    assert manifest["record_bytes"] == sum(len(item.serialise()) for item in found)
    assert not (tmp_path / "out/dropped.jsonl").exists()


def test_an_equal_pair_is_a_duplicate_and_another_pair_of_that_id_is_not(tmp_path):
    entries = [
        *(example(n, id="uploader") for n in range(3)),
        example(0, id="uploader", captions=("another caption",)),
        example(1, id="uploader"),
        example(4, id="a~2"),
        example(5, id="a"),
        example(6, id="a"),
        example(7, id="b", split="test"),
        example(7, id="b", split="train"),
        example(8, id="c", label="cat"),
        example(8, id="c", label="dog"),
    ]
    make(in_parts(entries, 3), tmp_path / "out")
    found = {
        item.id: item
        for path in (tmp_path / "out").glob("*/manifest.json")
        for item in records.open_split(str(path.parent)).records()
    }
    # One mark is in an id already.
    assert set(found) == {
        *("uploader", "uploader~~2", "uploader~~3", "a~2", "a", "a~~2", "b", "b~~2", "c", "c~~2")
    }
    assert found["uploader"].captions == ("thing 0", "another caption")
    assert found["uploader~~2"].captions == ("thing 1",)
    assert {found["c"].label, found["c~~2"].label} == {"cat", "dog"}
    (loss,) = map(json.loads, (tmp_path / "out/dropped.jsonl").read_text().splitlines())
    assert (loss["reason"], loss["location"], loss["detail"]) == (
        *("duplicate_pair", "fake:1", "like fake:1"),
    )


@pytest.mark.parametrize("name", ["json_keys", "stems", "uploaders"])
def test_colliding_ids_cost_no_pair(tmp_path, capsys, name):
    if name == "json_keys":  # two outputs of img2dataset, numbered alike
        for folder, first in (("a", 0), ("b", 10)):
            (tmp_path / "data" / folder).mkdir(parents=True)
            for n in range(10):
                stem = tmp_path / "data" / folder / f"{n:09d}"
                stem.with_suffix(".png").write_bytes(encoded(picture(first + n), "PNG"))
                stem.with_suffix(".txt").write_text(f"thing {first + n}")
                stem.with_suffix(".json").write_text(json.dumps({"key": f"{n:09d}"}))
        source, expected, renamed = tmp_path / "data", 20, 10
    elif name == "stems":
        (tmp_path / "data").mkdir()
        for ending, kind in (("jpg", "JPEG"), ("png", "PNG")):
            image = encoded(picture(ord(ending[0])), kind)
            (tmp_path / "data" / f"1.{ending}").write_bytes(image)
        (tmp_path / "data" / "1.txt").write_text("a thing")
        source, expected, renamed = tmp_path / "data", 2, 1
    else:
        rows = rows_of(tmp_path, "none")[:IMAGES]
        source = write_jsonl(tmp_path, [row | {"uid": "someone"} for row in rows])
        expected, renamed = IMAGES, IMAGES - 1
    flags = [f"--source={source}", f"--output={tmp_path}/out", "--validation_fraction=0"]
    assert run_program(ingest, *flags) == 0
    printed = capsys.readouterr().out
    found = list(records.open_split(f"{tmp_path}/out/train").records())
    assert len({item.id for item in found}) == len(found) == expected
    assert len({item.image for item in found}) == expected
    assert f"renamed {renamed} examples" in printed
    assert "dropped" not in printed
