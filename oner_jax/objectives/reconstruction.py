"""Masked modelling losses: pixels by L1 (SimMIM), words by cross-entropy (BERT).

Both return sums; the caller divides by the global batch's count, so that micro-batches add up
to exactly the big batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from oner_jax.models.inputs import to_patches


def masked_patch_indices(
    patch_mask: Bool[Array, "b patches"], hidden: int
) -> Int[Array, "b hidden"]:
    """Positions of the hidden patches; every row of the mask has exactly `hidden` of them."""
    return jax.lax.top_k(patch_mask.astype(jnp.float32), hidden)[1]


def pixel_error(
    predicted: Float[Array, "b hidden pixels"],
    images: Float[Array, "b h w 3"],
    indices: Int[Array, "b hidden"],
    patch_size: int,
) -> Float[Array, ""]:
    """Sum of |predicted - true| over the pixels of the hidden patches."""
    target = jnp.take_along_axis(to_patches(images, patch_size), indices[:, :, None], axis=1)
    return jnp.sum(jnp.abs(predicted - target))


def word_error(
    logits: Float[Array, "b predictions vocabulary"],
    targets: Int[Array, "b predictions"],
    weights: Float[Array, "b predictions"],
) -> Float[Array, ""]:
    """Sum of the cross-entropy (nats) over the hidden words."""
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    true_logits = jnp.take_along_axis(logits, targets[:, :, None], axis=-1)[:, :, 0]
    return jnp.sum(weights * (log_partition - true_logits))
