"""Encoded images to uint8 pixels: decode, crop, resize, inside TensorFlow's graph.

Records hold JPEG, PNG of at least 8 bits, or WebP (ingest turns everything else into one of them,
and applies a JPEG's EXIF orientation). Grey images become RGB; transparency is composited on white.
Crops are computed for a whole batch at once in NumPy, from the sizes that records carry; how many
pixels a file would unfold to is read from its own header, before memory is taken for them.

A crop box is (top, left, height, width) in pixels.
"""

import functools

import numpy as np
from jaxtyping import Float, Int, Int32

from oner_jax.data.host_tensorflow import tf
from oner_jax.data.image_files import MAXIMUM_PIXELS, PNG_BITS_OFFSET

# The range of shapes (width / height, relative to the image's own) that training crops take.
ASPECT_RANGE = (3 / 4, 4 / 3)

# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (by its cosine transform, which skips the work)
# if that leaves this many times the pixels of the result on either side. From 1.5 on, the result is
# as close to an antialiased shrink of the whole picture as without (tests/data/test_images.py).
_REDUCTIONS = (1, 2, 4, 8)
_REDUCED_OVERSIZE = 1.5

# A box that sticks out of every picture.
OUTSIDE = (2**30, 2**30, 1, 1)

_PNG_START = b"\x89PNG"
_WEBP_START = b"RIFF"


def random_crop_boxes(
    heights: Int[np.ndarray, " n"],
    widths: Int[np.ndarray, " n"],
    uniforms: Float[np.ndarray, "n 4"],
    minimum_fraction: float,
) -> Int32[np.ndarray, "n 4"]:
    """One random box per image: area, shape and place from four uniform numbers each.

    The area is uniform in [minimum_fraction, 1] of the image's and the change of shape is
    log-uniform in `ASPECT_RANGE`; a box that would stick out of the image is cut to it.
    """
    area = minimum_fraction + (1 - minimum_fraction) * uniforms[:, 0]
    low, high = np.log(ASPECT_RANGE)
    aspect = np.exp(low + (high - low) * uniforms[:, 1])
    box_heights = np.clip(np.rint(heights * np.sqrt(area / aspect)), 1, heights)
    box_widths = np.clip(np.rint(widths * np.sqrt(area * aspect)), 1, widths)
    tops = np.floor(uniforms[:, 2] * (heights - box_heights + 1))
    lefts = np.floor(uniforms[:, 3] * (widths - box_widths + 1))
    return np.stack([tops, lefts, box_heights, box_widths], axis=1).astype(np.int32)


