"""Image files of any kind to what records hold: upright JPEG, PNG or WebP of bounded size.

Used once, when data are ingested. Pillow reads the file, so whatever it reads is accepted: GIF and
other animations give their first frame. A file that is fine as it is keeps its bytes.
"""

import dataclasses
import io
import warnings

import numpy as np
from PIL import Image, ImageOps

# Decoding 64 million pixels takes 256 MB; a "decompression bomb" asks for far more.
MAXIMUM_PIXELS = 64_000_000

# Where a PNG says how many bits a channel (or palette index) has.
PNG_BITS_OFFSET = 24

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = 1


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """How images are stored.

    Pictures whose longer side exceeds `maximum_side` pixels are shrunk to it. Re-encoded pictures
    become JPEG if they were, else WebP, at these qualities (0-100, the encoders' own scales).
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


def stored_image(file: bytes, options: ImageOptions) -> StoredImage:
    """The file's picture as a record holds it. ValueError, saying why, if it cannot be decoded."""
    image = open_image(file)
    as_it_is = (
        _training_reads(image, file)
        and image.getexif().get(_EXIF_ORIENTATION, _UPRIGHT) == _UPRIGHT
        and max(image.size) <= options.maximum_side
        and not options.pad_to_square
    )
    if as_it_is:
        return StoredImage(file, image.height, image.width)
    return _reencoded(image, options)


def open_image(file: bytes) -> Image.Image:
    """The decoded file. ValueError, saying why, if it cannot be decoded."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and of oddities that it survives; ours is the limit.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(file))
            if image.width * image.height > MAXIMUM_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} pixels, more than {MAXIMUM_PIXELS:,}"
                )
            image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(f"more than {MAXIMUM_PIXELS:,} pixels") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(str(error).replace("\n", " ")) from error
    return image


def on_white(image: Image.Image) -> Image.Image:
    """The picture upright and in RGB, transparency on a white ground as in training."""
    coloured = _upright(image).convert("RGBA")
    ground = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(ground, coloured).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """As the file's EXIF orientation says, with at most eight bits a channel."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
    return upright


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
    upright = _upright(image)
    transparent = upright.has_transparency_data or options.pad_to_square
    pixels = upright.convert("RGBA" if transparent else "RGB")
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
