"""Image files of any kind to what records hold: upright JPEG, PNG or WebP of bounded size.

Used once, when data are ingested. Pillow reads the file; GIF and other animations give their first
frame. A file that is fine as it is keeps its bytes.
"""

import contextlib
import dataclasses
import io
import math
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from oner_jax.data.bare_images import without_metadata
from oner_jax.data.image_formats import known_formats, missing_reader
from oner_jax.data.preprocessing import encoder_pixels, is_turned, upright
from oner_jax.data.reasons import Reason

# Decoding 64 million pixels takes 256 MB; a "decompression bomb" asks for far more.
MAXIMUM_PIXELS = 64_000_000

# Where a PNG says how many bits a channel (or palette index) has.
PNG_BITS_OFFSET = 24

Result = TypeVar("Result")


class UnfitImage(ValueError):
    """A file that gives no picture. The message says what is wrong with it."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple:
        return UnfitImage, (self.reason, str(self))


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """How images are stored.

    Pictures whose longer side exceeds `maximum_side` pixels are shrunk to it (0: none is).
    Re-encoded pictures become JPEG if they were, else WebP, at these qualities (0-100, the
    encoders' own scales).
    `pad_to_square` puts each picture in the middle of a transparent square, so that no centre crop
    cuts it, and re-encodes all.
    """

    maximum_side: int = 256
    quality: int = 90
    alpha_quality: int = 100
    pad_to_square: bool = False


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An encoded image as a record holds it, with its size in pixels."""

    encoded: bytes
    height: int
    width: int


def size_in_pixels(file: bytes) -> tuple[int, int]:
    """Width and height that the file's header promises. UnfitImage if it cannot be read."""
    return _read(file, lambda image, _: image.size)


def stored_image(file: bytes, options: ImageOptions) -> StoredImage:
    """The file's picture as a record holds it. UnfitImage if it cannot be decoded.

    A file that keeps its bytes is not decoded here: only training's decoder can say that it reads
    them (`images.check_decodes`).
    """

    def stored(image: Image.Image, content: bytes) -> StoredImage:
        if _is_fit(image, content, options):
            return StoredImage(content, image.height, image.width)
        return _reencoded(image, options)

    return _read(file, stored)


def open_image(file: bytes, enough_pixels: int | None = None) -> Image.Image:
    """The decoded file. UnfitImage, saying why, if it cannot be decoded.

    A JPEG is decoded at reduced scale where that leaves `enough_pixels` on either side.
    """

    def decoded(image: Image.Image, _: bytes) -> Image.Image:
        if enough_pixels:
            image.draft(None, (enough_pixels, enough_pixels))
        image.load()
        return image

    return _read(file, decoded)


def file_pixels(file: bytes, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """What the encoder sees of the file's picture. UnfitImage if it cannot be decoded."""
    return _read(file, lambda image, _: encoder_pixels(image, size))


def _read(file: bytes, use: Callable[[Image.Image, bytes], Result]) -> Result:
    """What `use` makes of the opened file, no pixel of which is decoded yet, and of its bytes.

    What only describes the picture is left out where it is in the way.
    """
    try:
        with _reading(file):
            return use(_opened(file), file)
    except UnfitImage:
        bare = without_metadata(file)
        if bare is None:
            raise
        with contextlib.suppress(UnfitImage), _reading(bare):
            return use(_opened(bare), bare)
        raise


def _opened(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file), formats=known_formats())
    if image.width * image.height > MAXIMUM_PIXELS:
        raise UnfitImage(Reason.TOO_MANY_PIXELS, f"{image.width} x {image.height} pixels")
    return image


@contextlib.contextmanager
def _reading(file: bytes) -> Iterator[None]:
    """Whatever Pillow makes of a damaged file ends as UnfitImage."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and of oddities that it survives; ours is the limit.
            warnings.simplefilter("ignore")
            yield
    except UnfitImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnfitImage(Reason.TOO_MANY_PIXELS, f"more than {MAXIMUM_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:  # its message names a place in memory
        detail = missing_reader(file) or "no picture of a known format"
        raise UnfitImage(Reason.UNDECODABLE_IMAGE, detail) from error
    except Exception as error:  # its decoders raise nearly everything, struct.error to MemoryError
        message = str(error).replace("\n", " ") or type(error).__name__
        raise UnfitImage(Reason.UNDECODABLE_IMAGE, message) from error


def _is_fit(image: Image.Image, file: bytes, options: ImageOptions) -> bool:
    """Whether the file can be stored as it is."""
    return (
        _training_reads(image, file)
        and not options.pad_to_square
        and not _exceeds(image, options.maximum_side)
        and not is_turned(image)
    )


def _exceeds(image: Image.Image, maximum_side: int) -> bool:
    return max(image.size) > maximum_side > 0


def _training_reads(image: Image.Image, file: bytes) -> bool:
    """Whether `images.decode_crop_resize` reads the file as Pillow does."""
    match image.format:
        case "JPEG":
            return image.mode != "CMYK"
        case "PNG":
            return file[PNG_BITS_OFFSET] >= 8
        case "WEBP":
            return getattr(image, "n_frames", 1) == 1
    return False


def _reencoded(image: Image.Image, options: ImageOptions) -> StoredImage:
    """Upright, shrunk, padded and encoded."""
    # MPO is what some cameras write: a JPEG with further pictures behind it.
    as_jpeg = image.format in ("JPEG", "MPO") and not options.pad_to_square
    shrinks = _exceeds(image, options.maximum_side)
    if shrinks and as_jpeg:
        # A JPEG decodes to an eighth, a quarter or half of its size for less. The smallest that is
        # twice the size wanted, or larger, leaves the result to the filter below.
        factor = 2 * options.maximum_side / max(image.size)
        image.draft(None, (math.ceil(image.width * factor), math.ceil(image.height * factor)))
    turned = upright(image)
    transparent = turned.has_transparency_data or options.pad_to_square
    pixels = turned.convert("RGBA" if transparent else "RGB")
    if shrinks:
        # Pillow weighs colours by their opacity here, so hidden colours do not bleed into edges.
        pixels.thumbnail((options.maximum_side, options.maximum_side), Image.Resampling.LANCZOS)
    if options.pad_to_square:
        side = max(pixels.size)
        square = Image.new("RGBA", (side, side))
        square.paste(pixels, ((side - pixels.width) // 2, (side - pixels.height) // 2))
        pixels = square
    buffer = io.BytesIO()
    if as_jpeg:
        pixels.save(buffer, "JPEG", quality=options.quality)
    else:
        pixels.save(
            buffer,
            "WEBP",
            quality=options.quality,
            alpha_quality=options.alpha_quality,
            method=6,
        )
    return StoredImage(buffer.getvalue(), pixels.height, pixels.width)
