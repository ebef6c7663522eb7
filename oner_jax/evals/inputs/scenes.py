"""Pictures of which it is known where things are: composed scenes, and what they share with others.

A scene is a white canvas or a photograph with several pictures of a dataset on it, apart from each
other. Which pictures and where follows from the dataset and a seed only, so that every model sees
the same scenes.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from oner_jax.data.cut_outs import WHITE_TOLERANCE
from oner_jax.evals.inputs.photographs import Crop, draw_crop

OBJECTS = 3
MAXIMUM_SCENES = 250
TILE_SIDES = (0.36, 0.5)  # shortest and longest side of a picture, as a part of the canvas's
OPAQUE = 128  # the least alpha that counts as the thing

_ROUNDS, _PLACEMENTS_A_ROUND = 100, 64


@runtime_checkable
class BoxedPictures(Protocol):
    """Square pictures and phrases that are asked of them.

    Query q asks for `phrases[q]` in picture `pictures[q]` (ascending); the answer is any of the
    boxes `boxes[q]`: rows of left, top, right and bottom edge, as parts of the picture's side.
    """

    @property
    def phrases(self) -> Sequence[str]: ...

    @property
    def pictures(self) -> Int64[np.ndarray, "queries"]: ...

    @property
    def boxes(self) -> Sequence[Float[np.ndarray, "_ 4"]]: ...

    def image_batches(self, batch_size: int) -> Iterator[UInt8[np.ndarray, "b size size 3"]]: ...


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which pictures of a dataset are in one scene, and where.

    `tiles` has left edge, top edge and side of each picture, as parts of the canvas's side.
    `ground` is what is behind them; without it, white.
    """

    pictures: tuple[int, ...]
    tiles: tuple[tuple[float, float, float], ...]
    ground: Crop | None = None


@dataclasses.dataclass(frozen=True)
class ComposedScenes:
    """Scenes as `BoxedPictures`: in each one, every object is asked for by its caption.

    Queries are in the order of the layouts and, within one, of its pictures.
    """

    layouts: Sequence[Layout]
    images: UInt8[np.ndarray, "scenes size size 3"]
    phrases: Sequence[str]
    pictures: Int64[np.ndarray, "queries"]
    boxes: Sequence[Float[np.ndarray, "_ 4"]]

    def image_batches(self, batch_size: int) -> Iterator[UInt8[np.ndarray, "b size size 3"]]:
        """All scenes in order; the last batch may be shorter."""
        for first in range(0, len(self.images), batch_size):
            yield self.images[first : first + batch_size]


def plan_scenes(
    captions: Int64[np.ndarray, "pictures"],
    concepts: Sequence[str],
    *,
    maximum: int = MAXIMUM_SCENES,
    objects: int = OBJECTS,
) -> list[Layout]:
    """Layouts in which no two pictures share their caption or (where they have one) their concept.

    Every picture stands in one scene at most. `captions` numbers the main captions; `concepts` is
    "" where it is unknown.
    """
    order = np.random.default_rng(0).permutation(len(captions)).tolist()
    full: list[tuple[int, ...]] = []
    waiting: list[list[int]] = []
    for picture in order:
        fitting = [
            scene
            for scene in waiting
            if all(
                captions[other] != captions[picture]
                and (not concepts[picture] or concepts[other] != concepts[picture])
                for other in scene
            )
        ]
        if fitting:
            fitting[0].append(picture)
        else:
            waiting.append([picture])
        full += [tuple(scene) for scene in waiting if len(scene) == objects]
        waiting = [scene for scene in waiting if len(scene) < objects]
        if len(full) == maximum:
            break
    return [
        Layout(pictures, place_apart(np.random.default_rng(index), objects))
        for index, pictures in enumerate(full)
    ]


def on_photographs(layouts: Sequence[Layout]) -> list[Layout]:
    """Return the same scenes, each in front of a photograph that its number chooses."""
    return [
        dataclasses.replace(layout, ground=draw_crop(np.random.default_rng([index, 1])))
        for index, layout in enumerate(layouts)
    ]


