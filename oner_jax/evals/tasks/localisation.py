"""Zero-shot localisation: where in a picture is what a phrase names?

docs/method.md, Evaluation protocols: the phrase's embedding against every last-layer patch state,
both at unit length, softmax over patches, bicubic up-sampling. No gradient, no box and no mask was
trained on. This is what maps are and how they are scored; `readouts.py` has other ways to read them
from a model.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64
from PIL import Image
from scipy import ndimage

from oner_jax.evals.metrics.measurement import Measurement

MAP_SIDE = 48  # pixels of an up-sampled map; boxes are compared to this precision
THRESHOLDS = np.linspace(0.1, 0.9, 17)
SMALLEST_OVERLAP = 0.5
CENTRE_BOX_SIDES = np.linspace(0.2, 1.0, 17)
DEVELOPMENT_EVERY = 4  # of so many pictures one helps to choose, and the others are scored

Boxes = Float[np.ndarray, "_ 4"]  # left, top, right, bottom as parts of the side


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
    """Score maps in every way: `pointing` and `box_accuracy`.

    `maps` are those of the phrases asked for, `other_maps` those of phrases that the same pictures
    do not show: what they score comes from things standing out, not from the phrase. Ties count
    against the model. Raises ValueError where no picture is left to score, or none to develop on.
    """
    return {
        **pointing(maps, other_maps, boxes, pictures),
        **box_accuracy(maps, other_maps, boxes, pictures),
    }


def pointing(
    maps: Float[np.ndarray, "queries patches"],
    other_maps: Float[np.ndarray, "queries patches"],
    boxes: Sequence[Boxes],
    pictures: Int64[np.ndarray, "queries"],
) -> dict[str, Measurement]:
    """Score the pointing game and which object, with their controls.

    `pointing`: the hottest point is inside a box; chance is a random point. Controls: the point in
    the middle; `pointing_any_object`, inside a box of any phrase of the picture; and
    `pointing_salient`, the middle of one of these boxes drawn at random, which a model scores that
    finds things and ignores the phrase. `which_object`: among the boxes of the picture's
    phrases, where there are several, the hottest on average is the right one.
    """
    scored = _scored(pictures)
    inside = np.stack([_inside(own) for own in boxes])
    heat, other_heat = upsampled(maps), upsampled(other_maps)
    anywhere = np.zeros((pictures.max() + 1, *inside.shape[1:]), bool)
    np.logical_or.at(anywhere, pictures, inside)
    middle, a_point = MAP_SIDE // 2, float(inside[scored].mean())
    values: dict[str, tuple[np.ndarray, float]] = {
        "pointing": (_pointing(heat, inside), a_point),
        "pointing_other_phrase": (_pointing(other_heat, inside), a_point),
        "pointing_centre": (inside[:, middle, middle], a_point),
        "pointing_salient": (_middles_of_any(boxes, pictures), a_point),
        "pointing_any_object": (
            _pointing(heat, anywhere[pictures]),
            float(anywhere[pictures[scored]].mean()),
        ),
    }
    found = {
        name: Measurement.mean(own[scored], chance, pictures[scored])
        for name, (own, chance) in values.items()
    }
    share = _objects_share(inside, pictures)
    several = scored & (share < 1)
    if several.any():
        for name, own in (("which_object", heat), ("which_object_other_phrase", other_heat)):
            right = which_object(own, inside, pictures)[several]
            found[name] = Measurement.mean(right, float(share[several].mean()), pictures[several])
    return found


def box_accuracy(
    maps: Float[np.ndarray, "queries patches"],
    other_maps: Float[np.ndarray, "queries patches"],
    boxes: Sequence[Boxes],
    pictures: Int64[np.ndarray, "queries"],
) -> dict[str, Measurement]:
    """Score the boxes around what is hot (MaxBoxAcc), with their controls.

    A box is right with an overlap (IoU) of at least a half with a right one, at the threshold that
    is best on the development pictures; chance deals out the model's own boxes at random.
    Controls: the box around the middle of the size that is best there, and the whole picture.
    """
    scored = _scored(pictures)
    right = _alternatives(boxes)
    found, other_found = (_boxes_at_best_threshold(m, right, scored) for m in (maps, other_maps))
    fixed = np.stack([_fits(_centre_box(side), right) for side in CENTRE_BOX_SIDES.tolist()])
    best = int(np.argmax(fixed[:, ~scored].mean(axis=1)))
    dealt = float(np.mean([_fits(box, right[scored]) for box in found[scored]]))
    values = {
        "box": _fits(found, right)[scored],
        "box_other_phrase": _fits(other_found, right)[scored],
        "box_centre": fixed[best, scored],
        "box_whole": fixed[-1, scored],
    }
    return {name: Measurement.mean(own, dealt, pictures[scored]) for name, own in values.items()}


def _scored(pictures: np.ndarray) -> Bool[np.ndarray, "queries"]:
    scored = is_scored(pictures)
    if not scored.any() or scored.all():
        raise ValueError("give two pictures or more: the first is for development")
    return scored


def is_scored(pictures: Int64[np.ndarray, "queries"]) -> Bool[np.ndarray, "queries"]:
    """Return which queries are scored; the others, of every fourth picture, are for development.

    Read-outs and thresholds are chosen on the latter.
    """
    return pictures % DEVELOPMENT_EVERY != 0


def development_score(
    maps: Float[np.ndarray, "queries patches"],
    boxes: Sequence[Boxes],
    pictures: Int64[np.ndarray, "queries"],
) -> float:
    """Return the mean of pointing and which object on the development pictures."""
    chosen = np.flatnonzero(~is_scored(pictures)).tolist()
    own = pictures[chosen]
    inside = np.stack([_inside(boxes[query]) for query in chosen])
    heat = upsampled(maps[chosen])
    hits = [_pointing(heat, inside).mean(), which_object(heat, inside, own).mean()]
    return float(np.mean(hits))


def which_object(
    heat: Float[np.ndarray, "queries side side"],
    inside: Bool[np.ndarray, "queries side side"],
    pictures: Int64[np.ndarray, "queries"],
) -> Bool[np.ndarray, "queries"]:
    """Return whether the mean heat in a query's own boxes is above that in all others' there.

    The others are those of the other phrases of its picture, unless they are the same boxes. A
    query without any is never wrong.
    """
    right = np.zeros(len(heat), bool)
    sizes = np.maximum(inside.sum(axis=(1, 2)), 1)
    for query in range(len(pictures)):
        rivals = _rivals(inside, pictures, query)
        own, others = (
            (heat[query] * inside[rows]).sum(axis=(1, 2)) / sizes[rows]
            for rows in ([query], rivals)
        )
        right[query] = own[0] > others.max(initial=-np.inf)
    return right


def _rivals(
    inside: Bool[np.ndarray, "queries side side"], pictures: np.ndarray, query: int
) -> Int64[np.ndarray, "rivals"]:
    """Return the queries of the same picture whose boxes are others."""
    same = np.flatnonzero(pictures == pictures[query])
    return same[(inside[same] != inside[query]).any(axis=(1, 2))]


def _objects_share(inside: np.ndarray, pictures: np.ndarray) -> Float[np.ndarray, "queries"]:
    """Return one over the number of different objects in a query's picture."""
    found = np.ones(len(pictures))
    for query in range(len(pictures)):
        rivals = {inside[row].tobytes() for row in _rivals(inside, pictures, query)}
        found[query] = 1 / (1 + len(rivals))
    return found


def _middles_of_any(boxes: Sequence[Boxes], pictures: np.ndarray) -> Float[np.ndarray, "queries"]:
    """Return, for each query, the share of its picture's boxes whose middles lie in its own."""
    found = np.zeros(len(pictures))
    for query, own in enumerate(boxes):
        same = np.flatnonzero(pictures == pictures[query]).tolist()
        different = np.unique(np.concatenate([boxes[row] for row in same]), axis=0)
        middles = (different[:, None, :2] + different[:, None, 2:]) / 2
        within = np.all((middles >= own[:, :2]) & (middles < own[:, 2:]), axis=2)
        found[query] = np.mean(np.any(within, axis=1))
    return found


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


def other_picture(pictures: Int64[np.ndarray, "queries"]) -> Int64[np.ndarray, "queries"]:
    """For each query, one of another picture: rolled by the most queries that one picture has."""
    return np.roll(np.arange(len(pictures)), np.bincount(pictures).max())
