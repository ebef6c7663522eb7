"""Changes of images against Pillow's, and that only (seed, position) decide them."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from oner_jax.data import augmentation
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.options import AugmentOptions, DataOptions
from oner_jax.data.pipeline import TrainingData, training_batches
from oner_jax.data.reading.kinds import PAIRS
from oner_jax.data.reading.mending import Mender
from oner_jax.data.reading.reader import Reader
from oner_jax.data.tokenizer import Tokenizer
from tests.data.samples import picture, record, write_split

NUMBER, BATCH, SIZE, SEED = 23, 8, 24, 1
EVERY = AugmentOptions(
    scale=0.5,
    shift=0.2,
    rotation_degrees=30.0,
    colour_scale=0.3,
    colour_offset=0.2,
    grey_fraction=0.3,
)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> DataOptions:
    records = [record(number) for number in range(NUMBER)]
    name = write_split(tmp_path_factory.mktemp("data") / "train", records)
    return DataOptions(name, "embedded", SIZE, text_tokens=12, flip=True, augment=EVERY)


def batches(options: DataOptions, count: int, first_step: int = 0, **sharding) -> list[dict]:
    arguments = {"global_batch_size": BATCH, "seed": SEED, "first_step": first_step} | sharding
    return list(itertools.islice(training_batches(options, **arguments), count))


def same(first: dict, second: dict) -> bool:
    return all(np.array_equal(first[key], second[key]) for key in first | second)


def uniforms(**places: float) -> np.ndarray:
    """One row of draws from the middle of every range, but where `places` name another."""
    numbers = np.full((1, augmentation.DRAWS), 0.5)
    for name, value in places.items():
        order = ("scale", "across", "down", "rotation", "grey", "red", "green", "blue")
        numbers[0, order.index(name)] = value
    return numbers


def change(pixels: np.ndarray, options: AugmentOptions, draws: np.ndarray) -> np.ndarray:
    (numbers,) = augmentation.drawn_changes(options, draws, len(pixels))
    assert numbers.shape == (augmentation.NUMBERS,)
    return augmentation.changed(tf.constant(pixels), tf.constant(numbers), options).numpy()


def test_the_middle_of_every_range_changes_nothing():
    pixels = picture(1, SIZE, SIZE)
    np.testing.assert_array_equal(change(pixels, EVERY, uniforms()), pixels)


def test_pixels_move_as_pillow_moves_them():
    """Enlarged by 1.5, turned by 30 degrees, then moved 6 pixels to the right and 3 up."""
    pixels = picture(2, SIZE, SIZE)
    options = AugmentOptions(scale=0.5, shift=0.25, rotation_degrees=60.0)
    got = change(pixels, options, uniforms(scale=1.0, across=1.0, down=0.25, rotation=0.75))
    # Drawn large, so that Pillow's integers of pixels do no harm.
    side = SIZE * 1.5
    image = Image.fromarray(pixels).resize((36, 36), Image.Resampling.BILINEAR)
    ground = Image.new("RGB", (96, 96), "white")
    corner = round(48 - side / 2)
    ground.paste(image, (corner, corner))
    turned = ground.rotate(-30, Image.Resampling.BILINEAR, fillcolor="white")
    expected = np.asarray(turned)[36 + 3 : 60 + 3, 36 - 6 : 60 - 6].astype(int)
    difference = np.abs(got.astype(int) - expected)
    # All but the edge of the image, which the two draw in different ways.
    assert np.median(difference) <= 1
    assert (difference > 12).mean() < 0.08


def test_a_shift_uncovers_white():
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    got = change(pixels, AugmentOptions(shift=0.25), uniforms(across=1.0, down=0.0))
    assert (got[:-6, 6:] == 0).all()
    assert (got[-6:] == 255).all()
    assert (got[:, :6] == 255).all()


def test_levels_change_as_asked():
    pixels = picture(3, SIZE, SIZE)
    draws = uniforms(red=1.0, green=0.0)
    draws[0, 8:] = (0.5, 0.75, 0.0)
    got = change(pixels, AugmentOptions(colour_scale=0.5, colour_offset=0.4), draws)
    levels = pixels * np.array([1.5, 0.5, 1.0]) + 255 * np.array([0.0, 0.2, -0.4])
    np.testing.assert_allclose(got, np.clip(levels, 0, 255), atol=0.51)
    grey = change(pixels, AugmentOptions(grey_fraction=0.6), uniforms())
    expected = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    np.testing.assert_allclose(grey, np.broadcast_to(expected, grey.shape), atol=1)


def test_strengths_bound_what_is_drawn():
    draws = np.random.default_rng(0).uniform(size=(4000, augmentation.DRAWS))
    numbers = augmentation.drawn_changes(EVERY, draws, SIZE)
    factors = 1 / np.hypot(numbers[:, 0], numbers[:, 1])
    angles = np.rad2deg(np.arctan2(numbers[:, 1], numbers[:, 0]))
    for values, low, high in (
        (factors, 1 / 1.5, 1.5),
        (angles, -30, 30),
        (numbers[:, 9:12], 0.7, 1.3),
        (numbers[:, 12:15], -51, 51),
    ):
        assert low <= values.min() + 1e-4
        assert values.max() - 1e-4 <= high
        assert np.ptp(values) > 0.98 * (high - low)
    np.testing.assert_allclose(numbers[:, 8].mean(), 0.3, atol=0.03)


def test_nothing_but_images_changes(options):
    plain = dataclasses.replace(options, augment=AugmentOptions())
    for changed, original in zip(batches(options, 2), batches(plain, 2), strict=True):
        differs = (changed.pop("image") != original.pop("image")).any(axis=(1, 2, 3))
        assert differs.all()
        assert same(changed, original)


def test_resuming_and_hosts_change_nothing(options):
    whole = batches(options, 4)
    assert all(map(same, whole[2:], batches(options, 2, first_step=2)))
    for rows in (np.arange(BATCH)[0::2], np.arange(BATCH)[1::2]):
        part = batches(options, 4, rows={"train": rows})
        for batch, share in zip(whole, part, strict=True):
            assert same({key: value[rows] for key, value in batch.items()}, share)


def test_an_example_made_again_changes_in_the_same_way(options):
    """As after storage that failed for a moment."""
    (batch,) = batches(options, 1)
    opened = TrainingData.open(options)
    reader = Reader(opened.mixtures["train"], Tokenizer.load("embedded"), options, SEED)
    mender = Mender(PAIRS, reader, options)
    for row in range(BATCH):
        np.testing.assert_array_equal(mender.make(row).arrays["image"][0], batch["image"][row])


def test_pictures_without_captions_change_too(options):
    alone = dataclasses.replace(options, image_only=options.train, image_only_batch_size=BATCH)
    plain = dataclasses.replace(alone, augment=AugmentOptions())
    (changed,), (original,) = batches(alone, 1), batches(plain, 1)
    assert (changed["image_only"] != original["image_only"]).any(axis=(1, 2, 3)).all()