def place_apart(
    random: np.random.Generator, objects: int
) -> tuple[tuple[float, float, float], ...]:
    """Squares (left, top, side) in the unit square that do not overlap, uniformly at random."""
    for _ in range(_ROUNDS):
        sides = random.uniform(*TILE_SIDES, (_PLACEMENTS_A_ROUND, objects, 1))
        low = random.uniform(0.0, 1.0, (_PLACEMENTS_A_ROUND, objects, 2)) * (1.0 - sides)
        high = low + sides
        together = (low[:, :, None] < high[:, None]) & (low[:, None] < high[:, :, None])
        # In a placement that will do, each square overlaps itself only.
        apart = np.flatnonzero(together.all(axis=3).sum(axis=(1, 2)) == objects)
        if len(apart):
            tiles = np.concatenate([low, sides], axis=2)[apart[0]]
            return tuple((left, top, side) for left, top, side in tiles.tolist())
    raise ValueError(f"no room for {objects} squares with sides of {TILE_SIDES}")


def compose(
    layout: Layout, pictures: Mapping[int, UInt8[np.ndarray, "_ _ _"]], size: int
) -> tuple[UInt8[np.ndarray, "{size} {size} 3"], Float[np.ndarray, "objects 4"]]:
    """Compose a scene of `size` pixels a side, and the box of each of its objects.

    The middle square of each picture, in RGB or RGBA, is shrunk onto its tile. Its box is tight:
    around everything in the tile that is opaque, or without transparency, that is not white.
    """
    if layout.ground is None:
        canvas = np.full((size, size, 3), 255, np.uint8)
    else:
        canvas = layout.ground.pixels(size).copy()
    boxes = []
    for picture, (left, top, side) in zip(layout.pictures, layout.tiles, strict=True):
        # Both edges are rounded, so that tiles apart from each other stay so.
        x, y = round(left * size), round(top * size)
        pixels = max(1, min(round((left + side) * size) - x, round((top + side) * size) - y))
        tile = _shrunk(pictures[picture], pixels)
        place = canvas[y : y + pixels, x : x + pixels]
        place[:] = _over(tile, place)
        boxes.append(np.array([x, y, x, y]) + _content_box(tile))
    return canvas, np.array(boxes, np.float64) / size


def _over(
    tile: UInt8[np.ndarray, "side side channels"], ground: UInt8[np.ndarray, "side side 3"]
) -> UInt8[np.ndarray, "side side 3"]:
    """A tile in front of its ground; it hides it where it has no transparency."""
    if tile.shape[2] == 3:
        return tile
    alpha = tile[..., 3:] / 255.0
    return np.rint(alpha * tile[..., :3] + (1.0 - alpha) * ground).astype(np.uint8)


def _shrunk(
    picture: UInt8[np.ndarray, "_ _ channels"], pixels: int
) -> UInt8[np.ndarray, "_ _ channels"]:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(square.resize((pixels, pixels), Image.Resampling.LANCZOS))


def _content_box(tile: UInt8[np.ndarray, "side side channels"]) -> np.ndarray:
    """Left, top, right and bottom edge of what is shown; the whole tile if nothing is."""
    if tile.shape[2] == 3:
        shown = np.min(tile, axis=2) < 255 - WHITE_TOLERANCE
    else:
        shown = tile[..., 3] >= OPAQUE
    columns, rows = (np.flatnonzero(np.max(shown, axis=axis)) for axis in (0, 1))
    if not len(columns):
        return np.array([0, 0, *tile.shape[1::-1]])
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def compose_all(
    layouts: Sequence[Layout],
    pictures: Mapping[int, UInt8[np.ndarray, "_ _ _"]],
    captions: Sequence[str],
    size: int,
) -> ComposedScenes:
    """All scenes of `layouts`, each object asked for by its picture's main caption."""
    composed = [compose(layout, pictures, size) for layout in layouts]
    images = np.empty((len(layouts), size, size, 3), np.uint8)
    for index, (canvas, _) in enumerate(composed):
        images[index] = canvas
    return ComposedScenes(
        layouts=layouts,
        images=images,
        phrases=[captions[picture] for layout in layouts for picture in layout.pictures],
        pictures=np.array(
            [index for index, layout in enumerate(layouts) for _ in layout.pictures], np.int64
        ),
        boxes=[box[None] for _, boxes in composed for box in boxes],
    )
