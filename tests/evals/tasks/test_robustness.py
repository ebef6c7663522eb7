"""Corruptions do what they say, more with every severity, and the same each time."""

import numpy as np
import pytest

from oner_jax.evals.engine.suite import evaluate_subject
from oner_jax.evals.inputs.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from oner_jax.evals.tasks.robustness import CorruptedPictures


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth shades with a sharp square, no value at the ends of the range."""
    across, down = np.meshgrid(np.linspace(0.2, 0.8, 64), np.linspace(0.3, 0.7, 64))
    pixels = np.stack([across, down, (across + down) / 2], axis=2)
    pixels[20:40, 20:40] = [0.75, 0.3, 0.4]
    return np.rint(255 * pixels).astype(np.uint8)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.mean(np.square(first.astype(np.float64) - second)))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_is_further_from_the_picture(picture, name):
    found = [corrupted(picture, name, severity, 7) for severity in SEVERITIES]
    away = [distance(picture, one) for one in found]
    assert away[0] > 0.3
    assert away == sorted(away)
    assert away[-1] > 1.7 * away[0]
    assert all(one.shape == picture.shape and one.dtype == np.uint8 for one in found)
    np.testing.assert_array_equal(corrupted(picture, name, 3, 7), found[2])


def test_known_effects(picture):
    def mean(image: np.ndarray) -> np.ndarray:
        return image.mean(axis=(0, 1))

    noise = corrupted(picture, "gaussian_noise", 1, 0).astype(np.float64) - picture
    assert noise.std() == pytest.approx(255 * 0.06, rel=0.05)
    np.testing.assert_allclose(
        mean(corrupted(picture, "brightness", 1, 0)), mean(picture) + 25.5, atol=1
    )
    for blur in ("defocus_blur", "motion_blur"):
        # Light is spread, not lost; the edge of the square is softer.
        blurred = corrupted(picture, blur, 3, 0)
        np.testing.assert_allclose(mean(blurred), mean(picture), atol=1.5)
        assert np.abs(np.diff(blurred.astype(float), axis=1)).max() < 80
    grey = corrupted(picture, "saturation", 5, 0)
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    pixelated = corrupted(picture, "pixelate", 5, 0)
    assert len(np.unique(pixelated.reshape(-1, 3), axis=0)) <= 10**2
    assert (corrupted(picture, "fog", 5, 0) >= picture).all()
    half = np.mean(corrupted(picture, "impulse_noise", 5, 0) != picture)
    assert half == pytest.approx(0.27, abs=0.03)


def test_noise_depends_on_the_pictures_number_alone(picture):
    images = np.stack([picture, picture, 255 - picture])
    source = CorruptedPictures(images, "shot_noise")
    (whole,) = source.image_batches(100)
    assert len(whole) == 15
    rows = np.array([14, 3, 7])
    parts = np.concatenate(list(source.image_batches(2, rows)))
    np.testing.assert_array_equal(parts, whole[rows])
    assert not np.array_equal(whole[0], whole[5])
    np.testing.assert_array_equal(whole[7], corrupted(picture, "shot_noise", 3, 1))


def test_a_model_of_mean_colours_stands_blur_and_not_brightness(colour_world):
    subject, _ = colour_world.subject()
    dataset = colour_world.dataset()
    cells = evaluate_subject(subject, [dataset], tasks=["robustness"])["val"]
    content = cells["robustness"].content
    found = cells["robustness"].measurements("projected")
    assert found["text_clean"].value == found["class_clean"].value == 1
    assert found["text_pixelate"].value == found["text_defocus_blur"].value == 1
    assert found["text_saturation"].value < 0.7
    severities = content["by_severity"]["text"]["contrast"]
    assert found["text_contrast"].value == pytest.approx(np.mean(severities), abs=1e-6)
    everything = [np.mean(content["by_severity"]["text"][name]) for name in CORRUPTIONS]
    assert found["text_corrupted"].value == pytest.approx(np.mean(everything), abs=1e-5)
