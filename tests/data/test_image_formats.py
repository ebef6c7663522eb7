"""One list of formats: an image file is read everywhere, or dropped with the reason."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from oner_jax.data import image_files, image_formats
from oner_jax.data.ingestion.conversion import convert
from oner_jax.data.ingestion.options import ConversionOptions
from oner_jax.data.records import Record
from oner_jax.data.sources import RawExample, Unread, entries_of, open_source
from tests.data.samples import encoded, on_white, picture

READ = [
    (name, ending)
    for name, endings in image_formats.FORMATS.items()
    if name in image_formats.known_formats()
    for ending in endings
]

# What a telephone's file begins with; the rest does not matter where nothing can read it.
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def image_file(name: str) -> bytes:
    """A picture of this format; its other picture does not count."""
    extra = {"append_images": [Image.new("RGB", (24, 24))]} if name == "MPO" else {}
    return encoded(picture(1), name, **extra)


def test_the_endings_are_those_that_pillow_knows():
    Image.init()
    known = Image.registered_extensions()
    for name, ending in READ:
        assert known[f".{ending}"] == name
    # Floats of no fixed range are no levels.
    missing = {e for e, name in known.items() if name in image_formats.FORMATS} - {
        f".{ending}" for ending in image_formats.ENDINGS
    }
    assert missing <= {".pfm"}


def folder(root, files):
    """A folder of these files."""
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def archive(root, files):
    """A tar archive of these files."""
    with tarfile.open(root / "0.tar", "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return root / "0.tar"


SOURCES = {"folder": folder, "webdataset": archive}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_image_file_becomes_a_record(tmp_path, kind):
    files = {}
    for number, (name, ending) in enumerate(READ):
        files[f"{number:02d}.{ending.upper() if number % 2 else ending}"] = image_file(name)
        files[f"{number:02d}.txt"] = f"picture {number}".encode()
    unread = Unread()
    parts = open_source(str(SOURCES[kind](tmp_path, files)), kind, examples_per_part=1000)
    found = [entry for part in parts for entry in entries_of(part, unread)]
    assert len(found) == len(READ)
    assert not unread
    for entry, (name, ending) in zip(found, READ, strict=True):
        assert isinstance(entry, RawExample)
        record = convert(entry, ConversionOptions()).result
        assert isinstance(record, Record), (ending, record)
        # The API's decoder reads the same picture.
        seen = image_files.file_pixels(image_file(name), 24).astype(int)
        assert np.abs(on_white(record.image) - seen).mean() < 8, ending


@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_not_read_is_counted_by_ending(tmp_path, kind):
    files = {
        "a.jpg": image_file("JPEG"),
        "a.txt": b"text",
        "a.svg": b"<svg/>",
        "b.jxl": b"\xff\x0a",
        "b.jpg": image_file("JPEG"),
        "b.txt": b"text",
        "c.psd": b"8BPS",
    }
    unread = Unread()
    for part in open_source(str(SOURCES[kind](tmp_path, files)), kind, examples_per_part=1):
        list(entries_of(part, unread))
    assert unread == {".svg": 1, ".jxl": 1, ".psd": 1}


def test_a_missing_reader_is_the_reason_and_says_what_to_install(monkeypatch):
    monkeypatch.setattr(image_formats, "known_formats", lambda: ["JPEG"])
    with pytest.raises(image_files.UnfitImage, match=r"HEIF cannot be read.*oner_jax\[heif\]"):
        image_files.open_image(HEIC)


def test_heic_is_read_where_pillow_heif_is_installed():
    pytest.importorskip("pillow_heif")
    assert "HEIF" in image_formats.known_formats()
    file = encoded(picture(2, 40, 40), "HEIF", quality=95)
    stored = image_files.stored_image(file, image_files.ImageOptions())
    assert np.abs(on_white(stored.encoded).astype(int) - picture(2, 40, 40)).mean() < 8
