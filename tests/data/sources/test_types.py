"""What people write where a text is meant, and how they name files: nothing of it is lost."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oner_jax.data.ingestion.conversion import convert
from oner_jax.data.ingestion.options import ConversionOptions
from oner_jax.data.sources import Dropped, Options, Reason, Unread, entries_of, open_source
from oner_jax.data.sources.fields import FieldNames, example_of
from oner_jax.data.sources.raw import RawExample
from oner_jax.data.tokenizer import is_blank
from oner_jax.errors import InputError
from tests.data.samples import encoded, picture
from tests.data.sources.test_tar_members import archive
from tests.data.sources.written import examples_of, read

IMAGE = encoded(picture(0), "JPEG")

TYPES = [
    ("x", "x"),
    (12, "12"),
    (12.0, "12"),
    (-0.5, "-0.5"),
    (1e300, "1e+300"),
    (float("nan"), ""),
    (None, ""),
    (True, "true"),
    (False, "false"),
    ([], ""),
    (["cat"], "cat"),
    ([7.0], "7"),
    (["cat", "dög"], '["cat", "dög"]'),
    ([1, [2]], "[1, [2]]"),
]


@pytest.mark.parametrize(("value", "text"), TYPES, ids=[repr(value) for value, _ in TYPES])
def test_ids_labels_and_splits_of_any_type(value, text):
    fields = {"image": IMAGE, "caption": "a", "id": value, "label": value, "split": value}
    names = FieldNames("image", ("caption",), "id")
    entry = example_of(fields, names, location="", default_id="default", directory="")
    assert isinstance(entry, RawExample)
    assert (entry.id, entry.label, entry.split) == (text or "default", text, text)


def test_a_column_of_numbers_with_gaps(tmp_path):
    columns = {"image": [IMAGE] * 3, "caption": ["a", "b", "c"], "id": pa.array([1.0, None, 3.0])}
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    assert [entry.id for entry in examples_of(read(tmp_path))] == ["1", "00000002", "3"]


def write_tar(tmp_path, members, name="0.tar"):
    """An archive of these members, given as pairs or as names that begin with what they are."""
    (tmp_path / name).write_bytes(archive(members))
    return tmp_path / name


def pair(key):
    """An image and its text."""
    return [(f"{key}.jpg", IMAGE), (f"{key}.txt", f"text of {key}".encode())]


DOTTED = {
    "versions": ["shop.v1.0", "shop.v1.1", "shop.v2.0", "photo.2019.05.01"],
    "numbers": [f"image.{n}" for n in range(6)],
    "a key and longer ones": ["shop", "shop.v2", "shop.v3"],
    "more than are kept at once": [f"all.{n:04d}" for n in range(400)],
    "folders": ["a.b/shop.1", "a.b/shop.2", "c/shop.1"],
}


@pytest.mark.parametrize("kind", DOTTED)
def test_dots_in_the_keys_of_an_archive(tmp_path, kind):
    keys = DOTTED[kind]
    found = read(write_tar(tmp_path, [member for key in keys for member in pair(key)]))
    assert sorted((entry.id, entry.captions) for entry in examples_of(found)) == sorted(
        (key, (f"text of {key}",)) for key in keys
    )
    assert len(found) == len(keys)


def test_a_cut_through_dotted_keys(tmp_path):
    content = archive([*pair("shop.1"), *pair("shop.2"), *pair("shop.3")])
    place = content.index(b"shop.3.txt")
    (tmp_path / "0.tar").write_bytes(content[: place + 512 + 4])
    found = read(tmp_path / "0.tar")
    assert [entry.id for entry in examples_of(found)] == ["shop.1", "shop.2"]
    assert {entry.reason for entry in found if isinstance(entry, Dropped)} == {
        Reason.TRUNCATED_ARCHIVE
    }
    assert any(entry.location.endswith("shop.3") for entry in found)


def test_masks_stay_with_their_picture(tmp_path):
    members = [("a.jpg", IMAGE), ("a.seg.png", IMAGE), ("a.txt", b"text"), ("a.v1.npy", b"")]
    unread = Unread()
    (part,) = open_source(str(write_tar(tmp_path, members)), examples_per_part=1)
    (entry,) = entries_of(part, unread)
    assert isinstance(entry, RawExample)
    assert (entry.id, entry.captions) == ("a", ("text",))
    assert unread == {"*.png": 1, "*.npy": 1}


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz", "0.tgz"])
@pytest.mark.parametrize("compressed", [True, False])
def test_compression_is_seen_from_the_bytes(tmp_path, name, compressed):
    path = write_tar(tmp_path, [*pair("a"), *pair("b")], name)
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert [entry.id for entry in examples_of(read(path))] == ["a", "b"]


def folder(tmp_path, members):
    """A folder of these files."""
    for name, content in members:
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("write", [write_tar, folder])
def test_a_text_of_several_lines(tmp_path, write):
    source = write(tmp_path, [("a.jpg", IMAGE), ("a.txt", b"one\r\n\ntwo, more\none\n")])
    (whole,) = examples_of(read(source))
    assert whole.captions == ("one\r\n\ntwo, more\none",)
    (lines,) = examples_of(read(source, options=Options(lines="captions")))
    assert lines.captions == ("one", "two, more")


def test_lines_are_for_texts_beside_images(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,caption\n")
    with pytest.raises(InputError, match="--lines: is for webdataset, folder; the format here is"):
        read(tmp_path / "pairs.csv", options=Options(lines="captions"))


@pytest.mark.parametrize("write", [write_tar, folder])
@pytest.mark.parametrize("name", ["text", "TEXT", "alt_text", "caption", "captions"])
def test_a_caption_in_the_json(tmp_path, write, name):
    described = json.dumps({name: "a red car", "url": "https://example.org"}).encode()
    source = write(tmp_path, [("a.jpg", IMAGE), ("a.json", described)])
    (entry,) = examples_of(read(source))
    if name.startswith("caption"):
        assert entry.captions == ("a red car",)
        return
    dropped = convert(entry, ConversionOptions()).result
    assert isinstance(dropped, Dropped)
    assert dropped.reason == Reason.MISSING_CAPTION
    assert (
        f"but {name}; if one of these is the caption, give --caption_field=NAME" in dropped.detail
    )
    (entry,) = examples_of(read(source, names=FieldNames(captions=(name,))))
    assert entry.captions == ("a red car",)


UNSEEN = [
    "",
    " \n",
    "\u200b",
    "\ufeff \u2060\u00ad",
    "\u200d\ufe0f",
    "\u2800",
    "\u3164\u115f",
    "\x00\x1b",
]


@pytest.mark.parametrize("text", UNSEEN, ids=map(ascii, UNSEEN))
def test_what_nobody_sees_is_no_caption(tmp_path, text):
    assert is_blank(text)
    source = folder(tmp_path, [("a.jpg", IMAGE), ("a.txt", text.encode())])
    (entry,) = examples_of(read(source))
    assert entry.captions == ()


@pytest.mark.parametrize(
    "text", ["a", "\u200ba", "é", "e\u0301", "日", "🦊", "❤\ufe0f", ".", "\ue000"]
)
def test_what_is_seen_is_not_blank(text):
    assert not is_blank(text)
