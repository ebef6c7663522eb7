"""A picture of any size and mode to the square of bytes that the encoder takes.

The same as evaluation's decoder gives (`oner_jax.data.images`, which works inside TensorFlow), but
for single levels where rounding falls the other way. Every export carries a copy of this file, so
it imports NumPy and Pillow alone.

Upright as EXIF says; transparency on white; the largest square in the middle; shrunk by the mean
over each new pixel's area, or enlarged linearly between centres of pixels; rounded half up.
"""

import numpy as np
from PIL import Image

# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that leaves this many times the pixels of the
# result on either side.
_REDUCTIONS = (8, 4, 2)
_REDUCED_OVERSIZE = 1.5

# What undoes each EXIF orientation but 1, upright (CIPA DC-008, tag 0x0112).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow keeps what says the orientation.
_ORIENTED = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
# What Pillow opens as mode I, 32 bits a level, though white is 65535.
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")


def encoder_pixels(image: Image.Image, size: int) -> np.ndarray:
    """uint8 [size, size, 3] of the square in the middle.

    An image that was opened from a JPEG, and not loaded yet, is decoded no larger than needed.
    Raises ValueError for an image without pixels, and for one whose levels have no known range.
    """
    _check_fit(image)
    left, top, right, bottom = _middle_square(*image.size)
    reduction = _reduce(image, right - left, size)
    left, top, right, bottom = (
        (edge + reduction // 2) // reduction for edge in (left, top, right, bottom)
    )
    # Turning it first or last is the same for a square in the middle, but for an odd pixel left.
    if not is_turned(image):
        return resized(_on_white(image.crop((left, top, right, bottom))), size)
    turned = _turned(image)
    return resized(_on_white(turned.crop(_middle_square(*turned.size))), size)


def squeezed_pixels(image: Image.Image, size: int) -> np.ndarray:
    """uint8 [size, size, 3] of the whole picture, its sides brought to the same length.

    For localisation: no part is cut off, and boxes as parts of the sides stay what they are.
    """
    return np.asarray(on_white(image).resize((size, size), Image.Resampling.LANCZOS))


def on_white(image: Image.Image) -> Image.Image:
    """The picture upright and in RGB, transparency on a white ground."""
    turned = upright(image)
    if not turned.has_transparency_data:
        return turned.convert("RGB")
    coloured = turned.convert("RGBA")
    ground = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(ground, coloured).convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """As the file's EXIF orientation says, with at most eight bits a channel.

    Raises ValueError for an image without pixels, and for one whose levels have no known range.
    """
    _check_fit(image)
    return _turned(image)


def _check_fit(image: Image.Image) -> None:
    if not all(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels are not an image")
    # Any range may be meant by these modes, and Pillow would cut off at 255.
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BIT_FORMATS):
        raise ValueError(
            f"in Pillow's mode {image.mode} no level is known to be white: convert it to mode L, "
            "with levels from 0 to 255"
        )


def _turned(image: Image.Image) -> Image.Image:
    image.load()  # some decoders turn it themselves
    turn = _TURNS.get(_orientation(image))
    turned = image if turn is None else image.transpose(turn)
    if turn is not None:
        for name in _ORIENTED:  # or it would be turned again
            turned.info.pop(name, None)
    if turned.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        turned = Image.fromarray((np.asarray(turned) // 257).astype(np.uint8))
    return turned


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, channels] of levels [height, width, channels]."""
    enlarges = min(pixels.shape[:2]) < size
    resize = _enlarged if enlarges else _shrunk
    rows = resize(pixels, size)
    both = resize(rows.swapaxes(0, 1), size).swapaxes(0, 1)
    return np.floor(both + 0.5).astype(np.uint8)


def _shrunk(values: np.ndarray, size: int) -> np.ndarray:
    """Means over `size` equal stretches of the first axis, in float64."""
    length = len(values)
    starts = np.arange(size) * length / size
    ends = np.arange(1, size + 1) * length / size
    first = np.floor(starts).astype(int)
    sums = np.zeros((size, *values.shape[1:]))
    column = (slice(None), *[None] * (values.ndim - 1))
    # The n-th pixel that each stretch touches, for all stretches at once.
    for pixel in first + np.arange(-(-length // size) + 1)[:, None]:
        shares = np.minimum(ends, pixel + 1) - np.maximum(starts, pixel)
        sums += np.maximum(shares, 0.0)[column] * values[np.minimum(pixel, length - 1)]
    return sums / (length / size)


def _enlarged(values: np.ndarray, size: int) -> np.ndarray:
    """The first axis brought to `size` with a triangular filter, wider where it shrinks."""
    length = len(values)
    scale = max(length / size, 1.0)
    centres = (np.arange(size) + 0.5) * length / size - 0.5
    distances = np.abs(np.arange(length)[None, :] - centres[:, None]) / scale
    weights = np.maximum(1.0 - distances, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.tensordot(weights, values.astype(np.float64), axes=1)


def _middle_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _reduce(image: Image.Image, side: int, size: int) -> int:
    """Ask the decoder for a smaller picture where that is enough; how many times smaller it is."""
    for reduction in _REDUCTIONS:
        if image.format in ("JPEG", "MPO") and side >= int(reduction * _REDUCED_OVERSIZE * size):
            smaller = (image.width // reduction, image.height // reduction)
            return reduction if image.draft(None, smaller) is not None else 1
    return 1


def is_turned(image: Image.Image) -> bool:
    """Whether its EXIF says that it lies or stands otherwise than its pixels do."""
    return _orientation(image) in _TURNS


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8. Metadata that cannot be read are not worth the picture: 1, upright."""
    if image.format == "PNG":
        image.load()  # it may follow the pixels, whose damage is to be told from its own
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # SyntaxError, struct.error, and what else Pillow answers odd bytes with
        return 1


def _on_white(image: Image.Image) -> np.ndarray:
    """RGB levels over a white ground; whole numbers where nothing is transparent."""
    image = _turned(image)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    levels = np.asarray(image.convert("RGBA"), np.float64)
    return (levels[..., :3] - 255.0) * (levels[..., 3:] / 255.0) + 255.0
