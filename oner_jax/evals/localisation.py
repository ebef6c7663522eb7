"""Zero-shot localisation: where in a picture is what a phrase names?

METHOD section 4: the phrase's embedding against every last-layer patch state, both at unit length,
softmax over patches, bicubic up-sampling. No gradient, no box and no mask was trained on.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from PIL import Image
from scipy import ndimage

from oner_jax.evals.features import PRIMARY, SPACES
from oner_jax.evals.material import Material
from oner_jax.evals.measurement import Measurement, absent, measured
from oner_jax.evals.scenes import BoxedPictures, ComposedScenes

MAP_SIDE = 48  # pixels of an up-sampled map; boxes are compared to this precision
THRESHOLDS = np.linspace(0.1, 0.9, 17)
SMALLEST_OVERLAP = 0.5
CENTRE_BOX_SIDES = np.linspace(0.2, 1.0, 17)
EXAMPLE_SCENES = 4
IMAGES_AT_ONCE = 128  # the embedder's batch; patch states of many large pictures are not kept

Boxes = Float[np.ndarray, "_ 4"]  # left, top, right, bottom as parts of the side


def heat_maps(
    phrases: Float[np.ndarray, "queries width"], patches: Float[np.ndarray, "queries patches width"]
) -> Float[np.ndarray, "queries patches"]:
    """Softmax over patches of the cosine to the phrase; row q asks its own picture."""
    lengths = np.linalg.norm(patches, axis=2) * np.linalg.norm(phrases, axis=1)[:, None]
    inner = np.einsum("qpw,qw->qp", patches, phrases)
    cosines = inner / np.maximum(lengths, np.finfo(np.float32).tiny)
    weights = np.exp(cosines - cosines.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def upsampled(
    maps: Float[np.ndarray, "queries patches"], side: int = MAP_SIDE
) -> Float[np.ndarray, "queries {side} {side}"]:
    """Square maps, row by row, enlarged to `side` pixels bicubically; outermost patches go on."""
    patches = round(maps.shape[1] ** 0.5)
    grids = maps.astype(np.float32).reshape(-1, patches, patches)
    # Without the rim the cubic overshoots at the edges, and the maximum moves into a corner.
    rimmed = np.pad(grids, ((0, 0), (2, 2), (2, 2)), mode="edge")
    inner = (2, 2, 2 + patches, 2 + patches)
    return np.stack(
        [
            np.asarray(
                Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC, box=inner)
            )
            for grid in rimmed
        ]
    )


def overlap(
    first: Float[np.ndarray, "*#boxes 4"], second: Float[np.ndarray, "*#boxes 4"]
) -> Float[np.ndarray, "..."]:
    """Intersection over union of boxes, broadcast over all axes but the last."""
    low, high = np.maximum(first, second)[..., :2], np.minimum(first, second)[..., 2:]
    shared = np.prod(np.maximum(high - low, 0.0), axis=-1)
    areas = [np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (first, second)]
    return shared / (areas[0] + areas[1] - shared)


def from_cold_to_hot(
    heat: Float[np.ndarray, "queries side side"],
) -> Float[np.ndarray, "queries side side"]:
    """Each map from 0 to 1; a flat one is hot everywhere, so that its box is the whole picture."""
    low, high = (edge(heat, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    scaled = (heat - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    scaled[(high == low)[:, 0, 0]] = 1.0
    return scaled


def boxes_around_largest(
    heat: Float[np.ndarray, "queries side side"], threshold: float
) -> Float[np.ndarray, "queries 4"]:
    """Tight box of the largest connected region in which each map is hot enough.

    Maps run from 0 to 1, so that every one is hot somewhere. As in WSOL evaluation (Choe et al.,
    CVPR 2020), neighbours across a corner count as connected.
    """
    within_a_map = np.zeros((3, 3, 3), int)
    within_a_map[1] = 1
    regions, number = ndimage.label(heat >= threshold, structure=within_a_map)
    sizes = np.bincount(regions.ravel(), minlength=number + 1)[1:]
    boxes = np.zeros((len(heat), 4))
    largest = np.zeros(len(heat), int)
    for size, (maps, rows, columns) in zip(sizes, ndimage.find_objects(regions), strict=True):
        if size > largest[maps.start]:
            largest[maps.start] = size
            boxes[maps.start] = columns.start, rows.start, columns.stop, rows.stop
    return boxes / heat.shape[1]


def localisation(
    maps: Float[np.ndarray, "queries patches"],
    other_maps: Float[np.ndarray, "queries patches"],
    boxes: Sequence[Boxes],
    pictures: Int64[np.ndarray, "queries"],
) -> dict[str, Measurement]:
    """The pointing game and box accuracy, each beside what needs no model or no phrase.

    `maps` are those of the phrases asked for, `other_maps` those of phrases that the same pictures
    do not show: what they score comes from things standing out, not from the phrase.

    `pointing`: the hottest point is inside a box; chance is a random point. `box`: MaxBoxAcc, an
    overlap (IoU) of at least a half with a box, at the threshold that is best on the pictures of
    even number, scored on the others; chance deals out the model's own boxes at random. Beside
    them the point in the middle, the box around the middle of the size that is best on the first
    half, and the whole picture. Ties count against the model.
    """
    inside = np.stack([_inside(own) for own in boxes])
    right = _alternatives(boxes)
    scored = pictures % 2 == 1
    if not scored.any() or scored.all():
        raise ValueError("give two pictures or more: one half chooses the threshold")
    middle = MAP_SIDE // 2
    hits = _pointing(upsampled(maps), inside)
    other_hits = _pointing(upsampled(other_maps), inside)
    chance = float(inside.mean())
    found, other_found = (_boxes_at_best_threshold(m, right, scored) for m in (maps, other_maps))
    fixed = np.stack([_fits(_centre_box(side), right) for side in CENTRE_BOX_SIDES.tolist()])
    best = int(np.argmax(fixed[:, ~scored].mean(axis=1)))
    dealt = float(np.mean([_fits(box, right[scored]) for box in found[scored]]))
    pointed = {
        "pointing": hits,
        "pointing_other_phrase": other_hits,
        "pointing_centre": inside[:, middle, middle],
    }
    boxed = {
        "box": _fits(found, right)[scored],
        "box_other_phrase": _fits(other_found, right)[scored],
        "box_centre": fixed[best, scored],
        "box_whole": fixed[-1, scored],
    }
    return {
        **{name: Measurement.mean(own, chance, pictures) for name, own in pointed.items()},
        **{name: Measurement.mean(own, dealt, pictures[scored]) for name, own in boxed.items()},
    }


def _inside(boxes: Boxes) -> Bool[np.ndarray, "side side"]:
    """Which points of a map (the middles of its pixels) lie in one of the boxes."""
    middles = (np.arange(MAP_SIDE) + 0.5) / MAP_SIDE
    across = (middles >= boxes[:, 0, None]) & (middles < boxes[:, 2, None])
    down = (middles >= boxes[:, 1, None]) & (middles < boxes[:, 3, None])
    return (down[:, :, None] & across[:, None, :]).max(axis=0)


def _pointing(heat: np.ndarray, inside: np.ndarray) -> Bool[np.ndarray, "queries"]:
    """Every one of the hottest points is inside, so that a flat map hits nothing."""
    hottest = heat >= heat.max(axis=(1, 2), keepdims=True)
    return ~(hottest & ~inside).reshape(len(heat), -1).any(axis=1)


def _boxes_at_best_threshold(
    maps: np.ndarray, right: np.ndarray, scored: np.ndarray
) -> Float[np.ndarray, "queries 4"]:
    scaled = from_cold_to_hot(upsampled(maps))
    found = np.stack([boxes_around_largest(scaled, threshold) for threshold in THRESHOLDS.tolist()])
    fitting = [_fits(at_threshold, right)[~scored].mean() for at_threshold in found]
    return found[int(np.argmax(fitting))]


def _alternatives(boxes: Sequence[Boxes]) -> Float[np.ndarray, "queries most 4"]:
    """The boxes of each query as one array, the first repeated where others have more."""
    most = max(len(own) for own in boxes)
    return np.stack([np.concatenate([own, own[:1].repeat(most - len(own), 0)]) for own in boxes])


def _fits(found: np.ndarray, right: np.ndarray) -> Bool[np.ndarray, "queries"]:
    """Whether the found box of each query (or one for all) overlaps one of its boxes enough."""
    return overlap(found[..., None, :], right).max(axis=1) >= SMALLEST_OVERLAP


def _centre_box(side: float) -> Float[np.ndarray, "4"]:
    return np.array([0.5 - side / 2] * 2 + [0.5 + side / 2] * 2)


def localisation_task(material: Material) -> dict[str, Any]:
    """Phrases asked of pictures with boxes, in the model's two spaces, and a few maps to show."""
    boxed = material.boxed
    pictures = boxed.pictures
    if len(np.unique(pictures)) < 2:
        return absent("too few pictures with different captions for a scene")
    phrases = material.texts(boxed.phrases)
    other = other_picture(pictures)
    maps: dict[str, list[np.ndarray]] = {space: [] for space in SPACES}
    other_maps: dict[str, list[np.ndarray]] = {space: [] for space in SPACES}
    first = 0
    for images in boxed.image_batches(IMAGES_AT_ONCE):
        states = material.model.patches(images)
        queries = np.flatnonzero((pictures >= first) & (pictures < first + len(images)))
        for space in SPACES:
            own = getattr(states, space)[pictures[queries] - first]
            maps[space].append(heat_maps(phrases[space][queries], own))
            other_maps[space].append(heat_maps(phrases[space][other[queries]], own))
        first += len(images)
    joined = {space: np.concatenate(maps[space]) for space in SPACES}
    return {
        **measured(
            {
                space: localisation(
                    joined[space], np.concatenate(other_maps[space]), boxed.boxes, pictures
                )
                for space in SPACES
            }
        ),
        "patches": joined[PRIMARY].shape[1],
        "examples": _examples(boxed, joined),
    }


