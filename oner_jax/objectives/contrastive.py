"""Contrast of online queries against momentum keys.

The keys carry no gradient, and that makes contrast a form of attention: the loss of a query needs
the log-partition over all keys, its gradient the keys' mean under the softmax, and one streaming
pass over blocks of keys gives both. Nothing of size queries x keys is ever kept, and the
backward pass is one multiplication.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from oner_jax.models.architectures import unit

KEY_BLOCK = 1024
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Contrast(NamedTuple):
    """Per query: cross-entropy (nats) of its own key among all keys, and whether it ranks first."""

    loss: Float[Array, "queries"]
    correct: Bool[Array, "queries"]


class Keys(NamedTuple):
    """All keys of the global batch, unit length, with their captions' hashes.

    A hash of 0 marks a caption that is nobody's equal (masking of equal captions off).
    """

    vectors: Float[Array, "keys d"]
    captions: UInt32[Array, "keys"]


class _Running(NamedTuple):
    """State of the streaming softmax over the key blocks seen so far."""

    maximum: Float[Array, "queries"]
    total: Float[Array, "queries"]
    weighted_keys: Float[Array, "queries d"]


def mix(*vectors: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """normalize((a + b) / 2) of unit vectors (METHOD section 2); one vector stays itself."""
    if len(vectors) == 1:
        return vectors[0]
    return unit(functools.reduce(jnp.add, vectors) / len(vectors))


def contrast(
    queries: Float[Array, "queries d"],
    own_keys: Int[Array, "queries"],
    keys: Keys,
    temperature: float,
) -> Contrast:
    """CE(softmax_j(q_i . k_j / temperature), own_keys[i]) for each query (METHOD: NCE's inside).

    Keys whose caption equals the query's own key's caption, other than that key, are left out:
    they are no negatives. Gradients flow to `queries` only.
    """
    return _contrast(temperature, queries, own_keys, keys)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contrast(temperature, queries, own_keys, keys):
    return _contrast_forward(temperature, queries, own_keys, keys)[0]


def _contrast_forward(temperature, queries, own_keys, keys):
    count = keys.vectors.shape[0]
    block = _block_size(count)
    own_captions = keys.captions[own_keys]

    def absorb(running, xs):
        start, vectors, captions = xs
        logits = _product(queries, vectors.T) / temperature
        index = start + jnp.arange(block)
        equal = (captions == own_captions[:, None]) & (captions != 0)
        excluded = equal & (index != own_keys[:, None])
        return _absorb_block(running, jnp.where(excluded, -jnp.inf, logits), vectors), None

    empty = _Running(
        maximum=jnp.full(queries.shape[:1], -jnp.inf),
        total=jnp.zeros(queries.shape[:1]),
        weighted_keys=jnp.zeros_like(queries),
    )
    blocks = (
        jnp.arange(0, count, block),
        keys.vectors.reshape(-1, block, keys.vectors.shape[1]),
        keys.captions.reshape(-1, block),
    )
    running, _ = jax.lax.scan(absorb, empty, blocks)

    positive = keys.vectors[own_keys]
    own_logits = jnp.sum(queries * positive, axis=1) / temperature
    loss = running.maximum + jnp.log(running.total) - own_logits
    # The own logit is computed twice, as a row sum and inside the product: allow for rounding.
    correct = own_logits >= running.maximum - 1e-5 / temperature
    expected = running.weighted_keys / running.total[:, None]
    return Contrast(loss, correct), (expected - positive) / temperature


def _contrast_backward(temperature, gradient_of_queries, cotangent):
    del temperature
    return cotangent.loss[:, None] * gradient_of_queries, None, None


_contrast.defvjp(_contrast_forward, _contrast_backward)


def _absorb_block(
    running: _Running,
    logits: Float[Array, "queries block"],
    vectors: Float[Array, "block d"],
) -> _Running:
    maximum = jnp.maximum(running.maximum, logits.max(axis=1))
    # A block may hold nothing but excluded keys, before any other was seen.
    finite = jnp.where(jnp.isfinite(maximum), maximum, 0.0)
    rescale = jnp.exp(running.maximum - finite)
    weights = jnp.exp(logits - finite[:, None])
    return _Running(
        maximum,
        running.total * rescale + weights.sum(axis=1),
        running.weighted_keys * rescale[:, None] + _product(weights, vectors),
    )


def _block_size(count: int) -> int:
    """Largest divisor of `count` that is at most KEY_BLOCK."""
    return next(size for size in range(min(count, KEY_BLOCK), 0, -1) if count % size == 0)
