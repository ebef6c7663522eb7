import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from oner_jax.data import images
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.image_files import ImageOptions, stored_image
from oner_jax.data.reading.decoding import decoder
from oner_jax.data.timing.photos import photo
from tests.data.samples import encoded, on_white, picture

SIZE = 16


def decode(file: bytes, box, size: int = SIZE, mirror: bool = False) -> np.ndarray:
    """As a graph, like training's: there the order of operations is theirs to choose."""
    return decoder(size)(file, tf.constant(box, tf.int32), mirror).numpy()


def files() -> dict[str, bytes]:
    """One file of every kind that a record may hold, all 16 x 16."""
    rgb = Image.fromarray(picture(1, SIZE, SIZE))
    rgba = Image.fromarray(picture(2, SIZE, SIZE, channels=4))
    grey, palette = rgb.convert("L"), rgb.quantize(200)
    deep = Image.fromarray(picture(3, SIZE, SIZE, channels=1)[..., 0].astype(np.uint16) * 257)
    return {
        "jpeg": encoded(rgb, "JPEG", quality=95),
        "jpeg grey": encoded(grey, "JPEG", quality=95),
        "jpeg progressive": encoded(rgb, "JPEG", quality=95, progressive=True),
        "png": encoded(rgb, "PNG"),
        "png alpha": encoded(rgba, "PNG"),
        "png grey": encoded(grey, "PNG"),
        "png grey alpha": encoded(rgba.convert("LA"), "PNG"),
        "png palette": encoded(palette, "PNG"),
        "png palette alpha": encoded(palette, "PNG", transparency=3),
        "webp": encoded(rgb, "WEBP", quality=90),
        "webp lossless": encoded(rgb, "WEBP", lossless=True),
        "webp alpha": encoded(rgba, "WEBP", quality=90),
        "webp lossless alpha": encoded(rgba, "WEBP", lossless=True),
        "png 16 bit": encoded(deep, "PNG"),
    }


@pytest.mark.parametrize("kind", files())
def test_decodes_as_pillow_does(kind):
    file = files()[kind]
    expected = on_white(file)
    if kind == "png 16 bit":  # Pillow clips 16 bits to 8 where TensorFlow scales them.
        high = np.asarray(Image.open(io.BytesIO(file)), np.uint16) // 257
        expected = np.repeat(high[..., None], 3, axis=-1)
    assert np.abs(decode(file, [0, 0, SIZE, SIZE]).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_crops_and_mirrors(image_format):
    options = {"quality": 95} if image_format == "JPEG" else {"lossless": True}
    file = encoded(picture(4, 40, 48), image_format, **options)
    top, left, height, width = box = [8, 16, 16, 16]
    whole = on_white(file).astype(int)
    crop = decode(file, box)
    error = np.abs(crop - whole[top : top + height, left : left + width])
    # At the edge of a box, JPEG's coarser colours are interpolated without the pixels beyond it.
    assert error[1:-1, 1:-1].max() <= 1
    assert error.max() <= (16 if image_format == "JPEG" else 0)
    assert np.array_equal(decode(file, box, mirror=True), crop[:, ::-1])


def test_shrinking_is_the_mean_over_areas():
    pixels = np.random.default_rng(5).integers(0, 256, (45, 60, 3), np.uint8)
    crop = pixels[5:40, 10:55].astype(np.float64)
    # Exactly: repeat pixels until the output's grid falls between them, then average.
    repeated = crop.repeat(SIZE, axis=0).repeat(SIZE, axis=1)
    expected = repeated.reshape(SIZE, 35, SIZE, 45, 3).mean(axis=(1, 3))
    found = decode(encoded(pixels, "PNG"), [5, 10, 35, 45])
    assert np.abs(found - expected).max() < 0.51


def test_enlarging_is_antialiased_linear():
    pixels = picture(6, 20, 12)
    expected = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    found = decode(encoded(pixels, "PNG"), [0, 0, 20, 12])
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2


def test_hidden_colours_do_not_bleed():
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 0] = 255  # red, all of it transparent but the black right half
    pixels[:, 16:] = (0, 0, 0, 255)
    shrunk = decode(encoded(pixels, "PNG"), [0, 0, 32, 32])
    assert np.array_equal(shrunk[:, :8], np.full((SIZE, 8, 3), 255))
    assert not shrunk[:, 8:].any()


