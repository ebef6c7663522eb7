import io

import numpy as np
from PIL import Image

from oner_jax.data.timing import photos


def test_the_same_number_is_the_same_picture():
    assert np.array_equal(photos.photo(3, 60, 80), photos.photo(3, 60, 80))
    assert not np.array_equal(photos.photo(3, 60, 80), photos.photo(4, 60, 80))
    assert photos.photo_file(3) == photos.photo_file(3)


def test_files_have_the_bytes_of_photographs():
    files = [photos.photo_file(seed) for seed in range(8)]
    assert 80_000 < np.mean([len(file) for file in files]) < 120_000
    assert all(Image.open(io.BytesIO(file)).size == (640, 480) for file in files)


def test_power_falls_as_in_natural_scenes():
    # Field 1987: about with the square of the frequency; white noise would not fall at all.
    grey = np.mean([photos.photo(seed, 256, 256).mean(-1) for seed in range(8)], axis=0)
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    inner = (frequency > 0.02) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[inner]), np.log(power[inner]), 1)[0]
    assert -3 < slope < -1.7


def test_captions_are_as_long_as_peoples():
    captions = [photos.photo_captions(seed, ["cat", "red bicycle", "house"]) for seed in range(50)]
    assert captions[0] == photos.photo_captions(0, ["cat", "red bicycle", "house"])
    words = [len(caption.split()) for pair in captions for caption in pair]
    assert 7 < np.mean(words) < 14
