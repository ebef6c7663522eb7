"""Localisation against formulas written anew, and maps planted where things are."""

import numpy as np
import pytest

from oner_jax.evals.inputs.readouts import heat_maps
from oner_jax.evals.tasks.localisation import (
    DEVELOPMENT_EVERY,
    MAP_SIDE,
    boxes_around_largest,
    development_score,
    localisation,
    other_picture,
    overlap,
    upsampled,
    which_object,
)

GRID = 12  # patches a side; MAP_SIDE is a multiple of it


def test_heat_is_the_softmax_of_cosines():
    random = np.random.default_rng(0)
    phrases, patches = random.normal(size=(5, 7)), random.normal(size=(5, 9, 7))
    heat = heat_maps(phrases, patches)
    for row in range(5):
        cosines = [
            patch @ phrases[row] / np.linalg.norm(patch) / np.linalg.norm(phrases[row])
            for patch in patches[row]
        ]
        np.testing.assert_allclose(heat[row], np.exp(cosines) / np.exp(cosines).sum())


def test_upsampling_is_cubic_convolution_with_repeated_edges():
    """Keys (1981), a = -1/2, the outermost samples repeated."""
    maps = np.random.default_rng(0).normal(size=(2, 16))

    def kernel(distance: float) -> float:
        x = abs(distance)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    weights = np.zeros((20, 4))
    for pixel in range(20):
        centre = (pixel + 0.5) * 4 / 20 - 0.5
        for sample in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[pixel, np.clip(sample, 0, 3)] += kernel(centre - sample)
    expected = [weights @ grid.reshape(4, 4) @ weights.T for grid in maps]
    np.testing.assert_allclose(upsampled(maps, 20), expected, atol=1e-5)


def test_overlap_equals_counting_pixels():
    random = np.random.default_rng(0)
    edges = np.sort(random.integers(0, 30, (50, 2, 2, 2)), axis=2)
    edges[:, :, 1] += 1
    boxes = edges.reshape(50, 2, 4).astype(float)
    found = overlap(boxes[:, 0], boxes[:, 1])
    for (first, second), value in zip(edges, found, strict=True):
        masks = np.zeros((2, 31, 31), bool)
        for mask, (low, high) in zip(masks, (first, second), strict=True):
            mask[low[1] : high[1], low[0] : high[0]] = True
        counted = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        assert value == pytest.approx(counted)


def test_boxes_are_around_the_largest_region():
    heat = np.zeros((3, 10, 10))
    heat[0, 1, 1] = 1.0
    heat[0, 4:6, 3:7] = 0.6
    heat[0, 6, 7] = 0.5  # touches by a corner
    heat[1] = 1.0
    heat[2, 9, 2:4] = 1.0
    rest = [[0, 0, 1, 1], [0.2, 0.9, 0.4, 1]]
    for threshold, box in (
        (0.55, [0.3, 0.4, 0.7, 0.6]),
        (0.45, [0.3, 0.4, 0.8, 0.7]),
        (0.9, [0.1, 0.1, 0.2, 0.2]),
    ):
        found = boxes_around_largest(heat, threshold)
        np.testing.assert_allclose(found, np.array([box, *rest]))


