from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data import sources
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.sources import Dropped, FieldNames, RawExample, Reason, files, tfrecord
from oner_jax.errors import InputError
from tests.data.sources.entries import examples, fates, images
from tests.data.sources.written import read

# What img2dataset knows of an image, as it is in its TFRecord and, for all images, in its Parquet.
SUCCESS = {"status": "success", "error_message": None}
FAILURE = {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}


def row(number: int, **changes) -> dict:
    return {
        "caption": f"thing {number}",
        "url": f"http://example.org/{number}.jpg",
        "similarity": 0.33,
        "key": f"{number:09d}",
        **SUCCESS,
        "width": 256,
        "height": 192,
        "original_width": 640,
        "original_height": 480,
        "exif": None,
        **changes,
    }


def feature(value) -> tf.train.Feature:
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    value = "" if value is None else value
    value = value.encode() if isinstance(value, str) else value
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def serialised(values: dict) -> bytes:
    features = tf.train.Features(feature={name: feature(value) for name, value in values.items()})
    return tf.train.Example(features=features).SerializeToString()


def write_shard(path: Path, rows: list[dict], image_format: str = "jpg") -> Path:
    """The files that img2dataset makes of these rows: records of what it has, a table of all."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for item in rows:
            if item["status"] == "success":
                image = {image_format: f"image {item['key']}".encode(), "txt": item["caption"]}
                writer.write(serialised(image | item))
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    return path


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
def test_img2dataset_shards(tmp_path, image_format):
    for shard in range(2):
        rows = [row(10 * shard + n) for n in range(3)] + [row(10 * shard + 4, **FAILURE)]
        write_shard(tmp_path / f"{shard:05d}.tfrecord", rows, image_format)
    found = read(tmp_path)
    assert len(found) == 8
    kept = [entry for entry in found if isinstance(entry, RawExample)]
    assert [entry.id for entry in kept] == [f"{n:09d}" for n in (0, 1, 2, 10, 11, 12)]
    assert [entry.captions for entry in kept] == [(f"thing {n}",) for n in (0, 1, 2, 10, 11, 12)]
    assert images(kept)[4] == b"image 000000011"
    assert kept[4].location == f"{tmp_path}/00001.tfrecord[1]"
    assert kept[4].metadata == {
        "url": "http://example.org/11.jpg",
        "similarity": "0.33",
        "original_width": "640",
        "original_height": "480",
    }
    assert found[3] == Dropped(
        f"{tmp_path}/00000.parquet: 000000004",
        Reason.NOT_DOWNLOADED,
        "HTTP Error 404: Not Found",
    )


def test_what_the_log_has_and_the_records_lack(tmp_path):
    path = write_shard(tmp_path / "00000.tfrecord", [row(0), row(1), row(2)])
    path.write_bytes(path.read_bytes()[:-1])
    found = read(path)
    assert fates(found) == [None, None, Reason.TRUNCATED_ARCHIVE, Reason.TRUNCATED_ARCHIVE]
    assert found[3].location.endswith("00000.parquet: 000000002")


def test_parts_are_files_that_can_be_told_apart(tmp_path):
    write_shard(tmp_path / "00000.tfrecord", [row(0)])
    (before,) = sources.open_source(str(tmp_path / "00000.tfrecord"), examples_per_part=10)
    write_shard(tmp_path / "00000.tfrecord", [row(0), row(1)])
    (after,) = sources.open_source(str(tmp_path / "00000.tfrecord"), examples_per_part=10)
    assert repr(before) != repr(after)
    assert before.name == after.name == f"{tmp_path}/00000.tfrecord"


def test_without_captions_or_with_other_names(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(serialised({"picture": b"1", "words": "one thing", "width": 3}))
        writer.write(serialised({"picture": b"", "words": "another", "width": 3}))
        writer.write(serialised({"width": 3}))
    with pytest.raises(InputError, match="which field is the image"):
        read(tmp_path)
    named = FieldNames("picture", ("words",))
    found = read(tmp_path, names=named)
    assert fates(found) == [None, None, Reason.MISSING_IMAGE]
    assert isinstance(found[0], RawExample)
    assert (found[0].id, found[0].captions) == ("00000000", ("one thing",))
    with pytest.raises(InputError, match="has no field 'txt'"):
        read(tmp_path, names=FieldNames("picture", ("txt",)))


def write_records(path: Path, records: list[bytes]) -> files.File:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return files.file_at(str(path))


RECORDS = [bytes([n]) * (100 + n) for n in range(5)]
STARTS = np.cumsum([0, *(len(record) + 16 for record in RECORDS)])


def read_again(path: Path, content: bytes) -> list:
    path.write_bytes(content)
    return [
        entry if isinstance(entry, bytes) else entry.reason
        for entry in tfrecord.records_of(files.file_at(str(path)))
    ]


def test_a_damaged_record_is_lost_alone(tmp_path):
    file = write_records(tmp_path / "a.tfrecord", RECORDS)
    content = Path(file.path).read_bytes()
    assert read_again(tmp_path / "b", content) == RECORDS
    for place in (12, 60, 111, 112, 115):  # of the data, and of their checksum
        damaged = bytearray(content)
        damaged[STARTS[2] + place] ^= 4
        expected = [*RECORDS[:2], Reason.BROKEN_ENTRY, *RECORDS[3:]]
        assert read_again(tmp_path / "b", bytes(damaged)) == expected
    for place in (0, 7, 8, 11):  # of the length, and of its checksum: what follows is not found
        damaged = bytearray(content)
        damaged[STARTS[2] + place] ^= 4
        expected = [*RECORDS[:2], Reason.TRUNCATED_ARCHIVE]
        assert read_again(tmp_path / "b", bytes(damaged)) == expected


def test_every_truncation_keeps_what_is_whole(tmp_path):
    file = write_records(tmp_path / "a.tfrecord", RECORDS[:3])
    content = Path(file.path).read_bytes()
    assert read_again(tmp_path / "b", b"") == [Reason.EMPTY_ARCHIVE]
    for length in range(1, len(content)):
        whole = int(np.searchsorted(STARTS, length, "right")) - 1
        expected = RECORDS[:whole] + [Reason.TRUNCATED_ARCHIVE] * (length not in STARTS)
        assert read_again(tmp_path / "b", content[:length]) == expected


@given(data=st.data())
def test_reading_never_raises(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    path = write_shard(folder / "00000.tfrecord", [row(n) for n in range(4)])
    (part,) = sources.open_source(str(path), examples_per_part=10)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for entry in part.read():
        assert isinstance(entry, RawExample | Dropped)


def test_records_that_are_no_examples(tmp_path):
    wrong_text = serialised({"jpg": b"x", "txt": b"caf\xe9"})
    records = [b"\xff\xff no example", wrong_text, serialised({"jpg": b"x", "txt": "café"})]
    write_records(tmp_path / "a.tfrecord", records)
    found = read(tmp_path / "a.tfrecord")
    assert fates(found) == [Reason.BROKEN_ENTRY, Reason.INVALID_TEXT, None]


def test_a_file_that_is_gone(tmp_path):
    path = write_shard(tmp_path / "00000.tfrecord", [row(0)])
    (part,) = sources.open_source(str(path), examples_per_part=10)
    path.unlink()
    with pytest.raises(OSError, match=r"00000\.tfrecord"):
        list(part.read())
    with pytest.raises(InputError, match="cannot be read"):
        read(path)
    with pytest.raises(InputError, match=r"holds no \.tfrecord"):
        read(tmp_path, "tfrecord")


def test_an_unreadable_account_is_told(tmp_path):
    path = write_shard(tmp_path / "00000.tfrecord", [row(0)])
    path.with_suffix(".parquet").write_bytes(b"PAR1 and then nothing")
    assert fates(read(path)) == [None, Reason.TRUNCATED_ARCHIVE]
    pq.write_table(pa.table({"other": [1]}), path.with_suffix(".parquet"))
    assert len(examples(path)) == 1
