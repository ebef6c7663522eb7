"""Read-outs against the equations in float64 NumPy, and windows against pixels cut by hand."""

import numpy as np
import pytest
from PIL import Image
from scipy.interpolate import RegularGridInterpolator

from oner_jax.errors import InputError
from oner_jax.evals.inputs.readouts import (
    READ_OUTS,
    WINDOW_CELLS,
    WINDOW_SIDE,
    WINDOWS_PER_SIDE,
    Phrases,
    Seen,
    cut_windows,
    grid_side,
    map_of,
    picture_side,
    spread_windows,
)
from oner_jax.models.embedding import Embedder
from oner_jax.models.pretraining import PureModel
from tests import oracle, small
from tests.evals.conftest import ColourEmbedder

MIDDLES = np.linspace(0, 1 - WINDOW_SIDE, WINDOWS_PER_SIDE) + WINDOW_SIDE / 2


@pytest.fixture(scope="module")
def parts():
    model = PureModel(small.settings())
    parameters = small.parameters(model)
    return parameters, Embedder(model, parameters, batch_size=16)


def interpolated(heat: np.ndarray) -> np.ndarray:
    """Linearly between the middles of windows; beyond the outermost, as there."""
    grid = heat.reshape(WINDOWS_PER_SIDE, WINDOWS_PER_SIDE)
    cells = (np.arange(WINDOW_CELLS) + 0.5) / WINDOW_CELLS
    points = np.stack(np.meshgrid(cells, cells, indexing="ij"), axis=-1)
    clipped = np.clip(points, MIDDLES[0], MIDDLES[-1])
    return RegularGridInterpolator((MIDDLES, MIDDLES), grid)(clipped).ravel()


def test_windows_are_spread_linearly_between_their_middles():
    heat = np.random.default_rng(0).normal(size=(3, WINDOWS_PER_SIDE**2))
    expected = [interpolated(each) for each in heat]
    np.testing.assert_allclose(spread_windows(heat), expected, atol=1e-12)


def test_windows_are_parts_of_the_image():
    """At a side of which every window is whole pixels, none is resized."""
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    windows = cut_windows(image, 16)
    assert len(windows) == WINDOWS_PER_SIDE**2
    for row in range(WINDOWS_PER_SIDE):
        for column in range(WINDOWS_PER_SIDE):
            part = image[8 * row : 8 * row + 16, 8 * column : 8 * column + 16]
            np.testing.assert_array_equal(windows[WINDOWS_PER_SIDE * row + column], part)


def test_every_read_out_is_the_oracles(parts):
    """An image of 6 x 6 patches, twice the side of a window of the model's own size and more."""
    parameters, embedder = parts
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    ids = np.array([[5, 9, 4, 0, 0, 0]], np.int32)
    reference = oracle.Oracle(parameters, patch_size=4, heads=2)
    backbone = reference.p["backbone"]

    def g(states: np.ndarray) -> np.ndarray:
        return oracle.unit(reference.head(backbone["projector"], states))

    def heat(phrase: np.ndarray, places: np.ndarray) -> np.ndarray:
        return oracle.softmax(oracle.unit(places) @ oracle.unit(phrase))

    text = reference.view(backbone, ids=ids[0, :3])
    states = reference.view(backbone, image=image[:16, :16] / 127.5 - 1)[1:]
    windows = [
        g(reference.view(backbone, image=image[y : y + 16, x : x + 16] / 127.5 - 1)[0])
        for y in range(0, 25, 8)
        for x in range(0, 25, 8)
    ]
    seen = Seen(embedder, image[None, :16, :16], 4)
    expected = {
        "projected": heat(g(text[0]), g(states)),
        "backbone": heat(text[1:].mean(axis=0), states),
        "values": heat(g(text[0]), embedder.patches(image[None, :16, :16]).values[0]),
        "windows": interpolated(heat(g(text[0]), np.stack(windows))),
    }
    assert expected.keys() == READ_OUTS.keys()
    phrases = Phrases(embedder, ids)
    for name, row in READ_OUTS.items():
        places = row.places(seen if name != "windows" else Seen(embedder, image[None], 10))
        (found,) = row.maps(row.phrases(phrases), places)
        np.testing.assert_allclose(found, expected[name], atol=1e-5, err_msg=name)


def test_patches_are_read_on_the_grid_asked_for():
    model = ColourEmbedder()
    image = np.random.default_rng(0).integers(0, 256, (1, 30, 30, 3), np.uint8)
    shrunk = Image.fromarray(image[0]).resize((5, 5), Image.Resampling.LANCZOS)
    found = Seen(model, image, 5).patches.values
    np.testing.assert_array_equal(found, model.patches(np.asarray(shrunk)[None]).values)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "asked", "side", "pixels"),
    [
        (48, 16, 0, 12, 192),  # finer than the model's own three
        (224, 16, 0, 14, 560),  # the model's own; windows need more pixels than patches
        (224, 16, 40, 40, 640),
    ],
)
def test_the_grid_and_the_pixels_that_are_read(image_size, patch_size, asked, side, pixels):
    model = ColourEmbedder(image_size=image_size, patch_size=patch_size)
    assert grid_side(model, asked) == side
    assert picture_side(model, side) == pixels


def test_a_map_points_where_the_colour_is():
    model = ColourEmbedder()
    picture = np.full((90, 60, 3), 255, np.uint8)
    picture[50:80, 5:30] = [200, 10, 10]
    ids = np.array([[200, 10, 10]], np.int32)
    for name in (None, *READ_OUTS):
        (heat,) = map_of(model, Image.fromarray(picture), ids, name)
        row, column = np.unravel_index(heat.argmax(), (12, 12))
        assert 50 / 90 - 0.1 < (row + 0.5) / 12 < 80 / 90 + 0.1
        assert (column + 0.5) / 12 < 30 / 60 + 0.1


def test_what_cannot_be_read_is_refused():
    picture, ids = Image.new("RGB", (9, 9)), np.array([[1, 2, 3]], np.int32)
    with pytest.raises(InputError, match=r"read_out='value' is not one of .*values"):
        map_of(ColourEmbedder(), picture, ids, "value")
    for side in (0, 65):
        with pytest.raises(InputError, match=f"patches_per_side={side} must be from 1 to 64"):
            map_of(ColourEmbedder(), picture, ids, patches_per_side=side)
