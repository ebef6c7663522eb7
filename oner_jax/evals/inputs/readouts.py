"""Ways to read from a model where in an image a phrase is: rows of one table.

Each gives a heat map on a square grid, from the same model, without gradient or training:

    projected   the phrase's embedding against patch states after g (docs/method.md)
    backbone    the mean state of the phrase's words against patch states (the authors' script)
    values      the phrase's embedding against what the image's embedding would be if the last
                layer's attention of [CLS] were on that patch only: what g was trained on
    windows     the phrase's embedding against those of parts of the image, each seen as an image

Images may be larger than those the model was trained on: patches are then read on a finer grid,
with positions interpolated, and things come at a size at which they fill several patches. Windows
are resized to the model's own size, so that the grid changes them little.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from PIL import Image

from oner_jax.data.preprocessing import squeezed_pixels
from oner_jax.errors import InputError
from oner_jax.evals.inputs.features import EmbedsViews, PatchOutputs, unit_rows

PATCHES_PER_SIDE = 12
"""The grid on which images are read, unless the model's own is finer."""

MAXIMUM_PATCHES_PER_SIDE = 64  # memory and time grow with the fourth power

WINDOWS_PER_SIDE = 4
WINDOW_SIDE = 0.4  # of the image's; the middles of neighbours are half of that apart
WINDOW_CELLS = 12  # a side of the map that their heat is spread over
IMAGES_OF_WINDOWS = 8  # whose windows are embedded at once: in pixels they are many times as large

Maps = Float[np.ndarray, "queries patches"]


