"""Encoded images to uint8 pixels: decode, crop, resize, inside TensorFlow's graph.

Records hold JPEG, PNG of at least 8 bits, or WebP (ingest turns everything else into one of them,
and applies a JPEG's EXIF orientation). Grey images become RGB; transparency is composited on white.
Crops are computed for a whole batch at once in NumPy, from the sizes that records carry.

A crop box is (top, left, height, width) in pixels.
"""

import numpy as np
from jaxtyping import Float, Int, Int32

from oner_jax.data.host_tensorflow import tf

# The range of shapes (width / height, relative to the image's own) that training crops take.
ASPECT_RANGE = (3 / 4, 4 / 3)

# Where a PNG says how many bits a channel (or palette index) has.
PNG_BITS_OFFSET = 24

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


def decode_crop_resize(
    encoded: tf.Tensor, box: tf.Tensor, mirror: tf.Tensor, size: int
) -> tf.Tensor:
    """Pixels uint8 [size, size, 3] of one encoded image's box, mirrored left to right if asked.

    Raises tf.errors.InvalidArgumentError if the bytes are no whole JPEG, PNG or WebP, or the box
    sticks out of the image.
    """

    def jpeg() -> tf.Tensor:
        # Blocks outside the box are never decoded. The default transform is off by up to 16 levels.
        pixels = tf.io.decode_and_crop_jpeg(encoded, box, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.cast(pixels, tf.float32)

    def png() -> tf.Tensor:
        # TensorFlow gives pictures of fewer bits a wrong opacity.
        bits = tf.io.decode_raw(tf.strings.substr(encoded, PNG_BITS_OFFSET, 1), tf.uint8)[0]
        tf.debugging.Assert(bits >= 8, ["PNG with", bits, "bits per channel, fewer than 8"])
        # Four channels always: with the file's own number, palettes would come out grey.
        return _on_white(_crop(tf.io.decode_png(encoded, channels=4), box))

    def webp() -> tf.Tensor:
        pixels = _crop(tf.io.decode_webp(encoded)[0], box)
        return tf.cond(
            tf.shape(pixels)[-1] == 4,
            lambda: _on_white(pixels),
            lambda: tf.cast(pixels, tf.float32),
        )

    start = tf.strings.substr(encoded, 0, 4)
    branch = tf.cast(start == _PNG_START, tf.int32) + 2 * tf.cast(start == _WEBP_START, tf.int32)
    pixels = _resize(tf.switch_case(branch, [jpeg, png, webp]), box, size)
    pixels = tf.saturate_cast(tf.round(pixels), tf.uint8)
    return tf.ensure_shape(
        tf.cond(mirror, lambda: pixels[:, ::-1], lambda: pixels), [size, size, 3]
    )


def check_decodes(encoded: bytes, height: int, width: int) -> None:
    """Raises tf.errors.InvalidArgumentError unless training can decode these bytes at this size."""
    _decode_whole(tf.constant(encoded), tf.constant([0, 0, height, width]))


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int32)], autograph=False
)
def _decode_whole(encoded: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return decode_crop_resize(encoded, box, tf.constant(False), 1)


def _crop(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    # tf.slice, unlike indexing, fails on a box that sticks out.
    return tf.slice(pixels, [box[0], box[1], 0], [box[2], box[3], -1])


def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Float RGB in [0, 255] of uint8 RGBA over a white ground."""
    values = tf.cast(pixels, tf.float32)
    return (values[..., :3] - 255.0) * (values[..., 3:] / 255.0) + 255.0


def _resize(pixels: tf.Tensor, box: tf.Tensor, size: int) -> tf.Tensor:
    """Antialiased: the mean over each output pixel's area when both sides shrink, else triangular.

    The area filter needs a quarter of the other's time, but repeats pixels when it enlarges.
    """
    images = pixels[tf.newaxis]
    shrinks = tf.reduce_all(box[2:] >= size)
    return tf.cond(
        shrinks,
        lambda: tf.raw_ops.ResizeArea(images=images, size=[size, size]),
        lambda: tf.image.resize(images, [size, size], antialias=True),
    )[0]
