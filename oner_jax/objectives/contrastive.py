"""Contrast of queries with the keys of the global batch, in memory that no mesh can make grow.

Keys and queries stay cut by rows over the mesh; the keys go round (parallel/ring.py), and every
query folds those it meets into a few running sums. Contrast is a form of attention: a query's
gradient is the mean of the keys under its weights, so the pass that gives the loss gives that too,
and the backward pass is one multiplication. Where keys carry a gradient as well (CLIP, SigLIP), the
queries go round in the backward pass, logits are computed again, and every device sums for the
keys that it holds. Nothing of size queries x keys ever exists.

A query's own key is no part of the ring: it comes with the query, and the ring brings negatives.
So the loss is softplus(negatives - own), exact however small, and its gradient with respect to
own keys, scale and bias is left to JAX.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt32

from oner_jax.models.heads import unit
from oner_jax.parallel import ring

# Rows that meet at a time. Larger blocks buy little and cost the TPU compiler dear: a block of 512
# by 512 takes it five times as long as this one.
KEY_BLOCK = 256
QUERY_BLOCK = 256

Form = Literal["softmax", "sigmoid"]

_NO_GRADIENT: Any = None
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Keys(NamedTuple):
    """Every distinct set of keys (mixed already, unit length) of the global batch.

    A caption's hash of 0 is nobody's equal (masking of equal captions off).
    """

    vectors: Float[Array, "sets global d"]
    rows: Int[Array, "global"]
    captions: UInt32[Array, "global"]


class Queries(NamedTuple):
    """Every distinct set of queries of a micro-batch, and the same rows' own keys of every set."""

    vectors: Float[Array, "query_sets n d"]
    own: Float[Array, "sets n d"]
    rows: Int[Array, "n"]
    captions: UInt32[Array, "n"]


class Contrast(NamedTuple):
    """Per pair of sets and query: the loss (nats), and whether the own key ranks first."""

    loss: Float[Array, "pairs n"]
    correct: Bool[Array, "pairs n"]


