"""Masks: exact counts, whole words, nothing on padding, every hidden piece predicted."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from oner_jax.objectives import masking
from oner_jax.parallel.mesh import batch_sharding, make_mesh

VOCABULARY = 50
MASK_ID = 2


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    blocks_per_side=st.sampled_from([1, 2, 4, 7]),
    block_patches=st.sampled_from([1, 2, 3]),
    fraction=st.sampled_from([0.0, 0.3, 0.6]),
)
def test_patch_masks_hide_whole_blocks_in_exact_number(
    seed, blocks_per_side, block_patches, fraction
):
    patches_per_side = blocks_per_side * block_patches
    mask = masking.draw_patch_mask(
        jax.random.key(seed), 5, patches_per_side, block_patches, fraction
    )
    assert mask.shape == (5, patches_per_side**2)
    grid = np.asarray(mask).reshape(5, patches_per_side, patches_per_side)
    starts = range(0, patches_per_side, block_patches)
    for image in grid:
        blocks = [
            image[r : r + block_patches, c : c + block_patches] for r in starts for c in starts
        ]
        assert all(block.all() or not block.any() for block in blocks)
        assert sum(block.all() for block in blocks) == round(fraction * len(starts) ** 2)


@st.composite
def captions(draw):
    """Rows of pieces, some continuing a word, padded; and the table of word starts."""
    length = draw(st.sampled_from([4, 12, 40]))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    word_start = random.random(VOCABULARY) < draw(st.sampled_from([0.2, 0.6, 1.0]))
    word_start[:3] = False
    ids = random.integers(3, VOCABULARY, (6, length)).astype(np.int32)
    ids[np.arange(length) >= random.integers(0, length + 1, 6)[:, None]] = 0
    return ids, word_start


def word_spans(ids, word_start):
    """(start, end) of each word of one caption."""
    count = int((ids != 0).sum())
    starts = [i for i in range(count) if i == 0 or word_start[ids[i]]]
    return list(itertools.pairwise([*starts, count]))


@settings(max_examples=40, deadline=None)
@given(case=captions(), seed=st.integers(0, 2**31), fraction=st.sampled_from([0.15, 0.5]))
def test_word_masks_hide_whole_words_and_predict_each_piece(case, seed, fraction):
    ids, word_start = case
    masked = masking.draw_word_mask(
        jax.random.key(seed),
        jnp.asarray(ids),
        jnp.asarray(word_start),
        mask_id=MASK_ID,
        fraction=fraction,
    )
    slots = masking.prediction_slots(ids.shape[1], fraction)
    for row, inputs, positions, targets, weights in zip(
        ids, *(np.asarray(part) for part in masked), strict=True
    ):
        predicted = set(positions[weights > 0].tolist())
        assert len(predicted) == int(weights.sum()) <= slots
        np.testing.assert_array_equal(targets, row[positions])
        changed = set(np.flatnonzero(inputs != row).tolist())
        assert changed <= predicted, "a piece was changed that is not predicted"
        assert all(row[p] != 0 for p in predicted), "padding was hidden"
        words = word_spans(row, word_start)
        hidden = [predicted.issuperset(range(a, b)) for a, b in words]
        touched = [bool(predicted & set(range(a, b))) for a, b in words]
        assert hidden == touched, "a word was hidden in part"
        assert sum(hidden) <= math.floor(fraction * len(words)) + 1
        fewest = math.floor(fraction * len(words))
        if words and max(b - a for a, b in words) * (fewest + 1) <= slots:
            assert sum(hidden) >= fewest


def test_the_mean_number_of_hidden_words_is_the_fraction():
    ids = jnp.full((20000, 2), 5, jnp.int32)
    masked = masking.draw_word_mask(
        jax.random.key(0), ids, jnp.arange(VOCABULARY) > 2, mask_id=MASK_ID, fraction=0.15
    )
    assert abs(float(masked.weights.sum()) / ids.size - 0.15) < 4 * (0.3 * 0.7 / 20000) ** 0.5 / 2


def test_hidden_pieces_follow_the_80_10_10_recipe():
    ids = jnp.asarray(np.random.default_rng(0).integers(3, VOCABULARY, (4000, 8)), jnp.int32)
    masked = masking.draw_word_mask(
        jax.random.key(0), ids, jnp.arange(VOCABULARY) > 2, mask_id=MASK_ID, fraction=0.25
    )
    shown = np.take_along_axis(np.asarray(masked.inputs), np.asarray(masked.positions), axis=1)
    used = np.asarray(masked.weights) > 0
    shown, targets = shown[used], np.asarray(masked.targets)[used]
    count = len(shown)
    assert count == 4000 * 2
    assert abs((shown == MASK_ID).mean() - 0.8) < 4 * (0.16 / count) ** 0.5
    assert abs((shown == targets).mean() - 0.1 - 0.1 / 47) < 4 * (0.09 / count) ** 0.5
    assert (shown >= MASK_ID).all(), "no special piece but the mask is ever put in"


def test_masks_do_not_depend_on_how_the_batch_is_cut_over_devices():
    rows = batch_sharding(make_mesh())
    ids = jnp.asarray(np.random.default_rng(0).integers(3, VOCABULARY, (16, 12)), jnp.int32)

    def draw(ids):
        return masking.draw_word_mask(
            jax.random.key(7), ids, jnp.arange(VOCABULARY) > 2, mask_id=MASK_ID, fraction=0.3
        ), masking.draw_patch_mask(jax.random.key(8), 16, 8, 2, 0.6)

    one = jax.jit(draw)(ids)
    eight = jax.jit(draw)(jax.device_put(ids, rows))
    jax.tree.map(np.testing.assert_array_equal, one, eight)
