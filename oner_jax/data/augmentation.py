"""Random changes of a cropped image: its size, place, angle and colours.

They are made on the host, where images are decoded, because one operation of TensorFlow moves an
image in less time than its decoding takes, while on a TPU the same gather of single pixels would
hold up the step. Every change is drawn from (seed, position), as crops are.

What a change uncovers is white, the ground that transparent images are composited on. Colours
change after that, so that the uncovered ground keeps the colour of the image's own white.
(Our choice: docs/method.md asks for crops and flips only.)
"""

import numpy as np
from jaxtyping import Float, Float32

from oner_jax.data.host_tensorflow import tf
from oner_jax.data.options import AugmentOptions

WHITE = 255.0

# Rec. 601, as Pillow and TensorFlow convert to grey.
_LUMINANCE = (0.299, 0.587, 0.114)

# Uniform numbers per image: scale, shift (2), rotation, grey, and a factor and an offset for each
# channel.
DRAWS = 11

# What is drawn, as the numbers that `changed` reads: the affine map (8), whether the image becomes
# grey, the factors (3) and the offsets (3).
NUMBERS = 15


def drawn_changes(
    options: AugmentOptions, uniforms: Float[np.ndarray, "n draws"], image_size: int
) -> Float32[np.ndarray, "n numbers"]:
    """Return the numbers of a change for each image, from `DRAWS` uniform ones in [0, 1)."""
    signed = 2 * uniforms - 1
    factor = (1 + options.scale) ** signed[:, 0]
    across, down = (options.shift * image_size * signed[:, axis] for axis in (1, 2))
    angle = np.deg2rad(options.rotation_degrees) * signed[:, 3]
    # From a pixel of the result to its place in the image: undo the shift, the turn, the scale.
    cosine, sine = np.cos(angle) / factor, np.sin(angle) / factor
    middle = (image_size - 1) / 2
    x, y = middle + across, middle + down
    zero = np.zeros_like(factor)
    affine = [
        *(cosine, sine, middle - cosine * x - sine * y),
        *(-sine, cosine, middle + sine * x - cosine * y),
        *(zero, zero),
    ]
    grey = uniforms[:, 4] < options.grey_fraction
    factors = 1 + options.colour_scale * signed[:, 5:8]
    offsets = WHITE * options.colour_offset * signed[:, 8:11]
    numbers = np.column_stack([*affine, grey, factors, offsets])
    return numbers.astype(np.float32)


def changed(pixels: tf.Tensor, change: tf.Tensor, options: AugmentOptions) -> tf.Tensor:
    """Return uint8 [size, size, 3] of an image under one row of `drawn_changes`.

    Moved pixels are interpolated linearly, without a filter against aliasing:
    no image shrinks by more than half.
    """
    levels = tf.cast(pixels, tf.float32)
    if options.moves:
        (levels,) = tf.unstack(
            tf.raw_ops.ImageProjectiveTransformV3(
                images=levels[tf.newaxis],
                transforms=change[tf.newaxis, :8],
                output_shape=tf.shape(pixels)[:2],
                fill_value=WHITE,
                interpolation="BILINEAR",
                fill_mode="CONSTANT",
            ),
            num=1,
        )
    if options.recolours:
        luminance = tf.reduce_sum(levels * tf.constant(_LUMINANCE), axis=-1, keepdims=True)
        levels += change[8] * (luminance - levels)
        levels = tf.clip_by_value(levels * change[9:12] + change[12:15], 0.0, WHITE)
    return tf.ensure_shape(tf.cast(levels + 0.5, tf.uint8), pixels.shape)
