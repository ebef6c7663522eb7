import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from oner_jax.data import images
from oner_jax.data.image_files import ImageOptions, stored_image
from tests.data.samples import encoded, on_white, picture

OPTIONS = ImageOptions(maximum_side=64)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_fitting_files_keep_their_bytes(image_format):
    file = encoded(picture(0, 30, 64), image_format)
    stored = stored_image(file, OPTIONS)
    assert (stored.encoded, stored.height, stored.width) == (file, 30, 64)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_large_files_shrink(image_format):
    pixels = picture(1, 100, 200)
    stored = stored_image(encoded(pixels, image_format), OPTIONS)
    assert (stored.height, stored.width) == (32, 64)
    assert stored.encoded[:2] == (b"\xff\xd8" if image_format == "JPEG" else b"RI")
    expected = np.asarray(Image.fromarray(pixels).resize((64, 32), Image.Resampling.LANCZOS))
    assert np.abs(on_white(stored.encoded).astype(int) - expected).mean() < 4
    images.check_decodes(stored.encoded, stored.height, stored.width)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    file = encoded(picture(2, 20, 40), "JPEG", exif=exif, quality=95)
    stored = stored_image(file, OPTIONS)
    assert (stored.height, stored.width) == (40, 20)
    expected = np.rot90(on_white(file), k=-1).astype(int)
    assert np.abs(on_white(stored.encoded) - expected).mean() < 4
    images.check_decodes(stored.encoded, stored.height, stored.width)


def odd_files() -> dict[str, bytes]:
    rgb, other = Image.fromarray(picture(3)), Image.fromarray(picture(4))
    see_through = rgb.quantize(8, dither=Image.Dither.NONE)
    return {
        "gif": encoded(rgb.quantize(64), "GIF"),
        "png four bits": encoded(see_through, "PNG"),
        "png one bit": encoded(rgb.convert("1", dither=Image.Dither.NONE), "PNG"),
        "gif animated": encoded(rgb, "GIF", save_all=True, append_images=[other]),
        "gif transparent": encoded(see_through, "GIF", transparency=2),
        "webp animated": encoded(rgb, "WEBP", save_all=True, append_images=[other]),
        "bmp palette": encoded(see_through, "BMP"),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
    }


@pytest.mark.parametrize("kind", odd_files())
def test_odd_files_become_their_first_picture(kind):
    file = odd_files()[kind]
    stored = stored_image(file, OPTIONS)
    assert np.abs(on_white(stored.encoded).astype(int) - on_white(file)).mean() < 8
    images.check_decodes(stored.encoded, stored.height, stored.width)


def test_sixteen_bits_of_grey_become_eight():
    levels = picture(7, 100, 100, channels=1)[..., 0]
    stored = stored_image(encoded(levels.astype(np.uint16) * 257, "PNG"), OPTIONS)
    expected = Image.fromarray(levels).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.abs(on_white(stored.encoded)[..., 0].astype(int) - np.asarray(expected)).mean() < 4


def test_padding_keeps_all_of_the_picture_on_a_square():
    pixels = picture(5, 20, 50)
    stored = stored_image(encoded(pixels, "PNG"), ImageOptions(64, pad_to_square=True))
    assert stored.height == stored.width == 50
    alpha = np.asarray(Image.open(io.BytesIO(stored.encoded)))[..., 3]
    assert np.array_equal(alpha.any(axis=1), (np.arange(50) >= 15) & (np.arange(50) < 35))
    middle = on_white(stored.encoded)[15:35].astype(int)
    assert np.abs(middle - pixels).mean() < 4
    images.check_decodes(stored.encoded, stored.height, stored.width)


def png_claiming(width: int, height: int) -> bytes:
    """A small PNG file whose header promises many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + encoded(picture(0), "PNG")[33:]


@pytest.mark.parametrize("side", [9_000, 100_000])
def test_bombs_are_refused_before_decoding(side):
    with pytest.raises(ValueError, match="pixels"):
        stored_image(png_claiming(side, side), OPTIONS)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_damaged_files_are_refused(image_format):
    file = encoded(picture(6, 50, 50), image_format)
    for damaged in (file[: len(file) // 2], b"", b"<html>not found</html>"):
        with pytest.raises(ValueError, match=r"\w"):
            stored_image(damaged, OPTIONS)
