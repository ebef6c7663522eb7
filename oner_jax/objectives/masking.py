"""Which patches and which words are hidden, drawn on the device.

Both draw for the whole global batch from one key, so a mask depends on the seed, the step and the
row alone: not on the mesh, nor on how the batch is cut into micro-batches.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from oner_jax.models.inputs import PAD_ID

# BERT's recipe for a hidden token: 80 % mask token, 10 % a random word, 10 % left as it is.
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1


class MaskedImages(NamedTuple):
    """Pictures, and which of their patches are hidden."""

    image: UInt8[Array, "b h w 3"]
    patch_mask: Bool[Array, "b patches"]


class MaskedWords(NamedTuple):
    """A caption with hidden words, and what is to be predicted where.

    Row i predicts `targets[i, j]` at `positions[i, j]` where `weights[i, j]` is 1.
    """

    inputs: Int[Array, "b length"]
    positions: Int[Array, "b predictions"]
    targets: Int[Array, "b predictions"]
    weights: Float[Array, "b predictions"]


def masked_blocks(patches_per_side: int, block_patches: int, fraction: float) -> int:
    """How many blocks of an image are hidden: `fraction` of them, rounded."""
    return round(fraction * (patches_per_side // block_patches) ** 2)


def draw_patch_mask(
    key: Key[Array, ""], batch: int, patches_per_side: int, block_patches: int, fraction: float
) -> Bool[Array, "b patches"]:
    """Exactly `masked_blocks` random square blocks of each image hidden (SimMIM: 60 %, 32 px).

    `block_patches` is the block's side in patches, which divides the grid's if any is hidden.
    """
    hidden = masked_blocks(patches_per_side, block_patches, fraction)
    if hidden == 0:
        return jnp.zeros((batch, patches_per_side**2), bool)
    blocks_per_side = patches_per_side // block_patches
    scores = jax.random.uniform(key, (batch, blocks_per_side**2))
    ranks = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
    grid = (ranks < hidden).reshape(batch, blocks_per_side, blocks_per_side)
    grid = grid.repeat(block_patches, axis=1).repeat(block_patches, axis=2)
    return grid.reshape(batch, patches_per_side**2)


def prediction_slots(text_tokens: int, fraction: float) -> int:
    """Most word predictions of one caption: room for twice the expected number, at least 4.

    A static bound, so that logits are computed at hidden positions only.
    """
    return min(text_tokens, max(4, math.ceil(2 * fraction * text_tokens)))


def draw_word_mask(
    key: Key[Array, ""],
    ids: Int[Array, "b length"],
    word_start: Bool[Array, "vocabulary"],
    *,
    mask_id: int,
    fraction: float,
) -> MaskedWords:
    """Hide `fraction` of each caption's whole words, padding never.

    A word is a piece that starts one (`word_start`) and the pieces after it. The number of words
    is rounded up or down at random, so that its mean is exact: hiding at least one would hide
    half of a caption of two words. Words are taken in random order while their pieces fit
    `prediction_slots`, so every hidden piece is predicted.
    """
    length = ids.shape[1]
    slots = prediction_slots(length, fraction)
    order_key, number_key, action_key, random_key = jax.random.split(key, 4)
    real = ids != PAD_ID
    starts = (word_start[ids] | (jnp.arange(length) == 0)) & real
    word_of_piece = jnp.cumsum(starts, axis=1) - 1
    words = starts.sum(axis=1)

    is_word = jnp.arange(length) < words[:, None]
    scores = jnp.where(is_word, jax.random.uniform(order_key, ids.shape), jnp.inf)
    ranks = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
    membership = (word_of_piece[:, :, None] == jnp.arange(length)) & real[:, :, None]
    pieces_of_word = membership.sum(axis=1)
    # Pieces taken by this word and every word ranked before it.
    not_after = ranks[:, :, None] >= ranks[:, None, :]
    taken = jnp.sum(jnp.where(not_after, pieces_of_word[:, None, :], 0), axis=2)
    round_up = jax.random.uniform(number_key, words.shape)
    wanted = jnp.floor(fraction * words + round_up).astype(jnp.int32)
    chosen = is_word & (ranks < wanted[:, None]) & (taken <= slots)
    hidden = jnp.take_along_axis(chosen, word_of_piece, axis=1) & real

    weights, positions = jax.lax.top_k(hidden.astype(jnp.float32), slots)
    targets = jnp.take_along_axis(ids, positions, axis=1)
    action = jax.random.uniform(action_key, ids.shape)
    first_word_id = mask_id + 1
    random_ids = jax.random.randint(random_key, ids.shape, first_word_id, word_start.shape[0])
    replaced = jnp.where(
        action < MASK_SHARE,
        mask_id,
        jnp.where(action < MASK_SHARE + RANDOM_SHARE, random_ids, ids),
    )
    inputs = jnp.where(hidden, replaced, ids).astype(ids.dtype)
    return MaskedWords(inputs, positions, targets, weights)