def centre_crop_boxes(
    heights: Int[np.ndarray, " n"], widths: Int[np.ndarray, " n"]
) -> Int32[np.ndarray, "n 4"]:
    """The largest square in the middle of each image.

    Resizing it is the usual evaluation crop (short side to size, then centre) without the detour.
    """
    sides = np.minimum(heights, widths)
    boxes = [(heights - sides) // 2, (widths - sides) // 2, sides, sides]
    return np.stack(boxes, axis=1).astype(np.int32)


def routes(encoded: tf.Tensor, box: tf.Tensor, size: int) -> tf.Tensor:
    """Which way each picture has to be decoded: int32 [...] of bytes [...] and boxes [..., 4].

    Apart from the decoding because for a whole batch at once it costs next to nothing.
    """
    start = tf.strings.substr(encoded, 0, 4)
    side = tf.reduce_min(box[..., 2:], axis=-1)
    jpeg = tf.reduce_sum(tf.cast(side[..., tf.newaxis] >= _jpeg_sides(size), tf.int32), axis=-1)
    png = len(_REDUCTIONS) + 1
    return tf.where(start == _PNG_START, png, tf.where(start == _WEBP_START, png + 1, jpeg))


def decode_crop_resize(
    encoded: tf.Tensor, box: tf.Tensor, route: tf.Tensor, mirror: tf.Tensor, size: int
) -> tf.Tensor:
    """Pixels uint8 [size, size, 3] of one encoded image's box, mirrored left to right if asked.

    `route` is what `routes` says. The edges of a box in a JPEG much larger than `size` are moved by
    at most a third of a pixel of the result. Raises tf.errors.InvalidArgumentError if the bytes are
    no whole JPEG, PNG or WebP, by their header unfold to more than MAXIMUM_PIXELS, or the box
    sticks out of the image.
    """
    kinds = [
        lambda: _jpeg(encoded, box, route, size),
        lambda: _png(encoded, box, size),
        lambda: _webp(encoded, box, size),
    ]
    pixels = tf.switch_case(tf.maximum(route - len(_REDUCTIONS), 0), kinds)
    # Means of values in [0, 255] stay there, so that rounding needs no clipping.
    pixels = tf.cast(pixels + 0.5, tf.uint8)
    # tf.reverse moves whole pixels; slicing with step -1 takes as long as a third of the decoding.
    pixels = tf.cond(mirror, lambda: tf.reverse(pixels, [1]), lambda: pixels)
    return tf.ensure_shape(pixels, [size, size, 3])


def check_decodes(encoded: bytes, height: int, width: int) -> None:
    """Raises tf.errors.InvalidArgumentError unless training can decode these bytes at this size."""
    _decode_whole(tf.constant(encoded), tf.constant([0, 0, height, width]))


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int32)], autograph=False
)
def _decode_whole(encoded: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return decode_crop_resize(encoded, box, routes(encoded, box, 1), tf.constant(False), 1)


def _jpeg_sides(size: int) -> list[int]:
    """How long the shorter side of a JPEG's box has to be to be shrunk at each of `_REDUCTIONS`."""
    return [size] + [int(reduction * _REDUCED_OVERSIZE * size) for reduction in _REDUCTIONS[1:]]


def _resize(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Pixels uint8 or float, of any size, to float [size, size, 3]; antialiased."""
    shrinks = tf.reduce_all(tf.shape(pixels)[:2] >= size)
    return tf.cond(shrinks, lambda: _shrink(pixels, size), lambda: _enlarge(pixels, size))


def _shrink(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """The mean over each output pixel's area. Bytes are read as they are, without a larger copy.

    In a quarter of the time that `_enlarge` takes, but where it enlarges it repeats pixels.
    """
    return tf.raw_ops.ResizeArea(images=pixels[tf.newaxis], size=[size, size])[0]


def _enlarge(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """By a triangular filter, at least along one side."""
    return tf.image.resize(pixels[tf.newaxis], [size, size], antialias=True)[0]


def _jpeg(encoded: tf.Tensor, box: tf.Tensor, route: tf.Tensor, size: int) -> tf.Tensor:
    """A JPEG's box, decoded at the smallest scale that is enough for `size`."""
    shape = tf.image.extract_jpeg_shape(encoded)
    edges = box[:2], box[:2] + box[2:]
    encoded = _checked(
        encoded,
        _fits(shape[0], shape[1]),
        (tf.reduce_all(edges[1] <= shape[:2]), ["box", box, "in a picture of", shape]),
    )

    # Blocks outside the box are never decoded. The default transform is off by up to 16 levels.
    decode = functools.partial(
        tf.io.decode_and_crop_jpeg, encoded, channels=3, dct_method="INTEGER_ACCURATE"
    )

    def reduced(reduction: int) -> tf.Tensor:
        first, last = ((edge + reduction // 2) // reduction for edge in edges)
        return _shrink(decode(tf.concat([first, last - first], 0), ratio=reduction), size)

    ways = [
        lambda: _enlarge(decode(box), size),
        lambda: _shrink(decode(box), size),
        *(functools.partial(reduced, reduction) for reduction in _REDUCTIONS[1:]),
    ]
    return tf.switch_case(route, ways)


# A branch that stays a call: of one that becomes part of the caller's graph every operation is
# visited for every picture, whether it is taken or not.
_uninlined = functools.partial(
    tf.function, autograph=False, experimental_attributes={"_noinline": True}
)


@_uninlined
def _png(encoded: tf.Tensor, box: tf.Tensor, size: int) -> tf.Tensor:
    sides = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
    bits = tf.io.decode_raw(tf.strings.substr(encoded, PNG_BITS_OFFSET, 1), tf.uint8)[0]
    encoded = _checked(
        encoded,
        _fits(sides[0], sides[1]),
        # TensorFlow gives pictures of fewer bits a wrong opacity.
        (bits >= 8, ["PNG with", bits, "bits per channel, fewer than 8"]),
    )
    # Four channels always: with the file's own number, palettes would come out grey.
    return _resize(_on_white(_crop(tf.io.decode_png(encoded, channels=4), box)), size)


@_uninlined
def _webp(encoded: tf.Tensor, box: tf.Tensor, size: int) -> tf.Tensor:
    """Its three kinds say their size in different places (RFC 9649, RFC 6386)."""

    def integer(offset: int) -> tf.Tensor:
        return tf.io.decode_raw(tf.strings.substr(encoded, offset, 4), tf.int32)[0]

    def lossy() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sides = integer(26)
        return sides & 0x3FFF, (sides // 2**16) & 0x3FFF, tf.constant(True)

    def lossless() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sides = integer(21)
        return (sides & 0x3FFF) + 1, ((sides // 2**14) & 0x3FFF) + 1, tf.constant(True)

    def extended() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        still = integer(20) & 2 == 0
        return (integer(24) & 0xFFFFFF) + 1, (integer(27) & 0xFFFFFF) + 1, still

    kind = tf.strings.substr(encoded, 12, 4)
    branch = tf.cast(kind == b"VP8L", tf.int32) + 2 * tf.cast(kind == b"VP8X", tf.int32)
    width, height, still = tf.switch_case(branch, [lossy, lossless, extended])
    # TensorFlow would decode all pictures of an animation, into memory for fewer.
    encoded = _checked(encoded, _fits(height, width), (still, ["animated WebP"]))
    pixels = _crop(tf.io.decode_webp(encoded)[0], box)
    return tf.cond(
        tf.shape(pixels)[-1] == 4,
        lambda: _resize(_on_white(pixels), size),
        lambda: _resize(pixels, size),
    )


# A condition, and what to say where it does not hold.
_Check = tuple[tf.Tensor, list]


def _checked(encoded: tf.Tensor, *checks: _Check) -> tf.Tensor:
    """The bytes, once all checks have passed: in a graph, decoding waits for nothing else.

    With the operation itself: tf.debugging.Assert puts it into a branch, which takes longer.
    """
    passed = [tf.raw_ops.Assert(condition=condition, data=data) for condition, data in checks]
    with tf.control_dependencies(passed):
        return tf.identity(encoded)


def _fits(height: tf.Tensor, width: tf.Tensor) -> _Check:
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    said = [height, "x", width, f"pixels, more than {MAXIMUM_PIXELS:,}"]
    return pixels <= MAXIMUM_PIXELS, said


def _crop(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    # tf.slice, unlike indexing, fails on a box that sticks out.
    return tf.slice(pixels, [box[0], box[1], 0], [box[2], box[3], -1])


def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Float RGB in [0, 255] of uint8 RGBA over a white ground."""
    values = tf.cast(pixels, tf.float32)
    return (values[..., :3] - 255.0) * (values[..., 3:] / 255.0) + 255.0