def heat_maps(
    phrases: Float[np.ndarray, "queries width"], patches: Float[np.ndarray, "queries patches width"]
) -> Float[np.ndarray, "queries patches"]:
    """Softmax over patches of the cosine to the phrase; row q asks its own picture."""
    lengths = np.linalg.norm(patches, axis=2) * np.linalg.norm(phrases, axis=1)[:, None]
    inner = np.einsum("qpw,qw->qp", patches, phrases)
    cosines = inner / np.maximum(lengths, np.finfo(np.float32).tiny)
    weights = np.exp(cosines - cosines.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


class Phrases:
    """Phrases under a model; each feature is computed when a read-out first asks for it."""

    def __init__(self, model: EmbedsViews, ids: Int32[np.ndarray, "n tokens"]):
        self._model, self._ids = model, ids

    @functools.cached_property
    def projected(self) -> Float32[np.ndarray, "n features"]:
        """Their embeddings."""
        return unit_rows(self._model(text=self._ids).projected, "text")

    @functools.cached_property
    def words(self) -> Float32[np.ndarray, "n width"]:
        """The mean last-layer state of their words."""
        return self._model.words(self._ids)


class Seen:
    """Square images under a model; each part is computed when a read-out first asks for it."""

    def __init__(
        self, model: EmbedsViews, images: UInt8[np.ndarray, "n size size 3"], patches_per_side: int
    ):
        self._model, self._images = model, images
        self._grid_pixels = model.patch_size * patches_per_side

    @functools.cached_property
    def patches(self) -> PatchOutputs:
        """States and values of their patches."""
        images = self._images
        if images.shape[1] != self._grid_pixels:
            images = np.stack([_resized(each, self._grid_pixels) for each in images])
        return self._model.patches(images)

    @functools.cached_property
    def windows(self) -> Float32[np.ndarray, "n windows features"]:
        """Embeddings of their windows, row by row."""
        found = []
        for first in range(0, len(self._images), IMAGES_OF_WINDOWS):
            images = self._images[first : first + IMAGES_OF_WINDOWS]
            pixels = np.concatenate([cut_windows(each, self._model.image_size) for each in images])
            vectors = unit_rows(self._model(images=pixels).projected, "window")
            found.append(vectors.reshape(len(images), WINDOWS_PER_SIDE**2, -1))
        return np.concatenate(found)


def window_edges() -> Float[np.ndarray, "windows"]:
    """Return the first edge of each window along a side, as a part of it."""
    return np.linspace(0.0, 1.0 - WINDOW_SIDE, WINDOWS_PER_SIDE)


def cut_windows(
    image: UInt8[np.ndarray, "size size 3"], pixels: int
) -> UInt8[np.ndarray, "windows {pixels} {pixels} 3"]:
    """Cut an image into overlapping windows, row by row, each resized to `pixels` a side."""
    size, edges = len(image), window_edges().tolist()
    boxes = [(x, y, x + WINDOW_SIDE, y + WINDOW_SIDE) for y in edges for x in edges]
    return np.stack(
        [
            _resized(image, pixels, (size * left, size * top, size * right, size * bottom))
            for left, top, right, bottom in boxes
        ]
    )


def _resized(
    image: UInt8[np.ndarray, "size size 3"],
    pixels: int,
    box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "{pixels} {pixels} 3"]:
    whole = Image.fromarray(image)
    return np.asarray(whole.resize((pixels, pixels), Image.Resampling.LANCZOS, box=box))


def spread_windows(heat: Float[np.ndarray, "queries windows"]) -> Maps:
    """Interpolate the heat of windows, held at their middles, linearly over a grid of cells.

    Beyond the outermost middles it stays what it is there.
    """
    cells = (np.arange(WINDOW_CELLS) + 0.5) / WINDOW_CELLS
    middles = window_edges() + WINDOW_SIDE / 2
    weights = np.stack([np.interp(cells, middles, row) for row in np.eye(WINDOWS_PER_SIDE)], axis=1)
    grid = heat.reshape(-1, WINDOWS_PER_SIDE, WINDOWS_PER_SIDE)
    return np.einsum("ai,qij,bj->qab", weights, grid, weights).reshape(len(heat), -1)


@dataclasses.dataclass(frozen=True)
class ReadOut:
    """A row of `READ_OUTS`: which features of phrases are held against which of places.

    `spread` brings the heat of places to a square grid, where they do not form one.
    """

    title: str
    phrases: Callable[[Phrases], Float[np.ndarray, "n width"]]
    places: Callable[[Seen], Float[np.ndarray, "n places width"]]
    spread: Callable[[Float[np.ndarray, "queries places"]], Maps] = lambda heat: heat

    def maps(
        self,
        phrases: Float[np.ndarray, "queries width"],
        places: Float[np.ndarray, "queries places width"],
    ) -> Maps:
        """Return the maps of some phrases, each in its own image."""
        return self.spread(heat_maps(phrases, places))


READ_OUTS: Mapping[str, ReadOut] = {
    "projected": ReadOut(
        "patch states through the head",
        lambda phrases: phrases.projected,
        lambda seen: seen.patches.projected,
    ),
    "backbone": ReadOut(
        "patch states before the head, against the phrase’s words",
        lambda phrases: phrases.words,
        lambda seen: seen.patches.backbone,
    ),
    "values": ReadOut(
        "what each patch would make of the whole picture",
        lambda phrases: phrases.projected,
        lambda seen: seen.patches.values,
    ),
    "windows": ReadOut(
        "parts of the picture, each seen as a picture",
        lambda phrases: phrases.projected,
        lambda seen: seen.windows,
        spread_windows,
    ),
}

DEFAULT_READ_OUT = "windows"
"""That of `Model.localize`: what the development scenes choose for the released model."""


def grid_side(model: EmbedsViews, patches_per_side: int = 0) -> int:
    """Return the patches a side to read: those asked for, or by default 12, or the model's own."""
    return patches_per_side or max(PATCHES_PER_SIDE, model.image_size // model.patch_size)


def picture_side(model: EmbedsViews, patches_per_side: int) -> int:
    """Return the pixels a side of an image of which patches and windows are read."""
    return max(model.patch_size * patches_per_side, round(model.image_size / WINDOW_SIDE))


def map_of(
    model: EmbedsViews,
    picture: Image.Image,
    ids: Int32[np.ndarray, "1 tokens"],
    read_out: str | None = None,
    patches_per_side: int | None = None,
) -> Maps:
    """Return the map of one phrase in one picture, whose sides are brought to the same length.

    Raises InputError for an unknown read-out and for a grid out of range.
    """
    name = read_out or DEFAULT_READ_OUT
    if name not in READ_OUTS:
        raise InputError(f"read_out={read_out!r} is not one of {', '.join(READ_OUTS)}")
    if patches_per_side is not None and not 1 <= patches_per_side <= MAXIMUM_PATCHES_PER_SIDE:
        raise InputError(
            f"patches_per_side={patches_per_side} must be from 1 to {MAXIMUM_PATCHES_PER_SIDE}"
        )
    side = grid_side(model, patches_per_side or 0)
    pixels = squeezed_pixels(picture, picture_side(model, side))
    row = READ_OUTS[name]
    return row.maps(row.phrases(Phrases(model, ids)), row.places(Seen(model, pixels[None], side)))
