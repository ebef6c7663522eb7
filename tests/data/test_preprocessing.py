"""Preprocessing without TensorFlow gives what evaluation's decoder gives."""

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from oner_jax.data.image_files import UnfitImage, file_pixels
from oner_jax.data.preprocessing import encoder_pixels, on_white, resized, upright
from oner_jax.data.timing.photos import photo_file
from tests.data.samples import encoded, picture
from tests.data.test_images import any_files, decode, files


def pixels_of(file: bytes, size: int) -> np.ndarray:
    return encoder_pixels(Image.open(io.BytesIO(file)), size)


def evaluated(file: bytes, size: int) -> np.ndarray:
    """The centre crop as evaluation makes it."""
    width, height = Image.open(io.BytesIO(file)).size
    side = min(width, height)
    return decode(file, [(height - side) // 2, (width - side) // 2, side, side], size)


def assert_same_but_for_rounding(found: np.ndarray, expected: np.ndarray, share: float) -> None:
    error = np.abs(found.astype(int) - expected)
    assert error.max() <= 1
    assert (error > 0).mean() <= share


@pytest.mark.parametrize("kind", files())
@pytest.mark.parametrize("size", [7, 16, 21])
def test_every_kind_of_file_is_read_as_in_evaluation(kind, size):
    file = files()[kind]
    assert_same_but_for_rounding(pixels_of(file, size), evaluated(file, size), share=0.02)


@pytest.mark.parametrize("height", [90, 333, 480, 1000])
def test_photographs_are_read_as_in_evaluation(height):
    """At every scale that JPEG is decoded at, and of odd sizes."""
    jpeg = photo_file(height, height, 1 + height * 4 // 3)
    png = encoded(Image.open(io.BytesIO(jpeg)), "PNG")
    for size in (48, 64):
        for file in (jpeg, png):
            assert_same_but_for_rounding(pixels_of(file, size), evaluated(file, size), share=0.01)


@pytest.mark.parametrize("kind", any_files())
def test_what_people_have_is_read_upright_on_white(kind):
    file = any_files()[kind]
    size = 48
    found = pixels_of(file, size)
    whole = pixels_of(file, 24).astype(float)
    areas = found.reshape(24, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(areas - whole).max() <= 1, "a shrunk picture is the mean of the picture"
    if "turned" in kind:
        upright = encoded(picture(1, 48, 48), kind.split()[0], quality=95)
        orientation = int(kind.split()[-1])
        undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
            2: np.fliplr,
            3: lambda x: np.rot90(x, 2),
            4: np.flipud,
            5: lambda x: x.swapaxes(0, 1),
            6: lambda x: np.rot90(x, -1),
            7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
            8: np.rot90,
        }
        expected = undo[orientation](pixels_of(upright, size)).astype(int)
        assert np.abs(found - expected).mean() < 3


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.randoms(use_true_random=False)
)
def test_shrinking_is_the_mean_over_areas(more_rows, more_columns, size, random):
    """By its definition: pixels repeated until the grids meet, then averaged."""
    rows, columns = size + more_rows, size + more_columns
    levels = np.random.default_rng(random.randrange(2**32)).integers(
        0, 256, (rows, columns, 1), np.uint8
    )
    repeated = levels.astype(float).repeat(size, axis=0).repeat(size, axis=1)
    means = repeated.reshape(size, rows, size, columns).mean(axis=(1, 3))
    assert np.abs(resized(levels, size)[..., 0] - means).max() <= 0.5 + 1e-9


def test_enlarging_is_linear_between_centres():
    ramp = np.arange(4, dtype=np.uint8)[None, :, None].repeat(4, axis=0) * 40
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3) * 40
    np.testing.assert_allclose(resized(ramp, 8)[3, :, 0], np.floor(expected + 0.5))


def test_the_file_that_exports_carry_needs_numpy_and_pillow_alone():
    program = (
        "import sys, runpy; sys.path = [p for p in sys.path if p];"
        "runpy.run_path('oner_jax/data/preprocessing.py');"
        "print(sorted(sys.modules.keys() & {'oner_jax', 'jax', 'tensorflow', 'scipy'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("mode", ["F", "I"])
@pytest.mark.parametrize("level", [0.5, 255, 60_000])
def test_levels_of_no_known_range_are_refused(mode, level):
    """Pillow would cut them off at 0 and 255: a picture from 0 to 1 became black."""
    image = Image.fromarray(np.full((9, 9), level, np.float32)).convert(mode)
    for convert in (upright, on_white):
        with pytest.raises(ValueError, match=f"mode {mode} no level is known to be white"):
            convert(image)
    with pytest.raises(ValueError, match=f"mode {mode} no level is known to be white"):
        encoder_pixels(image, 4)
    with pytest.raises(UnfitImage, match=f"mode {mode} no level is known to be white"):
        file_pixels(encoded(image, "TIFF"), 4)


@pytest.mark.parametrize("image_format", ["PNG", "PPM", "TIFF"])
@pytest.mark.parametrize("turned", [False, True])
def test_sixteen_bits_of_grey_are_read(image_format, turned):
    levels = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    options = {"exif": exif(6)} if turned and image_format != "PPM" else {}
    image = Image.open(io.BytesIO(encoded(Image.fromarray(levels), image_format, **options)))
    expected = levels // 257 if not options else np.rot90(levels // 257, -1)
    found = encoder_pixels(image, 4)
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


@pytest.mark.parametrize("size", [(0, 30), (30, 0), (0, 0)])
def test_images_without_pixels_are_refused(size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels are not an image"):
        encoder_pixels(Image.new("RGB", size), 4)
