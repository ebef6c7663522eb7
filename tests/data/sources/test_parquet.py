import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data.sources import Reason, open_source, parquet
from oner_jax.errors import InputError
from tests.data.samples import encoded, picture
from tests.data.sources.written import entries, examples_of, read, reasons

IMAGE = encoded(picture(0), "JPEG")


def write(folder, columns, name="pairs.parquet", **options):
    """A table of these columns, beside an image file that rows may name."""
    (folder / "0.jpg").write_bytes(IMAGE)
    path = folder / name
    pq.write_table(pa.table(columns), path, **options)
    return path


def numbered(count):
    """Columns of so many rows with embedded images."""
    return {"image": [IMAGE] * count, "caption": [f"caption {n}" for n in range(count)]}


@pytest.fixture(scope="module")
def groups_of_ten(tmp_path_factory):
    """57 rows in groups of ten."""
    return write(tmp_path_factory.mktemp("parquet"), numbered(57), row_group_size=10)


@given(size=st.integers(1, 70), whole=st.booleans())
def test_parts_of_any_size_give_the_same_entries(groups_of_ten, size, whole):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "_MAXIMUM_CUT_GROUP_BYTES", 0 if whole else 2**28)
        patch.setattr(parquet, "_ROWS_AT_ONCE", 4)
        parts = open_source(str(groups_of_ten), examples_per_part=size)
    found = examples_of(entries(parts))
    assert [(e.id, e.captions) for e in found] == [
        (f"{n + 1:08d}", (f"caption {n}",)) for n in range(57)
    ]
    assert [entry.location for entry in found[:1]] == [f"{groups_of_ten}: row 1"]
    # No part is far from the size that was asked for, unless its group has to stay whole.
    smallest, largest = (size, size + 9) if not whole else (size, max(10, size + 9))
    assert all(smallest <= (part.examples or 0) <= largest for part in parts[:-1])


def test_what_img2dataset_writes(tmp_path):
    rows: list[dict[str, Any]] = [
        {"key": "000", "txt": "alt text", "caption": "alt text", "status": "success", "jpg": IMAGE},
        {"key": "001", "txt": None, "caption": "lost", "status": "failed_to_download", "jpg": None},
        {"key": "002", "txt": "", "caption": None, "status": "success", "jpg": IMAGE},
    ]
    for row in rows:
        failed = row["status"] != "success"
        row |= {"url": "https://u", "error_message": "timed out" if failed else None}
        row |= {"width": 5, "height": 5, "original_width": 50, "sha256": "0f"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    first, lost, last = read(tmp_path)
    assert [(e.id, e.captions) for e in examples_of([first, last])] == [
        ("000", ("alt text",)),
        ("002", ()),
    ]
    assert reasons([lost]) == [Reason.NOT_DOWNLOADED]
    assert lost.detail == "timed out"
    assert first.metadata == {"url": "https://u", "original_width": "50", "sha256": "0f"}


def test_columns_of_all_kinds(tmp_path):
    columns = {
        "image": [{"bytes": None, "path": "0.jpg"}, {"bytes": IMAGE, "path": "x"}, None],
        "caption": pa.array([["main", None, "other"], [], ["text"]], pa.list_(pa.string())),
        "id": pa.array([7, 8, 9], pa.int32()),
        "taken": [datetime.date(2020, 1, 2), None, None],
        "score": [0.5, float("nan"), None],
        "mask": [b"\xff", b"\xff", b"\xff"],
        "masks": [[b"\xff"], None, []],
        "box": [{"left": 1}, None, None],
        "words": pa.array(["x", "y", "x"]).dictionary_encode(),
        "dotted.name": ["a", "b", "c"],
    }
    first, second, third = examples_of(read(write(tmp_path, columns)))
    assert (first.id, first.captions, second.captions) == ("7", ("main", "other"), ())
    assert first.read_image is not None
    assert second.read_image is not None
    assert first.read_image() == second.read_image() == IMAGE
    assert (third.read_image, third.captions) == (None, ("text",))
    assert first.metadata == {
        "taken": '"2020-01-02"',
        "score": "0.5",
        "box": '{"left": 1}',
        "words": "x",
        "dotted.name": "a",
    }


def test_bad_rows_are_dropped_by_reason(tmp_path):
    good = pa.array(["good", "good", "good", "good"])
    not_utf8 = pa.Array.from_buffers(
        pa.binary(), 4, pa.array([b"a", b"\xff", b"c", b"d"]).buffers()
    )
    columns = {
        "image": ["0.jpg", "0.jpg", "none.jpg", "0.jpg"],
        "caption": not_utf8.view(pa.string()),
        "note": good,
        "when": pa.array([0, 0, 0, 2**60], pa.timestamp("us")),
    }
    found = read(write(tmp_path, columns))
    assert [entry.captions for entry in examples_of(found)] == [("a",)]
    assert reasons(found) == [Reason.INVALID_TEXT, Reason.MISSING_IMAGE, Reason.BROKEN_ENTRY]
    assert [entry.location for entry in found[1:3]] == [
        f"{tmp_path}/pairs.parquet: row 2",
        f"{tmp_path}/pairs.parquet: row 3",
    ]


def test_captions_without_a_type_of_text(tmp_path):
    path = write(tmp_path, {"image": ["0.jpg"] * 2, "caption": ["grün".encode(), b"\xff"]})
    found = read(path)
    assert [entry.captions for entry in examples_of(found)] == [("grün",)]
    assert reasons(found) == [Reason.INVALID_TEXT]


def test_a_damaged_group_costs_its_rows_alone(tmp_path):
    columns = {"image": ["0.jpg"] * 30, "caption": [f"caption {n}" * 50 for n in range(30)]}
    options = {"row_group_size": 10, "use_dictionary": False, "write_page_checksum": True}
    path = write(tmp_path, columns, **options)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    content = bytearray(path.read_bytes())
    # The end: a chunk begins with its header, whose statistics nobody reads.
    end = column.data_page_offset + column.total_compressed_size
    content[end - 60 : end - 20] = b"\xff" * 40
    path.write_bytes(content)
    for size in (4, 100):
        found = read(path, examples_per_part=size)
        numbers = [int(entry.id) for entry in examples_of(found)]
        assert numbers == [*range(1, 11), *range(21, 31)]
        assert reasons(found) == [Reason.BROKEN_ENTRY] * 10


def test_files_that_are_no_parquet(tmp_path):
    write(tmp_path, numbered(5), "0.parquet")
    whole = (tmp_path / "0.parquet").read_bytes()
    (tmp_path / "1.parquet").write_bytes(whole[:-10])
    (tmp_path / "2.parquet").write_bytes(b"")
    write(tmp_path, numbered(0), "3.parquet")
    (tmp_path / "4.parquet").write_bytes(b"<html>404</html>")
    (tmp_path / "5.parquet").write_bytes(whole.replace(b"caption", b"\x80aption"))  # no UTF-8
    found = read(tmp_path)
    assert [entry.id for entry in examples_of(found)] == [f"0/{n:08d}" for n in range(1, 6)]
    assert reasons(found) == [
        Reason.TRUNCATED_ARCHIVE,
        Reason.EMPTY_ARCHIVE,
        Reason.EMPTY_ARCHIVE,
        Reason.TRUNCATED_ARCHIVE,
        Reason.TRUNCATED_ARCHIVE,
    ]


def test_columns_have_to_be_known(tmp_path):
    path = write(tmp_path, {"photo": ["0.jpg"], "caption": ["x"]})
    with pytest.raises(
        InputError, match=r"which field is the image\? Its fields are photo, caption"
    ):
        read(path)
