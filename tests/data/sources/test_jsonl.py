import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data.sources import FieldNames, Reason
from oner_jax.errors import InputError
from tests.data.samples import write_jsonl
from tests.data.sources.written import examples_of, read, reasons

GOOD = {"image": "0.png", "caption": "x"}


def test_lines_number_the_examples(tmp_path):
    rows = [{"image": f"{n}.png", "caption": f"thing {n}", "colour": "red"} for n in range(7)]
    path = write_jsonl(tmp_path, [rows[0], "", *rows[1:]])
    found = examples_of(read(path, examples_per_part=3))
    assert [e.id for e in found] == [f"{n:08d}" for n in (1, 3, 4, 5, 6, 7, 8)]
    assert found[2].location == f"{path}:4"
    assert found[2].metadata == {"colour": "red"}


LINES = st.sampled_from(
    [
        *(
            b"",
            b"\n",
            b"  \t\n",
            b"\r\n",
            b"[1]\n",
            b"{}\n",
            b"\xff\n",
            b"\xef\xbb\xbf\n",
            b"nul\0\n",
        ),
        b'{"image": "0.png", "caption": "a\\nb"}\n',
        b'{"caption": "no image", "id": "7"}\r\n',
        b'{"image": "none.png"}\n',
        b'{"image": "0.png", "license": "x"}',
    ]
)


@given(lines=st.lists(LINES, max_size=30), size=st.integers(1, 12))
def test_parts_of_any_size_give_the_same_entries(tmp_path_factory, lines, size):
    folder: Path = tmp_path_factory.mktemp("jsonl")
    path = write_jsonl(folder, [GOOD])
    path.write_bytes(path.read_bytes() + b"".join(lines))
    assert_same(read(path, examples_per_part=size), read(path, examples_per_part=10_000))


def assert_same(found, wanted):
    """Equal entries, but for the functions that read the images."""
    assert [repr(entry).partition("read_image=")[0] for entry in found] == [
        repr(entry).partition("read_image=")[0] for entry in wanted
    ]


BAD_LINES = {
    "no json": ("{image: x}", Reason.BROKEN_ENTRY, "no JSON object (Expecting"),
    "no object": ("[1, 2]", Reason.BROKEN_ENTRY, "no JSON object"),
    "endless nesting": ("[" * 100_000, Reason.BROKEN_ENTRY, "recursion"),
    "cut off": ('{"image": "0.png", "capt', Reason.BROKEN_ENTRY, "Unterminated string"),
    "nothing in it": ("{}", Reason.MISSING_IMAGE, "neither an image nor a caption"),
    "caption of numbers": ('{"image": "0.png", "captions": [1]}', Reason.BROKEN_ENTRY, "captions"),
    "caption of half a pair": (
        '{"caption": "\\ud83e"}',
        Reason.INVALID_TEXT,
        "caption is no UTF-8",
    ),
    "field of half a pair": ('{"caption": "x", "a": "\\ud83e"}', Reason.INVALID_TEXT, "a is no"),
    "name of half a pair": ('{"caption": "x", "\\ud83e": 1}', Reason.INVALID_TEXT, "name is no"),
    "missing image": ('{"image": "none.png", "caption": "x"}', Reason.MISSING_IMAGE, "not exist"),
    "impossible path": (
        '{"image": "a\\u0000b", "caption": "x"}',
        Reason.MISSING_IMAGE,
        "not exist",
    ),
    "half a path": ('{"image": "\\ud83e", "caption": "x"}', Reason.MISSING_IMAGE, "not exist"),
    "directory": ('{"image": ".", "caption": "x"}', Reason.MISSING_IMAGE, "is no file"),
    "address": ('{"image": "https://a/b.jpg"}', Reason.MISSING_IMAGE, "downloaded first"),
    "empty image": ('{"image": "empty.png", "caption": "x"}', Reason.EMPTY_IMAGE, "0 bytes"),
    "no path": ('{"image": 3, "caption": "x"}', Reason.BROKEN_ENTRY, "is no path"),
    "wrong label": ('{"image": "0.png", "label": {}}', Reason.BROKEN_ENTRY, "label is no string"),
    "not downloaded": (
        '{"url": "u", "status": "failed_to_download", "error_message": "HTTP Error 404"}',
        Reason.NOT_DOWNLOADED,
        "HTTP Error 404",
    ),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_bad_lines_are_dropped_by_reason_and_end_nothing(tmp_path, kind):
    line, reason, detail = BAD_LINES[kind]
    path = write_jsonl(tmp_path, [GOOD, line, GOOD])
    (tmp_path / "empty.png").write_bytes(b"")
    first, dropped, last = read(path)
    assert len(examples_of([first, last])) == 2
    assert reasons([dropped]) == [reason]
    assert dropped.location == f"{path}:2"
    assert detail in dropped.detail
    assert len(dropped.detail) < 300
    (dropped.location + dropped.detail).encode()


def test_text_in_another_encoding_is_dropped(tmp_path):
    path = write_jsonl(tmp_path, [GOOD])
    path.write_bytes(path.read_bytes() + '{"caption": "café"}\n'.encode("latin-1"))
    assert reasons(read(path)) == [Reason.INVALID_TEXT]


def test_half_an_example_is_left_to_the_reader(tmp_path):
    only_text, only_image = {"caption": "x" * 200_000}, {"image": "0.png"}
    text, image = examples_of(read(write_jsonl(tmp_path, [only_text, only_image])))
    assert (text.read_image, text.captions) == (None, ("x" * 200_000,))
    assert image.read_image is not None
    assert image.captions == ()


def test_several_files_have_ids_of_their_own(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder, [GOOD, GOOD | {"id": "mine"}])
    found = examples_of(read(f"{tmp_path}/{{a,b}}/pairs.jsonl"))
    assert [entry.id for entry in found] == ["a/pairs/00000001", "mine", "b/pairs/00000001", "mine"]


def test_fields_of_other_names(tmp_path):
    row = {"file_name": "0.png", "text": "main", "alt": ["other", "main "], "nr": 5, "image": "far"}
    (tmp_path / "0.png").write_bytes(b"picture")
    path = tmp_path / "metadata.jsonl"
    path.write_text(json.dumps(row))
    names = FieldNames(image="file_name", captions=("text", "alt"), id="nr")
    (found,) = examples_of(read(path, names=names))
    assert (found.id, found.captions) == ("5", ("main", "other"))
    assert found.read_image is not None
    assert found.read_image() == b"picture"
    assert found.metadata == {"source_image": "far"}  # records have an image of their own
    with pytest.raises(InputError, match="no field 'photo'; its fields are file_name, text, alt"):
        read(path, names=FieldNames(image="photo"))
