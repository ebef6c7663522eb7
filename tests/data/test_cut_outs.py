"""Things cut out: by transparency, else by white that reaches the rim, else not at all."""

import io

import numpy as np
from PIL import Image

from oner_jax.data.cut_outs import cut_out, white_ground
from oner_jax.data.evaluation import evaluation_set
from oner_jax.data.records import Record, open_split


def test_white_inside_a_thing_is_not_ground():
    picture = np.full((20, 20, 3), 250, np.uint8)
    picture[4:16, 4:16] = 30
    picture[8:12, 8:12] = 255
    ground = white_ground(picture)
    expected = np.ones((20, 20), bool)
    expected[4:16, 4:16] = False
    np.testing.assert_array_equal(ground, expected)
    cut = cut_out(Image.fromarray(picture), 20)
    np.testing.assert_array_equal(cut[..., 3] == 0, expected)
    np.testing.assert_array_equal(cut[~expected][:, :3], picture[~expected])


def test_a_picture_without_ground_stays_whole():
    photograph = np.random.default_rng(0).integers(0, 200, (12, 30, 3), np.uint8)
    cut = cut_out(Image.fromarray(photograph), 12)
    np.testing.assert_array_equal(cut[..., :3], photograph[:, 9:21])
    assert cut[..., 3].min() == 255
    assert cut_out(Image.new("RGB", (8, 8), "white"), 8)[..., 3].min() == 255


def test_transparency_is_kept_and_white_of_the_thing_with_it():
    levels = np.zeros((16, 16, 4), np.uint8)
    levels[2:14, 2:14] = 255
    cut = cut_out(Image.fromarray(levels), 16)
    np.testing.assert_array_equal(cut[..., 3], levels[..., 3])


def test_embedded_pictures_are_cut_out_by_their_transparency():
    split = open_split("embedded:val")
    rows = list(range(0, 889, 111))
    found = list(evaluation_set("embedded:val", image_size=48).cut_outs(rows, 96))
    transparent = 0
    for row, cut in zip(rows, found, strict=True):
        stored = Image.open(io.BytesIO(Record.parse(split.read([row])[0]).image))
        if stored.size == (96, 96) and stored.mode == "RGBA":
            transparent += 1
            np.testing.assert_array_equal(cut[..., 3], np.asarray(stored)[..., 3])
    assert transparent > 2
