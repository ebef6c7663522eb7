import json
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oner_jax.data.sources import FieldNames, Reason, folder, open_source
from oner_jax.data.sources.layout import find
from oner_jax.errors import InputError
from tests.data.samples import encoded, picture
from tests.data.sources.written import entries, examples_of, read, reasons

IMAGE = encoded(picture(0), "JPEG")


def write(root, files):
    """Files below a folder; text is encoded."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_images_and_texts_of_one_name_belong_together(tmp_path):
    write(
        tmp_path,
        {
            "b.jpg": IMAGE,
            "b.txt": "second\n",
            "a/deep/er.v2.JPG": IMAGE,
            "a/deep/er.v2.txt": "\ufefffirst, in\ntwo lines",
            "a/deep/er.v1.png": IMAGE,
            "c.webp": IMAGE,
            "c.caption": "third",
            "c.json": json.dumps({"license": "cc", "captions": ["third", "3rd"], "label": "c"}),
            "notes.md": "nothing",
            "statistics.json": "{}",
            ".hidden.jpg": IMAGE,
            ".cache/x.jpg": IMAGE,
        },
    )
    for size in (1, 3, 100):
        found = examples_of(read(tmp_path, examples_per_part=size))
        assert [(entry.id, entry.captions) for entry in found] == [
            ("a/deep/er.v1", ()),
            ("a/deep/er.v2", ("first, in\ntwo lines",)),
            ("b", ("second",)),
            ("c", ("third", "3rd")),
        ]
        assert all(entry.read_image and entry.read_image() == IMAGE for entry in found)
        assert (found[3].label, found[3].metadata) == ("c", {"license": "cc"})
        assert found[1].location == f"{tmp_path}/a/deep/er.v2"


def test_texts_alone_and_images_of_one_name(tmp_path):
    write(tmp_path, {"a.txt": "text", "b.jpg": IMAGE, "b.png": IMAGE, "b.txt": "of both"})
    write(tmp_path, {"c.JPG": IMAGE, "c.jpg": IMAGE, "c.txt": "of one"})
    found = examples_of(read(tmp_path, "folder"))
    assert found[0].read_image is None
    assert [entry.id for entry in found] == ["a", "b", "b", "c", "c"]


BAD_FILES: dict[str, tuple[dict[str, Any], Reason]] = {
    "text in latin-1": ({"x.jpg": IMAGE, "x.txt": b"caf\xe9"}, Reason.INVALID_TEXT),
    "empty image": ({"x.jpg": b"", "x.txt": "text"}, Reason.EMPTY_IMAGE),
    "broken JSON": ({"x.jpg": IMAGE, "x.txt": "text", "x.json": "{"}, Reason.BROKEN_ENTRY),
    "not downloaded": (
        {"x.jpg": IMAGE, "x.json": '{"status": "failed", "error_message": "no"}'},
        Reason.NOT_DOWNLOADED,
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_dropped_by_reason_and_end_nothing(tmp_path, kind):
    files, reason = BAD_FILES[kind]
    write(tmp_path, {"a.jpg": IMAGE, "a.txt": "a", **files, "y.jpg": IMAGE, "y.txt": "y"})
    found = read(tmp_path)
    assert [entry.id for entry in examples_of(found)] == ["a", "y"]
    assert reasons(found) == [reason]
    assert found[1].location == f"{tmp_path}/x"


def test_empty_texts_are_no_captions(tmp_path):
    write(tmp_path, {"a.jpg": IMAGE, "a.txt": " \n"})
    (found,) = examples_of(read(tmp_path))
    assert found.captions == ()


def test_links(tmp_path):
    write(tmp_path / "elsewhere", {"a.jpg": IMAGE, "a.txt": "linked folder"})
    write(tmp_path / "data", {"b.jpg": IMAGE, "b.txt": "b", "d.jpg": IMAGE})
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "a")
    os.symlink(tmp_path / "data", tmp_path / "data" / "circle")
    os.symlink(tmp_path / "nowhere.jpg", tmp_path / "data" / "c.jpg")
    os.symlink(tmp_path / "nowhere.txt", tmp_path / "data" / "d.txt")
    write(tmp_path / "data", {"c.txt": "its image is missing"})
    found = read(tmp_path / "data")
    assert [entry.id for entry in examples_of(found)] == ["a/a", "b"]
    assert reasons(found) == [Reason.MISSING_IMAGE, Reason.MISSING_CAPTION]


def test_a_name_that_is_no_utf8(tmp_path):
    write(tmp_path, {"a.jpg": IMAGE, "a.txt": "a"})
    for ending, content in ((b"jpg", IMAGE), (b"txt", b"text")):
        with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9." + ending), "wb") as file:
            file.write(content)
    found = read(tmp_path)
    assert [entry.id for entry in examples_of(found)] == ["a"]
    assert reasons(found) == [Reason.INVALID_TEXT]
    found[1].location.encode()


def test_what_vanishes_later_is_dropped(tmp_path):
    write(tmp_path, {"a.jpg": IMAGE, "a.txt": "a", "b.jpg": IMAGE, "b.txt": "b"})
    parts = open_source(str(tmp_path), examples_per_part=10)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.txt").unlink()
    assert reasons(entries(parts)) == [Reason.MISSING_IMAGE, Reason.MISSING_CAPTION]


def test_img2datasets_folders_and_their_logs(tmp_path):
    described = {"key": "000000000", "url": "https://a", "status": "success", "error_message": None}
    write(
        tmp_path,
        {
            "00000/000000000.jpg": IMAGE,
            "00000/000000000.txt": "kept",
            "00000/000000000.json": json.dumps(described | {"caption": "kept", "height": 5}),
            "00000_stats.json": "{}",
        },
    )
    lost = {"key": "000000001", "status": "failed_to_download", "error_message": "timed out"}
    pq.write_table(pa.Table.from_pylist([described, lost]), tmp_path / "00000.parquet")
    kept, dropped = read(tmp_path)
    assert examples_of([kept])[0].metadata == {"url": "https://a"}
    assert (kept.id, kept.captions) == ("000000000", ("kept",))
    assert reasons([dropped]) == [Reason.NOT_DOWNLOADED]
    assert dropped.detail == "timed out"


def test_names_choose_among_endings_and_fields(tmp_path):
    described = json.dumps({"title": "main", "nr": 3})
    write(tmp_path, {"a.png": b"mask", "a.jpg": IMAGE, "a.txt": "tags", "a.json": described})
    names = FieldNames(image="jpg", captions=("title", "txt"), id="nr")
    (found,) = examples_of(read(tmp_path, names=names))
    assert (found.id, found.captions) == ("3", ("main", "tags"))
    assert found.read_image is not None
    assert found.read_image() == IMAGE


def test_which_folders_are_recognised(tmp_path):
    write(tmp_path / "classes", {"cat/1.jpg": IMAGE, "dog/2.jpg": IMAGE, "README.txt": "about"})
    write(tmp_path / "texts", {"x/1.jpg": IMAGE, "x/1.txt": "one"})
    assert not folder.recognises(find(str(tmp_path / "classes")))
    assert folder.recognises(find(str(tmp_path / "texts")))
    assert not folder.recognises(find(str(tmp_path / "texts" / "x" / "1.jpg")))
    with pytest.raises(InputError, match="is no directory"):
        read(tmp_path / "texts" / "x" / "1.jpg", "folder")
