"""Pictures like photographs, made from a number: what the input benchmark reads.

Their power falls with frequency as that of natural scenes does (about 1 / f^2), over areas with
sharp edges, so that a JPEG of one has the bytes, and costs the decoding time, of a photograph's.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

_SHAPES = 12
_LIGHT_LEVELS, _COLOUR_LEVELS = 26.0, 12.0


def photo(seed: int, height: int = 480, width: int = 640) -> UInt8[np.ndarray, "height width 3"]:
    """The picture of this number."""
    random = np.random.default_rng(seed)
    light = _scene_noise(random, height, width, falloff=random.uniform(1.0, 1.25))
    # Colour varies more slowly than light.
    red, blue = (_scene_noise(random, height, width, falloff=1.6) for _ in range(2))
    colours = np.stack([red, -(red + blue) / 2, blue], axis=-1)
    noisy = _shapes(random, height, width) + _LIGHT_LEVELS * light[..., None]
    return np.clip(noisy + _COLOUR_LEVELS * colours, 0, 255).astype(np.uint8)


def _scene_noise(
    random: np.random.Generator, height: int, width: int, falloff: float
) -> Float[np.ndarray, "height width"]:
    """Noise of standard deviation 1 whose amplitude falls with frequency to this power."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    phases = random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape)
    noise = np.fft.irfft2(phases / frequency**falloff, s=(height, width))
    return noise / noise.std()


def _shapes(random: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Ellipses and rectangles of even colour before a ground."""

    def colour() -> tuple[int, ...]:
        return tuple(random.integers(20, 236, 3).tolist())

    canvas = Image.new("RGB", (width, height), colour())
    draw = ImageDraw.Draw(canvas)
    for _ in range(_SHAPES):
        x, y = random.integers((width, height))
        reach = random.integers((width // 32, height // 24), (width // 3, height // 3))
        box = (int(x - reach[0]), int(y - reach[1]), int(x + reach[0]), int(y + reach[1]))
        outline: Callable = draw.ellipse if random.random() < 0.5 else draw.rectangle
        outline(box, fill=colour())
    return np.asarray(canvas)


def photo_file(seed: int, height: int = 480, width: int = 640, quality: int = 88) -> bytes:
    """The picture as a JPEG: about 100 KB at 640 x 480."""
    buffer = io.BytesIO()
    Image.fromarray(photo(seed, height, width)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def photo_captions(seed: int, phrases: Sequence[str]) -> tuple[str, str]:
    """Two captions of the length people write (about ten words), put together of short phrases."""
    chosen = np.random.default_rng(seed).choice(len(phrases), 6)
    first, second, third, fourth, fifth, sixth = (phrases[index] for index in chosen)
    return f"a {first} and a {second} beside the {third}", f"{fourth}, with {fifth} and {sixth}"