def test_pngs_of_few_bits_are_refused():
    for image in (
        Image.fromarray(picture(1)).quantize(16),
        Image.fromarray(picture(1)).convert("1"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="fewer than 8"):
            decode(encoded(image, "PNG"), [0, 0, 24, 24])


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "webp alpha"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "box"])
def test_damage_raises(kind, damage):
    file, box = files()[kind], [0, 0, SIZE, SIZE]
    if damage == "truncated":
        file = file[: len(file) // 2]
    elif damage == "empty":
        file = b""
    elif damage == "foreign":
        file = encoded(picture(1), "BMP")
    else:
        box = [8, 8, SIZE, SIZE]
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(file, box)


def any_files() -> dict[str, bytes]:
    """Files of the kinds that people have, all 48 x 48, and more than training itself reads."""
    rgb = Image.fromarray(picture(1, 48, 48))
    rgba = Image.fromarray(picture(2, 48, 48, channels=4))
    few = rgb.quantize(8, dither=Image.Dither.NONE)
    palette = few.getpalette() or []
    turned = {}
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"quality": 95})):
            turned[f"{kind} turned {orientation}"] = encoded(rgb, kind, exif=exif, **options)
    return {
        "jpeg": encoded(rgb, "JPEG", quality=95),
        "jpeg 4:4:4": encoded(rgb, "JPEG", quality=95, subsampling=0),
        "jpeg grey": encoded(rgb.convert("L"), "JPEG", quality=95),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
        "jpeg progressive": encoded(rgb, "JPEG", quality=95, progressive=True),
        "png alpha": encoded(rgba, "PNG"),
        "png grey alpha": encoded(rgba.convert("LA"), "PNG"),
        "png palette": encoded(rgb.quantize(200), "PNG"),
        "png palette alpha": encoded(few, "PNG", transparency=3, bits=8),
        "png four bits": encoded(few, "PNG"),
        "png one bit": encoded(rgb.convert("1"), "PNG"),
        "png one colour clear": encoded(few.convert("RGB"), "PNG", transparency=tuple(palette[:3])),
        "png 16 bit colour": png_of_16_bits(2),
        "png 16 bit grey alpha": png_of_16_bits(4),
        "png 16 bit alpha": png_of_16_bits(6),
        "webp": encoded(rgb, "WEBP", quality=95),
        "webp alpha": encoded(rgba, "WEBP", quality=95),
        "webp lossless": encoded(rgba, "WEBP", lossless=True),
        "webp animated": encoded(rgb, "WEBP", save_all=True, append_images=[rgba], quality=95),
        "gif": encoded(few, "GIF"),
        "gif transparent": encoded(few, "GIF", transparency=3),
        "tiff": encoded(rgb, "TIFF"),
        **turned,
    }


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_of_16_bits(colour_type: int, side: int = 48) -> bytes:
    """A PNG that Pillow reads but does not write: 2 RGB, 4 grey and alpha, 6 RGB and alpha."""
    channels = {2: 3, 4: 2, 6: 4}[colour_type]
    levels = picture(5, side, side, channels).astype(">u2") * 257
    rows = np.concatenate(
        [np.zeros((side, 1), np.uint8), levels.view(np.uint8).reshape(side, -1)], 1
    )
    header = struct.pack(">IIBBBBB", side, side, 16, colour_type, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", any_files())
def test_what_ingest_stores_is_read_as_pillow_shows_the_file(kind):
    file = any_files()[kind]
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    stored = stored_image(file, ImageOptions(maximum_side=48, quality=95))
    found = decode(stored.encoded, [0, 0, stored.height, stored.width], size=48).astype(int)
    error = np.abs(found - np.asarray(expected))
    if stored.encoded == file:
        assert error.max() <= 1
    else:  # encoded once more, with some loss at edges
        assert error.mean() < 5


def test_sixteen_bits_of_grey_are_scaled():
    levels = picture(7, 48, 48, channels=1)
    file = encoded(Image.fromarray(levels[..., 0].astype(np.uint16) * 257), "PNG")
    stored = stored_image(file, ImageOptions(maximum_side=48))
    assert np.abs(decode(stored.encoded, [0, 0, 48, 48], size=48).astype(int) - levels).max() <= 1


def pillow_shrunk(image: Image.Image, box, size: int, filter_: Image.Resampling) -> np.ndarray:
    top, left, height, width = box
    edges = (left, top, left + width, top + height)
    return np.asarray(image.resize((size, size), filter_, box=edges), np.float64)


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_reduced_decoding_shrinks_as_well_as_whole_decoding(reduction, subsampling):
    side = 64 * reduction * 2
    file = encoded(photo(reduction, side, side), "JPEG", quality=90, subsampling=subsampling)
    whole = Image.open(io.BytesIO(file)).convert("RGB")
    as_png = encoded(whole, "PNG")
    used = False
    for oversize in (1.5, 1.75, 2.0):
        length = int(64 * reduction * oversize)
        box = [0, side - length, length, length]
        reduced, full = decode(file, box, 64).astype(float), decode(as_png, box, 64).astype(float)
        used |= np.abs(reduced - full).max() > 2
        for filter_ in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
            expected = pillow_shrunk(whole, box, 64, filter_)
            error = np.abs(reduced - expected).mean()
            assert error < 3.5
            assert error < 1.3 * np.abs(full - expected).mean()
    assert used


def test_a_jpeg_not_much_larger_is_decoded_whole():
    file = encoded(photo(3, 200, 240), "JPEG", quality=90)
    png = encoded(Image.open(io.BytesIO(file)), "PNG")
    box = [5, 3, 191, 191]  # of 64 pixels just below three times
    difference = np.abs(decode(file, box, 64).astype(int) - decode(png, box, 64))
    assert difference[1:-1, 1:-1].max() <= 1


@pytest.mark.parametrize("side", [200, 403, 800, 1601])
def test_reduced_boxes_stand_where_they_were_asked_for(side):
    ramp = np.linspace(0, 255, side).round().astype(np.uint8)
    file = encoded(np.repeat(np.tile(ramp, (side, 1))[..., None], 3, -1), "JPEG", quality=95)
    width = int(0.8 * side)
    for left in range(9):
        row = decode(file, [left, left, width, width])[8, :, 0].astype(float)
        expected = (left + (np.arange(SIZE) + 0.5) * width / SIZE - 0.5) * 255 / (side - 1)
        third_of_a_pixel = width / SIZE / 3 * 255 / side
        assert np.abs(row - expected).max() < third_of_a_pixel + 1.5


def claiming(image_format: str, width: int, height: int) -> bytes:
    """A small file whose header promises many pixels."""
    small = Image.fromarray(picture(0, channels=4 if image_format == "WEBP extended" else 3))
    if image_format == "PNG":
        file = encoded(small, "PNG")
        return file[:16] + struct.pack(">II", width, height) + file[24:]
    if image_format == "JPEG":
        file = encoded(small, "JPEG")
        frame = file.index(b"\xff\xc0")
        return file[: frame + 5] + struct.pack(">HH", height, width) + file[frame + 9 :]
    if image_format == "WEBP lossy":
        file = encoded(small, "WEBP")
        return file[:26] + struct.pack("<HH", width, height) + file[30:]
    if image_format == "WEBP lossless":
        file = encoded(small, "WEBP", lossless=True)
        bits = struct.unpack("<I", file[21:25])[0] >> 28 << 28 | height - 1 << 14 | width - 1
        return file[:21] + struct.pack("<I", bits) + file[25:]
    file = encoded(small, "WEBP")
    assert file[12:16] == b"VP8X"
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return file[:24] + sides + file[30:]


WEBP_KINDS = ["WEBP lossy", "WEBP lossless", "WEBP extended"]


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", *WEBP_KINDS])
def test_bombs_are_refused_by_their_own_header(image_format):
    side = 16_000 if image_format in WEBP_KINDS else 30_000
    for sides in ((side, side), (side, 4001), (4001, side)):
        if sides[0] * sides[1] > 64_000_000:
            # What the record says of its size, which the box comes from, does not matter.
            with pytest.raises(tf.errors.InvalidArgumentError, match="more than 64,000,000"):
                decode(claiming(image_format, *sides), [0, 0, 8, 8])
    # Fewer pixels pass the header, and the file fails or is what it always was.
    unchanged = claiming(image_format, 24, 24)
    assert decode(unchanged, [0, 0, 24, 24]).shape == (SIZE, SIZE, 3)


DECODED_IN_A_PROCESS = """
import resource, sys
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.reading.decoding import decoder

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

for name in sys.argv[1:]:
    file, box = open(name, "rb").read(), tf.constant([0, 0, 9000, 9000])
    before = peak()
    try:
        decoder(16)(file, box, False)
        print("decoded", 0)
    except tf.errors.InvalidArgumentError:
        print("refused", peak() - before)
"""


def test_bombs_are_refused_before_memory_is_taken_for_them(tmp_path):
    image = Image.new("RGB", (9000, 9000))
    names = []
    for kind, options in (("PNG", {}), ("JPEG", {}), ("WEBP", {"lossless": True, "method": 0})):
        names.append(tmp_path / kind)
        names[-1].write_bytes(encoded(image, kind, **options))
    command = [sys.executable, "-c", DECODED_IN_A_PROCESS, *map(str, names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        outcome, kibibytes = line.split()
        assert outcome == "refused"
        assert int(kibibytes) < 64 * 1024  # the pixels take 232 MiB, of a PNG as RGBA 309
    assert done.stdout.count("\n") == len(names)


def test_animations_are_refused_before_all_their_pictures_are_decoded():
    first, second = (Image.fromarray(picture(seed)) for seed in (1, 2))
    file = encoded(first, "WEBP", save_all=True, append_images=[second])
    with pytest.raises(tf.errors.InvalidArgumentError, match="animated"):
        decode(file, [0, 0, 24, 24])


SIDES = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=20)


@settings(max_examples=50)
@given(sides=SIDES, minimum=st.floats(0.05, 1.0), seed=st.integers(0, 1000))
def test_random_crops_lie_inside_and_are_large_enough(sides, minimum, seed):
    heights, widths = np.array(sides).T
    uniforms = np.random.default_rng(seed).random((len(sides), 4))
    boxes = images.random_crop_boxes(heights, widths, uniforms, minimum).astype(int)
    top, left, height, width = boxes.T
    assert np.all((top >= 0) & (left >= 0) & (height >= 1) & (width >= 1))
    assert np.all((top + height <= heights) & (left + width <= widths))
    # Cut to the image, a box loses at most a third of the longer side; rounding, half a pixel each.
    assert np.all((height + 0.5) * (width + 0.5) >= minimum * heights * widths * 0.75)


def test_random_crops_cover_the_whole_image_evenly():
    uniforms = np.random.default_rng(0).random((20_000, 4))
    sides = np.full(20_000, 100)
    top, left, height, width = images.random_crop_boxes(sides, sides, uniforms, 0.5).T
    area = height * width / 100**2
    assert 0.45 < area.min() < 0.55
    assert area.max() > 0.99
    assert abs(area.mean() - 0.74) < 0.02  # uniform in [0.5, 1], less what is cut off
    # As much room is left above as below, and left as right.
    assert abs(np.mean(top) - np.mean(100 - top - height)) < 0.5
    assert abs(np.mean(left) - np.mean(100 - left - width)) < 0.5


def test_whole_image_is_its_own_crop_at_fraction_one():
    uniforms = np.array([[0.3, 0.5, 0.9, 0.9]])  # 0.5: the image's own shape
    box = images.random_crop_boxes(np.array([30]), np.array([70]), uniforms, 1.0)
    assert box.tolist() == [[0, 0, 30, 70]]


def test_centre_crop():
    boxes = images.centre_crop_boxes(np.array([10, 7, 5]), np.array([4, 7, 10]))
    assert boxes.tolist() == [[3, 0, 4, 4], [0, 0, 7, 7], [0, 2, 5, 5]]