def other_picture(pictures: Int64[np.ndarray, "queries"]) -> Int64[np.ndarray, "queries"]:
    """For each query, one of another picture: rolled by the most queries that one picture has."""
    return np.roll(np.arange(len(pictures)), np.bincount(pictures).max())


def _examples(boxed: BoxedPictures, maps: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The first pictures, with all their queries; scenes are in random order already."""
    layouts = boxed.layouts if isinstance(boxed, ComposedScenes) else None
    shown: list[dict[str, Any]] = []
    for picture in map(int, np.unique(boxed.pictures)[:EXAMPLE_SCENES]):
        queries = [
            {
                "phrase": boxed.phrases[query],
                "boxes": np.round(boxed.boxes[query], 4).tolist(),
                "maps": {space: _for_show(own[query]) for space, own in maps.items()},
            }
            for query in map(int, np.flatnonzero(boxed.pictures == picture))
        ]
        layout = dataclasses.asdict(layouts[picture]) if layouts else None
        shown.append({"picture": picture, "layout": layout, "queries": queries})
    return shown


def _for_show(heat: Float[np.ndarray, "patches"]) -> list[float]:
    """A map from 0 (its coldest patch) to 1 (its hottest)."""
    spread = max(float(np.ptp(heat)), float(np.finfo(np.float32).tiny))
    return np.round((heat - heat.min()) / spread, 3).tolist()
