"""Scenes: the same every time, apart from each other, and with boxes around what is there."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_sample_image

from oner_jax.evals.inputs.photographs import PHOTOGRAPHS, Crop, draw_crop
from oner_jax.evals.inputs.scenes import (
    Layout,
    compose,
    compose_all,
    on_photographs,
    place_apart,
    plan_scenes,
)


def test_layouts_use_each_picture_once_and_never_two_alike():
    captions = np.random.default_rng(0).integers(0, 40, 200)
    concepts = [f"thing {caption % 17}" if caption % 3 else "" for caption in captions]
    layouts = plan_scenes(captions, concepts)
    assert layouts == plan_scenes(captions, concepts)
    used = [picture for layout in layouts for picture in layout.pictures]
    assert len(used) == len(set(used)) > 180
    for layout in layouts:
        own = list(layout.pictures)
        assert len(set(captions[own])) == len(own) == len(layout.tiles)
        known = [concepts[picture] for picture in own if concepts[picture]]
        assert len(set(known)) == len(known)


def test_a_limit_and_too_few_pictures():
    captions = np.arange(30)
    assert len(plan_scenes(captions, [""] * 30, maximum=4)) == 4
    assert plan_scenes(np.zeros(30, np.int64), [""] * 30) == []
    nothing = compose_all([], {}, [], size=8)
    assert nothing.images.shape == (0, 8, 8, 3)


@pytest.mark.parametrize("seed", range(20))
def test_tiles_are_inside_and_apart(seed):
    canvas = np.zeros((500, 500), int)
    for left, top, side in place_apart(np.random.default_rng(seed), 3):
        assert 0 <= left <= left + side <= 1
        assert 0 <= top <= top + side <= 1
        first, last = np.ceil(500 * np.array([[left, top], [left + side, top + side]])).astype(int)
        canvas[first[1] : last[1], first[0] : last[0]] += 1
    assert canvas.max() == 1


def test_boxes_are_tight_around_what_is_shown():
    """Each picture has one rectangle of a colour of its own, found again by its colour."""
    colours = {4: [200, 0, 0], 7: [0, 150, 0], 9: [0, 0, 90]}
    pictures = {}
    for index, colour in colours.items():
        pictures[index] = np.full((64, 64, 3), 255, np.uint8)
        pictures[index][8 + index : 40, 16:60] = colour
    (layout,) = plan_scenes(np.arange(3), ["a", "b", "c"])
    layout = Layout((9, 4, 7), layout.tiles)
    canvas, boxes = compose(layout, pictures, 160)
    for picture, (left, top, right, bottom) in zip(layout.pictures, boxes * 160, strict=True):
        distance = np.abs(canvas.astype(int) - colours[picture]).max(axis=2)
        rows, columns = np.nonzero(distance < 40)
        # Shrinking blurs the edges by up to two pixels.
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose([left, top, right, bottom], found, atol=2)
        inside = canvas[int(top) : int(bottom), int(left) : int(right)]
        assert inside.min() < 100
        canvas[int(top) : int(bottom), int(left) : int(right)] = 255
    assert canvas.min() > 230  # nothing is left outside of the boxes


def test_a_white_picture_has_its_tile_as_box():
    layout = Layout((0,), ((0.25, 0.5, 0.5),))
    canvas, boxes = compose(layout, {0: np.full((9, 9, 3), 255, np.uint8)}, 8)
    assert canvas.min() == 255
    np.testing.assert_allclose(boxes, [[0.25, 0.5, 0.75, 1.0]])


def test_queries_follow_the_layouts():
    pictures = {index: np.full((4, 4, 3), 2 * index, np.uint8) for index in range(90)}
    layouts = plan_scenes(np.arange(90), [""] * 90)
    scenes = compose_all(layouts, pictures, [f"caption {index}" for index in range(90)], 12)
    assert scenes.pictures.tolist() == [index // 3 for index in range(90)]
    asked = [f"caption {picture}" for layout in layouts for picture in layout.pictures]
    assert scenes.phrases == asked
    for query, phrase in enumerate(asked):
        left, top, right, bottom = np.rint(scenes.boxes[query][0] * 12).astype(int)
        shown = scenes.images[scenes.pictures[query], top:bottom, left:right]
        assert (shown == 2 * int(phrase.split()[1])).all()
    batches = list(scenes.image_batches(1))
    np.testing.assert_array_equal(np.concatenate(batches), scenes.images)


def test_photographs_change_the_ground_and_nothing_else():
    layouts = plan_scenes(np.arange(60), [""] * 60)
    photographed = on_photographs(layouts)
    assert photographed == on_photographs(layouts)
    crops = [layout.ground for layout in photographed if layout.ground is not None]
    assert {crop.file for crop in crops} == {each.file for each in PHOTOGRAPHS}
    assert len(set(crops)) == len(layouts)
    pictures = {}
    for index in range(60):
        pictures[index] = np.full((40, 40, 4), [200, 4 * index, 0, 0], np.uint8)
        pictures[index][8:30, 4:36, 3] = 255
    captions = [f"caption {index}" for index in range(60)]
    plain = compose_all(layouts, pictures, captions, 96)
    scenes = compose_all(photographed, pictures, captions, 96)
    assert scenes.phrases == plain.phrases
    np.testing.assert_array_equal(np.stack(scenes.boxes), np.stack(plain.boxes))
    for crop, image, white in zip(crops, scenes.images, plain.images, strict=True):
        ground = crop.pixels(96)
        shown = (white != 255).any(axis=2)
        # What is whole is in front of either; what is transparent lets the ground through.
        np.testing.assert_array_equal(image[~shown], ground[~shown])
        inner = ndimage.binary_erosion(shown, iterations=3)
        # The filter that shrinks overshoots by a level of alpha.
        np.testing.assert_allclose(image[inner], white[inner], atol=1)


def test_a_crop_is_a_square_of_its_photograph():
    whole = load_sample_image("flower.jpg")
    crop = Crop("flower.jpg", left=100, top=20, side=64)
    np.testing.assert_array_equal(crop.pixels(64), whole[20:84, 100:164])
    for seed in range(50):
        drawn = draw_crop(np.random.default_rng(seed))
        assert 213 <= drawn.side <= 427
        assert 0 <= drawn.left <= 640 - drawn.side
        assert 0 <= drawn.top <= 427 - drawn.side


def test_a_thing_that_is_white_has_a_box_where_it_is_opaque():
    picture = np.full((64, 64, 4), 255, np.uint8)
    picture[:16, :, 3] = 0
    canvas, boxes = compose(Layout((0,), ((0.0, 0.0, 1.0),)), {0: picture}, 64)
    assert canvas.min() == 255
    np.testing.assert_allclose(boxes, [[0.0, 0.25, 1.0, 1.0]])
