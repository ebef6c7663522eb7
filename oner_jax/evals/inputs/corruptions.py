"""Corruptions of pictures in five severities, made when they are needed.

Kinds and idea are those of ImageNet-C (Hendrycks & Dietterich, ICLR 2019); the code and strengths
are ours, so numbers compare with each other and not with ImageNet-C's. Lengths are parts of the
picture's side: a corruption looks alike at every size.
"""

import functools
import io
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

SEVERITIES = (1, 2, 3, 4, 5)

Pixels = Float[np.ndarray, "size size 3"]  # from 0 to 1
Corruption = Callable[[Pixels, float, np.random.Generator], Pixels]


def gaussian_noise(image: Pixels, deviation: float, random: np.random.Generator) -> Pixels:
    """Independent noise of this standard deviation, as of a sensor in the dark."""
    return image + random.normal(0.0, deviation, image.shape)


def shot_noise(image: Pixels, photons: float, random: np.random.Generator) -> Pixels:
    """Each value counted in so many photons at full brightness (Poisson)."""
    return random.poisson(image * photons) / photons


def impulse_noise(image: Pixels, fraction: float, random: np.random.Generator) -> Pixels:
    """That part of the values is black or white."""
    drawn = random.random(image.shape)
    return np.where(drawn < fraction / 2, 0.0, np.where(drawn > 1 - fraction / 2, 1.0, image))


def defocus_blur(image: Pixels, radius: float, random: np.random.Generator) -> Pixels:
    """Every point spread over a disk."""
    reach = radius * len(image)
    offsets = np.arange(-int(np.ceil(reach)), int(np.ceil(reach)) + 1)
    distance = np.hypot(offsets[:, None], offsets[None, :])
    return _filtered(image, np.clip(reach + 0.5 - distance, 0.0, 1.0))


def motion_blur(image: Pixels, length: float, random: np.random.Generator) -> Pixels:
    """Every point spread over a line in a random direction."""
    reach = max(1, round(length * len(image) / 2))
    angle = random.uniform(0.0, np.pi)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    steps = np.linspace(-reach, reach, 8 * reach + 1)
    rows, columns = (reach + np.rint(steps * turn(angle)).astype(int) for turn in (np.sin, np.cos))
    np.add.at(kernel, (rows, columns), 1.0)
    return _filtered(image, kernel)


def zoom_blur(image: Pixels, most: float, random: np.random.Generator) -> Pixels:
    """The mean of the picture at magnifications up to 1 + `most`."""
    size = len(image)
    stored = Image.fromarray(_as_bytes(image))
    layers = []
    for zoom in np.linspace(1.0, 1.0 + most, 6):
        edge = size * (1 - 1 / zoom) / 2
        box = (edge, edge, size - edge, size - edge)
        layers.append(np.asarray(stored.resize((size, size), Image.Resampling.BILINEAR, box=box)))
    return np.mean(layers, axis=0) / 255.0


def brightness(image: Pixels, more: float, random: np.random.Generator) -> Pixels:
    """Brighter by a constant."""
    return image + more


def contrast(image: Pixels, kept: float, random: np.random.Generator) -> Pixels:
    """Only that part of every value's distance from the picture's mean is left."""
    mean = image.mean(axis=(0, 1))
    return mean + kept * (image - mean)


def saturation(image: Pixels, kept: float, random: np.random.Generator) -> Pixels:
    """Only that part of every value's distance from grey is left."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return grey[:, :, None] + kept * (image - grey[:, :, None])


def fog(image: Pixels, density: float, random: np.random.Generator) -> Pixels:
    """White clouds in front: noise of many scales, smooth noise the strongest."""
    size = len(image)
    clouds = np.zeros((size, size))
    scale = 0.25 * size
    while scale >= 1.0:
        layer = ndimage.gaussian_filter(random.normal(size=(size, size)), scale, mode="wrap")
        clouds += scale * layer / max(float(layer.std()), 1e-9)
        scale /= 2
    clouds -= clouds.min()
    cover = density * clouds / max(float(clouds.max()), 1e-9)
    return image + (1.0 - image) * cover[:, :, None]


def pixelate(image: Pixels, kept: float, random: np.random.Generator) -> Pixels:
    """Shrunk to that part of its side, and enlarged without smoothing."""
    size = len(image)
    side = max(1, round(kept * size))
    small = Image.fromarray(_as_bytes(image)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.NEAREST)) / 255.0


def jpeg(image: Pixels, quality: float, random: np.random.Generator) -> Pixels:
    """Stored as JPEG of this quality."""
    file = io.BytesIO()
    Image.fromarray(_as_bytes(image)).save(file, "JPEG", quality=round(quality))
    return np.asarray(Image.open(file)) / 255.0


# The strength of each severity.
CORRUPTIONS: Mapping[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.06, 0.1, 0.15, 0.22, 0.32)),
    "shot_noise": (shot_noise, (80.0, 40.0, 20.0, 10.0, 5.0)),
    "impulse_noise": (impulse_noise, (0.02, 0.05, 0.1, 0.17, 0.27)),
    "defocus_blur": (defocus_blur, (0.01, 0.015, 0.022, 0.032, 0.045)),
    "motion_blur": (motion_blur, (0.04, 0.06, 0.09, 0.13, 0.18)),
    "zoom_blur": (zoom_blur, (0.1, 0.16, 0.22, 0.3, 0.4)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.5, 0.35, 0.22, 0.13, 0.07)),
    "saturation": (saturation, (0.6, 0.4, 0.25, 0.1, 0.0)),
    "fog": (fog, (0.4, 0.55, 0.7, 0.8, 0.9)),
    "pixelate": (pixelate, (0.6, 0.45, 0.32, 0.23, 0.16)),
    "jpeg": (jpeg, (40.0, 25.0, 15.0, 8.0, 4.0)),
}


def corrupted(
    image: UInt8[np.ndarray, "size size 3"], name: str, severity: int, number: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The picture under one corruption of severity 1 to 5.

    What is drawn at random depends on the corruption and on the picture's `number` in its dataset.
    """
    corrupt, strengths = CORRUPTIONS[name]
    random = np.random.default_rng((list(CORRUPTIONS).index(name), number))
    return _as_bytes(corrupt(image / 255.0, strengths[severity - 1], random))


def _filtered(image: Pixels, kernel: np.ndarray) -> Pixels:
    blur = functools.partial(ndimage.convolve, weights=kernel / kernel.sum(), mode="nearest")
    return np.stack([blur(image[:, :, channel]) for channel in range(3)], axis=2)


def _as_bytes(image: Pixels) -> UInt8[np.ndarray, "size size 3"]:
    return np.rint(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