def mix(*vectors: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """normalize((a + b) / 2) of unit vectors (METHOD section 2); one vector stays itself."""
    if len(vectors) == 1:
        return vectors[0]
    return unit(functools.reduce(jnp.add, vectors) / len(vectors))


def contrast(
    queries: Queries,
    keys: Keys,
    pairs: tuple[tuple[int, int], ...],
    *,
    scale: float | Float[Array, ""],
    bias: float | Float[Array, ""] = 0.0,
    form: Form = "softmax",
    keys_carry_gradient: bool = False,
    mesh: Mesh,
) -> Contrast:
    """Losses of all `pairs`, (query set, key set), in one pass of the keys over the mesh.

    softmax: CE(softmax_j(scale q_i . k_j), i), the inside of METHOD's NCE; scale = 1 / temperature.
    sigmoid: sum_j softplus(-z_ij (scale q_i . k_j + bias)), z = 1 for the own key and -1 for others
    (SigLIP, Zhai et al. 2023, arXiv 2303.15343, equation 1 before its mean over i).
    Keys whose caption equals the query's, other than its own key, are left out: no negatives.

    Gradients flow to the queries, `scale` and (sigmoid) `bias`, and if `keys_carry_gradient` also
    to keys: a query's own key gets its gradient through `queries.own`, all negatives theirs
    through `keys.vectors`. Rows of queries and of keys must divide evenly over the batch axes.
    """
    own = queries.own if keys_carry_gradient else jax.lax.stop_gradient(queries.own)
    # Scaled here, so that the sums over negatives need know no scale and JAX has its gradient.
    vectors = scale * jnp.stack([queries.vectors[query_set] for query_set, _ in pairs])
    offsets = jnp.broadcast_to(bias if form == "sigmoid" else 0.0, queries.rows.shape)
    own_logits = jnp.sum(vectors * jnp.stack([own[key_set] for _, key_set in pairs]), axis=2)
    own_logits += offsets
    negatives = _Negatives(tuple(key_set for _, key_set in pairs), form, keys_carry_gradient, mesh)
    penalties, maxima = _against(
        negatives,
        _Queries(vectors, offsets[None], _labels(queries.rows, queries.captions)),
        _Keys(keys.vectors, _labels(keys.rows, keys.captions)),
    )
    if form == "softmax":
        losses = jax.nn.softplus(penalties - own_logits)
    else:
        losses = jax.nn.softplus(-own_logits) + penalties
    return Contrast(losses, own_logits > maxima)


class _Negatives(NamedTuple):
    """What is static in the sums over negatives."""

    key_sets: tuple[int, ...]
    form: Form
    keys_carry_gradient: bool
    mesh: Mesh


class _Queries(NamedTuple):
    """As they meet keys: scaled, by pair, with what is added to their logits."""

    vectors: Float[Array, "pairs n d"]
    offsets: Float[Array, "1 n"]
    labels: UInt32[Array, "2 n"]


class _Keys(NamedTuple):
    vectors: Float[Array, "sets n d"]
    labels: UInt32[Array, "2 n"]


class _Sums(NamedTuple):
    """Of a query over the negatives met so far, where key j has weight w_j = d penalty / d logit_j.

    softmax: weights are exp(logit - maximum), to be divided by their total; `penalty` is unused.
    """

    maximum: Float[Array, "pairs n"]
    weight: Float[Array, "pairs n"]
    weighted_keys: Float[Array, "pairs n d"]
    penalty: Float[Array, "pairs n"]


class _Answered(NamedTuple):
    """A query on its way to the keys with the gradient it has for them."""

    queries: _Queries
    penalty: Float[Array, "pairs n"]
    cotangent: Float[Array, "pairs n"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _against(
    static: _Negatives, queries: _Queries, keys: _Keys
) -> tuple[Float[Array, "pairs n"], Float[Array, "pairs n"]]:
    """Penalty of each query by its negatives, and the greatest of their logits (no gradient).

    Penalty: logsumexp_j logit_j (softmax; -inf without negatives), sum_j softplus(logit_j)
    (sigmoid).
    """
    return _against_forward(static, queries, keys)[0]


def _against_forward(
    static: _Negatives, queries: _Queries, keys: _Keys
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, Any]]:
    absorb = _absorb_softmax if static.form == "softmax" else _absorb_sigmoid

    def meet(sums: _Sums, queries: _Queries, keys: _Keys) -> _Sums:
        vectors = _by_pair(keys.vectors, static)
        return absorb(sums, _logits(queries, vectors, keys.labels), vectors)

    zeros = jnp.zeros(queries.vectors.shape[:2])
    sums = ring.fold(
        meet,
        _Sums(jnp.full_like(zeros, -jnp.inf), zeros, jnp.zeros_like(queries.vectors), zeros),
        queries,
        keys,
        mesh=static.mesh,
        resident_block=QUERY_BLOCK,
        visitor_block=KEY_BLOCK,
    )
    penalty, weight, expected = sums.penalty, sums.weight, sums.weighted_keys
    if static.form == "softmax":
        penalty = sums.maximum + jnp.log(weight)
        # A query without negatives has a total of 0.
        expected /= jnp.where(weight > 0, weight, 1.0)[..., None]
        weight = jnp.ones_like(weight)
    saved = (queries, keys, penalty) if static.keys_carry_gradient else None
    return (penalty, sums.maximum), (expected, weight, saved)


def _against_backward(
    static: _Negatives, residuals: Any, cotangents: Any
) -> tuple[_Queries, _Keys]:
    expected, weight, saved = residuals
    cotangent, _ = cotangents
    to_queries = _Queries(
        cotangent[..., None] * expected,
        jnp.sum(cotangent * weight, axis=0, keepdims=True),
        _NO_GRADIENT,
    )
    if saved is None:
        return to_queries, _Keys(_NO_GRADIENT, _NO_GRADIENT)
    queries, keys, penalty = saved
    to_keys = _keys_gradient(static, keys, _Answered(queries, penalty, cotangent))
    return to_queries, _Keys(to_keys, _NO_GRADIENT)


_against.defvjp(_against_forward, _against_backward)


def _keys_gradient(
    static: _Negatives, keys: _Keys, answered: _Answered
) -> Float[Array, "sets global d"]:
    """Queries go round, and each key sums what those it was a negative of want of it."""

    def meet(gradient: jax.Array, keys: _Keys, answered: _Answered) -> jax.Array:
        queries, penalty, cotangent = answered
        logits = _logits(queries, _by_pair(keys.vectors, static), keys.labels)
        if static.form == "softmax":
            weights = jnp.exp(logits - _finite(penalty)[..., None])
        else:
            weights = jax.nn.sigmoid(logits)
        weights *= cotangent[..., None]
        return gradient + _einsum("pqk,pqd->pkd", weights, queries.vectors)

    by_pair = ring.fold(
        meet,
        jnp.zeros((len(static.key_sets), *keys.vectors.shape[1:])),
        keys,
        answered,
        mesh=static.mesh,
        resident_block=KEY_BLOCK,
        visitor_block=QUERY_BLOCK,
    )
    return jax.ops.segment_sum(by_pair, jnp.array(static.key_sets), len(keys.vectors))


def _logits(
    queries: _Queries, keys: Float[Array, "pairs k d"], labels: UInt32[Array, "2 k"]
) -> Float[Array, "pairs q k"]:
    """-inf where a key is no negative of a query: its own, or one of an equal caption."""
    logits = _einsum("pqd,pkd->pqk", queries.vectors, keys) + queries.offsets[..., None]
    own, equal = queries.labels[:, :, None] == labels[:, None, :]
    return jnp.where(own | (equal & (labels[1] != 0)), -jnp.inf, logits)


def _absorb_softmax(
    sums: _Sums, logits: Float[Array, "pairs q k"], keys: Float[Array, "pairs k d"]
) -> _Sums:
    maximum = jnp.maximum(sums.maximum, logits.max(axis=2))
    rescale = jnp.exp(sums.maximum - _finite(maximum))
    weights = jnp.exp(logits - _finite(maximum)[..., None])
    return _Sums(
        maximum,
        sums.weight * rescale + weights.sum(axis=2),
        sums.weighted_keys * rescale[..., None] + _einsum("pqk,pkd->pqd", weights, keys),
        sums.penalty,
    )


def _absorb_sigmoid(
    sums: _Sums, logits: Float[Array, "pairs q k"], keys: Float[Array, "pairs k d"]
) -> _Sums:
    weights = jax.nn.sigmoid(logits)
    return _Sums(
        jnp.maximum(sums.maximum, logits.max(axis=2)),
        sums.weight + weights.sum(axis=2),
        sums.weighted_keys + _einsum("pqk,pkd->pqd", weights, keys),
        sums.penalty + jax.nn.softplus(logits).sum(axis=2),
    )


def _finite(value: Float[Array, "pairs n"]) -> Float[Array, "pairs n"]:
    """Of a query that has met no negatives yet: any number but -inf, which would make NaN."""
    return jnp.where(jnp.isfinite(value), value, 0.0)


def _by_pair(vectors: Float[Array, "sets k d"], static: _Negatives) -> Float[Array, "pairs k d"]:
    return jnp.stack([vectors[key_set] for key_set in static.key_sets])


def _labels(rows: Int[Array, "n"], captions: UInt32[Array, "n"]) -> UInt32[Array, "2 n"]:
    """What tells negatives apart, as one array: it travels as one message."""
    return jnp.stack([rows.astype(jnp.uint32), captions])
