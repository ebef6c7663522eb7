import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from oner_jax.data import images
from oner_jax.data.host_tensorflow import tf
from tests.data.samples import encoded, on_white, picture

SIZE = 16


def decode(file: bytes, box, size: int = SIZE, mirror: bool = False) -> np.ndarray:
    box = tf.constant(box, tf.int32)
    return images.decode_crop_resize(tf.constant(file), box, tf.constant(mirror), size).numpy()


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
