"""Metadata do not cost the picture; damage to the picture itself still does."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from oner_jax.data import images
from oner_jax.data.bare_images import without_metadata
from oner_jax.data.boxes import read_boxes
from oner_jax.data.image_files import (
    ImageOptions,
    UnfitImage,
    file_pixels,
    open_image,
    stored_image,
)
from tests.data.samples import encoded, on_white, picture

PIXELS = picture(3, 40, 40)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_with(extra: bytes, before: bytes = b"IDAT", image=PIXELS) -> bytes:
    """A PNG with this chunk before that one."""
    file = encoded(image, "PNG")
    place = file.index(before) - 4
    return file[:place] + extra + file[place:]


def with_exif(exif: bytes, image_format: str) -> bytes:
    """A picture whose EXIF is these bytes."""
    extra = {"append_images": [Image.new("RGB", (9, 9))]} if image_format == "MPO" else {}
    quality = {} if image_format == "PNG" else {"quality": 95}
    # With a resolution of its own, Pillow does not look into a JPEG's EXIF until it is asked to.
    return encoded(PIXELS, image_format, exif=exif, dpi=(72, 72), **extra, **quality)


def broken(good: bytes) -> bytes:
    """A chunk with another checksum."""
    return good[:-1] + bytes([good[-1] ^ 1])


NO_TIFF = b"Exif\0\0this is no TIFF"
LONG = zlib.compress(b"x" * 3_000_000)
FILES = {
    **{f"EXIF of {kind}": with_exif(NO_TIFF, kind) for kind in ("JPEG", "PNG", "WEBP", "MPO")},
    "EXIF of JPEG cut": with_exif(b"Exif\0\0II*\0\x08\0\0\0\xff\xff", "JPEG"),
    "EXIF of AVIF": with_exif(b"II*\0\x08\0\0\0\0\0", "AVIF").replace(b"II*\0", b"no*\0"),
    "long profile": png_with(chunk(b"iCCP", b"name\0\0" + LONG)),
    "long zTXt": png_with(chunk(b"zTXt", b"name\0\0" + LONG)),
    "long iTXt": png_with(chunk(b"iTXt", b"name\0\1\0\0\0" + LONG)),
    "long text at the end": png_with(chunk(b"zTXt", b"name\0\0" + LONG), before=b"IEND"),
    "checksum of text": png_with(broken(chunk(b"tEXt", b"name\0text"))),
    "checksum of gamma": png_with(broken(chunk(b"gAMA", struct.pack(">I", 45455)))),
    "checksum at the end": png_with(broken(chunk(b"tIME", bytes(7))), before=b"IEND"),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_reader_has_the_picture(tmp_path, kind):
    file = FILES[kind]
    assert np.abs(file_pixels(file, 40).astype(int) - PIXELS).mean() < 4
    for options in (ImageOptions(), ImageOptions(pad_to_square=True), ImageOptions(20)):
        stored = stored_image(file, options)
        images.check_decodes(stored.encoded, stored.height, stored.width)
        expected = Image.fromarray(PIXELS).resize((stored.width, stored.height))
        assert np.abs(on_white(stored.encoded).astype(int) - np.asarray(expected)).mean() < 6
    (tmp_path / "picture").write_bytes(file)
    (tmp_path / "boxes.jsonl").write_text(
        json.dumps({"image": "picture", "phrase": "it", "box": [1, 1, 5, 5]})
    )
    boxes = read_boxes(tmp_path / "boxes.jsonl", 40)
    assert np.abs(np.asarray(boxes.picture(0)).astype(int) - PIXELS).mean() < 4


def test_metadata_that_can_be_read_are_heeded():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png_with(broken(chunk(b"tEXt", b"a\0b")) + chunk(b"eXIf", exif.tobytes()[6:]))
    assert np.array_equal(file_pixels(turned, 40), np.rot90(PIXELS, k=-1))
    stored = stored_image(turned, ImageOptions())
    assert np.abs(on_white(stored.encoded).astype(int) - np.rot90(PIXELS, k=-1)).mean() < 6
    palette = Image.fromarray(PIXELS).quantize(8)
    palette.info["transparency"] = 2
    see_through = png_with(broken(chunk(b"tEXt", b"a\0b")), image=palette)
    assert np.array_equal(np.asarray(open_image(see_through)), np.asarray(palette))
    assert open_image(see_through).info["transparency"] == 2


def test_the_rest_of_the_file_is_as_it_was():
    file = encoded(PIXELS, "PNG")
    assert without_metadata(file) is None
    assert without_metadata(png_with(chunk(b"tEXt", b"a\0b"))) == file
    assert without_metadata(encoded(PIXELS, "JPEG")) is None


@pytest.mark.parametrize("damage", ["checksum", "cut", "cut in the text", "no end"])
def test_damage_to_the_picture_is_no_metadata(damage):
    file = png_with(broken(chunk(b"tEXt", b"name\0" + bytes(100))))
    place = file.index(b"IDAT")
    damaged = {
        "checksum": file[: place + 20] + bytes([file[place + 20] ^ 1]) + file[place + 21 :],
        "cut": file[: place + 200],
        "cut in the text": file[: file.index(b"tEXt") + 30],
        "no end": file[:-12],
    }[damage]
    if damage == "no end":  # all of the picture is there, and Pillow takes it; not so with the text
        Image.open(io.BytesIO(encoded(PIXELS, "PNG")[:-12])).load()
    with pytest.raises(UnfitImage):
        open_image(damaged)
