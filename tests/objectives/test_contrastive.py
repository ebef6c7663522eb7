"""The streaming contrast against a dense float64 one, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oner_jax.objectives import contrastive
from oner_jax.objectives.contrastive import Keys, contrast, mix
from tests.oracle import log_softmax
from tests.oracle import unit as unit64


def dense(queries, own_keys, keys, captions, temperature):
    """Losses and gradient of their sum with respect to the queries, from the definition."""
    logits = queries @ keys.T / temperature
    own = captions[own_keys]
    excluded = (captions[None] == own[:, None]) & (captions[None] != 0)
    excluded &= np.arange(len(keys))[None] != own_keys[:, None]
    logits[excluded] = -np.inf
    log_p = log_softmax(logits)
    rows = np.arange(len(queries))
    gradient = (np.exp(log_p) @ keys - keys[own_keys]) / temperature
    return -log_p[rows, own_keys], gradient, logits.argmax(1) == own_keys


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(4, 4, 4), (3, 12, 5), (8, 24, 16)]),
    temperature=st.sampled_from([0.01, 0.07, 1.0]),
    distinct=st.integers(1, 30),
    block=st.sampled_from([1, 4, 12, 1024]),
)
def test_streaming_equals_dense(seed, shape, temperature, distinct, block):
    count, key_count, width = shape
    random = np.random.default_rng(seed)
    queries, keys = (unit64(random.normal(size=(n, width))) for n in (count, key_count))
    own_keys = random.permutation(key_count)[:count]
    captions = random.integers(0, distinct, key_count).astype(np.uint32)
    losses, gradient, correct = dense(queries.copy(), own_keys, keys, captions, temperature)

    def total(q):
        result = contrast(
            q,
            jnp.asarray(own_keys),
            Keys(jnp.asarray(keys, jnp.float32), jnp.asarray(captions)),
            temperature,
        )
        return result.loss.sum(), result

    before, contrastive.KEY_BLOCK = contrastive.KEY_BLOCK, block
    try:
        got, result = jax.grad(total, has_aux=True)(jnp.asarray(queries, jnp.float32))
    finally:
        contrastive.KEY_BLOCK = before
    np.testing.assert_allclose(result.loss, losses, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(got, gradient, rtol=1e-3, atol=2e-4 / temperature)
    np.testing.assert_array_equal(result.correct, correct)


def test_loss_of_a_query_among_equal_captions_only_is_zero():
    keys = jnp.eye(4)
    result = contrast(keys, jnp.arange(4), Keys(keys, jnp.full(4, 9, jnp.uint32)), 0.1)
    np.testing.assert_allclose(result.loss, 0.0, atol=1e-6)


def test_uniform_keys_cost_the_logarithm_of_their_number():
    keys = jnp.tile(jnp.eye(1, 8), (16, 1))
    result = contrast(keys, jnp.arange(16), Keys(keys, jnp.zeros(16, jnp.uint32)), 0.2)
    np.testing.assert_allclose(result.loss, np.log(16), rtol=1e-6)


def test_mix_is_the_unit_bisector():
    a, b = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(mix(a, b), [[0.5**0.5, 0.5**0.5]], rtol=1e-6)
    np.testing.assert_array_equal(mix(a), a)


@pytest.mark.parametrize("count", [1, 7, 1024, 1030, 32768])
def test_blocks_cover_the_keys_exactly(count):
    block = contrastive._block_size(count)
    assert count % block == 0
    assert 1 <= block <= contrastive.KEY_BLOCK