def planted(number: int = 40) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Maps that are hot over one box, which is several patches wide; two queries a picture."""
    random = np.random.default_rng(1)
    maps, boxes = np.zeros((number, GRID, GRID)), []
    for query, heat in enumerate(maps):
        top, left = random.integers(0, GRID - 4, 2)
        left = left // 2 + 6 * (query % 2)  # one in each half of its picture
        left = min(left, GRID - 4)
        heat[top : top + 4, left : left + 4] = 1.0
        heat[top + 1 : top + 3, left + 1 : left + 3] = 2.0
        boxes.append(np.array([[left, top, left + 4, top + 4]]) / GRID)
    return maps.reshape(number, -1), boxes, np.arange(number) // 2


def test_a_model_that_knows_where_things_are():
    maps, boxes, pictures = planted()
    found = localisation(maps, maps[other_picture(pictures)], boxes, pictures)
    assert found["pointing"].value == found["box"].value == found["which_object"].value == 1
    assert found["pointing"].chance == pytest.approx((4 / GRID) ** 2)
    assert found["pointing"].cases == found["box"].cases == found["which_object"].cases == 30
    assert found["pointing_other_phrase"].value < 0.6
    assert found["box_other_phrase"].value < 0.6
    assert found["box_whole"].value == 0
    keep = [picture % DEVELOPMENT_EVERY != 0 for picture in pictures]
    scored = [box[0] for box, kept in zip(boxes, keep, strict=True) if kept]
    centre = [(box[:2] <= 0.5).all() and (box[2:] > 0.5).all() for box in scored]
    assert found["pointing_centre"].value == pytest.approx(np.mean(centre))
    # Two boxes a picture, apart from each other.
    assert found["pointing_any_object"].value == 1
    assert found["pointing_any_object"].chance == pytest.approx(2 * (4 / GRID) ** 2)
    assert found["pointing_salient"].value == found["which_object"].chance == 0.5
    # Found boxes are the right ones, so dealing them out compares every box with every other.
    dealt = [overlap(np.array(scored), second) >= 0.5 for second in scored]
    assert found["box"].chance == pytest.approx(np.mean(dealt))


def test_maps_that_know_nothing():
    maps, boxes, pictures = planted()
    flat = localisation(np.ones_like(maps), maps, boxes, pictures)
    assert flat["pointing"].value == flat["box"].value == flat["which_object"].value == 0
    wide = [np.array([[0.1, 0.1, 0.9, 0.95]])] * 40
    whole = localisation(np.ones_like(maps), maps, wide, pictures)
    assert whole["box"].value == whole["box_whole"].value == whole["box_centre"].value == 1
    assert whole["pointing"].value == 0
    assert "which_object" not in whole  # both phrases of a picture have the same box


def test_any_of_several_boxes_counts():
    maps, boxes, pictures = planted()
    elsewhere = np.array([[0.0, 0.0, 1 / MAP_SIDE, 1 / MAP_SIDE]])
    several = [np.concatenate([elsewhere, box]) for box in boxes]
    found = localisation(maps, maps, several, pictures)
    assert found["pointing"].value == found["box"].value == 1


def test_another_picture_is_never_the_same():
    pictures = np.array([0, 0, 0, 1, 2, 2, 3])
    assert not (pictures[other_picture(pictures)] == pictures).any()
    assert sorted(other_picture(pictures)) == list(range(7))


def test_which_object_is_the_box_of_the_highest_mean():
    """Counted pixel by pixel, with three boxes a picture."""
    random = np.random.default_rng(2)
    heat = random.random((12, 10, 10))
    inside = np.zeros((12, 10, 10), bool)
    for region in inside:
        top, left = random.integers(0, 7, 2)
        region[top : top + 3, left : left + random.integers(1, 4)] = True
    pictures = np.arange(12) // 3
    inside[5] = inside[4]  # two phrases for one thing
    found = which_object(heat, inside, pictures)
    for query in range(12):
        rows = [row for row in range(12) if row // 3 == query // 3]
        means = {row: heat[query][inside[row]].mean() for row in rows}
        assert found[query] == (means[query] == max(means.values()))


def test_the_development_score_is_that_of_the_pictures_that_are_not_scored():
    maps, boxes, pictures = planted()
    spoilt = maps.copy()
    spoilt[pictures % DEVELOPMENT_EVERY != 0] = 1.0  # flat, and never right
    assert development_score(spoilt, boxes, pictures) == 1
    assert development_score(maps[other_picture(pictures)], boxes, pictures) < 1
    found = localisation(spoilt, spoilt, boxes, pictures)
    assert found["pointing"].value == found["which_object"].value == 0
