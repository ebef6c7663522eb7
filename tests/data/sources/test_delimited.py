import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oner_jax.data.sources import Reason, delimited
from oner_jax.errors import InputError
from tests.data.sources.written import examples_of, read, reasons


def write(folder, content, name="pairs.csv"):
    """A table beside the one image that its rows name."""
    (folder / "0.png").write_bytes(b"picture")
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TEXTS = st.text(st.sampled_from('ab,;\t"\r\n \u2028\x0bäß🦊'), max_size=12)


@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=12),
    size=st.integers(1, 9),
    line_end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", "\t", ";"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory, rows, size, line_end, delimiter, mark
):
    buffer = io.StringIO(newline="")
    buffer.write(mark)
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=line_end)
    writer.writerow(["image", "caption", "note"])
    for n, (text, note) in enumerate(rows):
        writer.writerow(["0.png", f"{n}{text}", note])
    path = write(tmp_path_factory.mktemp("csv"), buffer.getvalue())
    found = examples_of(read(path, examples_per_part=size))
    texts, notes = zip(*rows, strict=True) if rows else ((), ())
    captions = tuple(entry.captions[0] for entry in found)
    read_notes = tuple(entry.metadata.get("note", "") for entry in found)
    if line_end == "\r\n":
        assert captions == tuple(f"{n}{text}".strip() for n, text in enumerate(texts))
        assert read_notes == notes
    else:  # the writer then does not quote a carriage return, and nobody can tell what it was
        assert_same_but_for_returns(captions, tuple(f"{n}{text}" for n, text in enumerate(texts)))
        assert_same_but_for_returns(read_notes, notes)
    # Each is at the line that it begins on, as an editor counts.
    lines = buffer.getvalue().split("\n")
    begins = [int(entry.location.rpartition(":")[2]) for entry in found]
    assert all(lines[line - 1].startswith("0.png") for line in begins)


def assert_same_but_for_returns(found, wanted):
    """Equal texts where a carriage return is as good as a space."""
    assert [text.replace("\r", " ").strip() for text in found] == [
        text.replace("\r", " ").strip() for text in wanted
    ]


PIECES = st.sampled_from(
    [
        b"0.png",
        b",",
        b'"',
        b'""',
        b"\n",
        b"\r\n",
        b"a",
        b' "b" ',
        b"\xff",
        b"\0",
        b"\r",
        b"\xe2\x80\xa8",
    ]
)


@given(pieces=st.lists(PIECES, max_size=60), size=st.integers(1, 9))
@example(pieces=[b'"', b"\n", b"a", b",", b"a", b"\n", b'"'], size=1)
def test_parts_of_any_size_give_the_same_entries(tmp_path_factory, pieces, size):
    path = write(tmp_path_factory.mktemp("csv"), b"image,caption\n" + b"".join(pieces))
    found, wanted = read(path, examples_per_part=size), read(path, examples_per_part=10_000)
    assert [(entry.location, type(entry)) for entry in found] == [
        (entry.location, type(entry)) for entry in wanted
    ]
    assert [e.captions for e in examples_of(found)] == [e.captions for e in examples_of(wanted)]
    # Every line is in some entry: one, or several where quotes join them.
    lines = b"".join(pieces).split(b"\n")
    begins = [int(entry.location.rpartition(":")[2]) - 2 for entry in found]
    skipped = set(range(len(lines))) - set(begins)
    assert all(not lines[line].strip() or any(b < line for b in begins) for line in skipped)


def test_a_quote_that_is_never_closed_costs_its_line_alone(tmp_path):
    rows = [f'0.png,"caption, {n}"' for n in range(10)]
    rows[4] = '0.png,"never closed'
    rows[7] = '"0.png,never closed either'
    for size in (1, 3, 100):
        found = read(write(tmp_path, "\n".join(["image,caption", *rows])), examples_per_part=size)
        assert [e.captions for e in examples_of(found)] == [
            (f"caption, {n}",) for n in range(10) if n not in (4, 7)
        ]
        assert reasons(found) == [Reason.BROKEN_ENTRY] * 2


def test_a_quote_does_not_swallow_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_MAXIMUM_ROW_BYTES", 1000)
    rows = ["image,caption", '"0.png,open', *(f"0.png,caption {n}" for n in range(500)), '0.png,"']
    found = read(write(tmp_path, "\n".join(rows)), examples_per_part=7)
    assert len(examples_of(found)) == 500
    assert reasons(found) == [Reason.BROKEN_ENTRY] * 2


def test_quotes_within_a_value_are_its_own(tmp_path):
    path = write(tmp_path, 'image,caption\n0.png,a 5" disk\n0.png,"big" letters\n')
    assert [e.captions for e in examples_of(read(path))] == [('a 5" disk',), ("big letters",)]


BAD_ROWS = {
    "too few": (b"0.png", Reason.BROKEN_ENTRY, "1 values for 2 columns"),
    "too many": (b"0.png,a,b", Reason.BROKEN_ENTRY, "3 values for 2 columns"),
    "latin-1": (b"0.png,caf\xe9", Reason.INVALID_TEXT, "no UTF-8 text"),
    "old line ends": (b"0.png,a\r0.png,b", Reason.BROKEN_ENTRY, "3 values for 2 columns"),
    "open quote": (b'0.png,"a', Reason.BROKEN_ENTRY, "no row for 2 columns"),
    "missing image": (b"none.png,a", Reason.MISSING_IMAGE, "does not exist"),
    "nothing": (b",", Reason.MISSING_IMAGE, "neither"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_are_dropped_by_reason_and_end_nothing(tmp_path, kind):
    row, reason, detail = BAD_ROWS[kind]
    path = write(tmp_path, b"\n".join([b"image,caption", b"0.png,good", row, b"", b"0.png,good"]))
    found = read(path)
    assert len(examples_of(found)) == 2
    assert reasons(found[1:2]) == [reason]
    assert found[1].location == f"{path}:3"
    assert detail in found[1].detail


def test_long_captions_and_empty_values(tmp_path):
    path = write(
        tmp_path, f"image,caption,license\n0.png,{'x' * 300_000},\n,text alone,\n0.png,,cc\n"
    )
    first, second, third = examples_of(read(path))
    assert first.captions == ("x" * 300_000,)
    assert first.metadata == {}
    assert (second.read_image, second.captions) == (None, ("text alone",))
    assert (third.captions, third.metadata) == ((), {"license": "cc"})


def test_open_clips_table_and_pandas_index(tmp_path):
    path = write(tmp_path, "\tfilepath\ttitle\n0\t0.png\ta, b; c\n")
    (found,) = examples_of(read(path))
    assert found.captions == ("a, b; c",)
    assert found.metadata == {"column_1": "0"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no names of columns; write image,caption"),
        (b"\n0.png,a\n", "no names of columns"),
        ("image,caption\n".encode("utf-16"), "no UTF-8 text; save the file as UTF-8"),
        (b"image,caption,image\n", "field 'image' occurs twice"),
        (b"url,text\n", "which field is the image? Its fields are url, text"),
        (b'"image,caption\n', "no names of columns"),
    ],
)
def test_a_table_without_usable_columns_is_refused(tmp_path, content, message):
    with pytest.raises(InputError) as error:
        read(write(tmp_path, content))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
