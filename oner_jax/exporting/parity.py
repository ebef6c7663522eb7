"""Does an export compute what the trained model computes? Fixed inputs through both."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from oner_jax.data.preprocessing import encoder_pixels
from oner_jax.errors import InputError
from oner_jax.exporting.source import Source
from oner_jax.models.embedding import Embedder

# Largest absolute difference between two unit vectors' elements, by what the export computes in.
TOLERANCES = {"float32": 1e-5, "bfloat16": 5e-2}

# Width, height and mode of pictures: tiny, extreme, usual; with and without colour and opacity.
PICTURES = (
    (1, 1, "RGB"),
    (3, 400, "RGB"),
    (640, 480, "RGB"),
    (97, 61, "RGBA"),
    (64, 64, "L"),
    (50, 70, "LA"),
    (33, 33, "P"),
    (120, 90, "CMYK"),
    (45, 45, "1"),
)
TEXTS = (
    "",
    "a red bicycle against a wall",
    "CAPITALS, punctuation; and   spaces\n",
    "zwei schlafende Kätzchen auf dem Sofa",
    "沙发上睡着两只猫",
    "два кота спят на диване",
    "🐈 🛋️",
    "one long caption that goes on " * 40,
    "x" * 500,
)

Encode = Callable[
    [UInt8[np.ndarray, "n size size 3"] | None, Int32[np.ndarray, "n tokens"] | None],
    Float32[np.ndarray, "n features"],
]
"""Embeddings at unit length of pictures (view I), of token ids (T), or of both (IT)."""


class Inputs(NamedTuple):
    """The fixed inputs, as many pictures as texts."""

    images: UInt8[np.ndarray, "n size size 3"]
    ids: Int32[np.ndarray, "n tokens"]

    def of(self, view: str, rows: slice) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What a view sees of them."""
        return (
            self.images[rows] if "I" in view else None,
            self.ids[rows] if "T" in view else None,
        )


def fixed_inputs(source: Source) -> Inputs:
    """`PICTURES` and `TEXTS` as the encoder takes them."""
    size = source.settings.image_size
    pictures = [encoder_pixels(_picture(*shape), size) for shape in PICTURES]
    return Inputs(np.stack(pictures), source.tokenizer.encode(TEXTS, source.settings.text_tokens))


def _picture(width: int, height: int, mode: str) -> Image.Image:
    """Noise, every channel of it."""
    random = np.random.default_rng(width * height)
    image = Image.fromarray(random.integers(0, 256, (height, width, 4), np.uint8))
    return image.convert("RGB").convert(mode) if mode in ("CMYK", "P", "1") else image.convert(mode)


def by_embedder(embedder: Embedder) -> Encode:
    """What an embedder gives, as `Encode` has it."""
    return lambda images, ids: embedder(images=images, text=ids).projected


def differences(source: Source, encode: Encode) -> dict[str, float]:
    """The largest absolute difference by view, over all inputs at once and over one alone."""
    reference, inputs = by_embedder(source.reference), fixed_inputs(source)
    return {
        view: max(
            _difference(reference(*given), encode(*given))
            for given in (inputs.of(view, slice(None)), inputs.of(view, slice(2, 3)))
        )
        for view in source.views
    }


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    found = np.asarray(found, np.float32)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return np.inf
    return float(np.abs(found - expected).max())


def check(name: str, source: Source, encode: Encode) -> dict[str, float]:
    """The differences by view. Raises InputError if one is beyond the tolerance."""
    found = differences(source, encode)
    tolerance = TOLERANCES[source.dtype]
    for view, difference in found.items():
        if not difference <= tolerance:
            raise InputError(
                f"{name}: embeddings of view {view} differ from the trained model's by "
                f"{difference:.1e}, more than {tolerance:.0e}; nothing was exported"
            )
    return found
