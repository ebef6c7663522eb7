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

Where rows have concepts, keys of the query's concept are positives like its own. The softmax then
has them in its sum like negatives, and the query's target is spread evenly over all of its
positives: the loss of Khosla et al. 2020 ("Supervised contrastive learning", arXiv 2004.11362,
equation 2, its sum of logarithms, which they find better than the logarithm of a sum), between two
modalities that of Yang et al. 2022 (UniCL, arXiv 2204.03610). At best it is the logarithm of the
number of positives. The sigmoid gives every positive the label 1 (our choice: SigLIP has one).
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

    A row of several captions is equal in captions to all that share one with it. A caption's hash
    of 0 is nobody's equal (masking of equal captions off), nor is a concept's.
    Without concepts, a query has no positive but its own key.
    """

    vectors: Float[Array, "sets global d"]
    rows: Int[Array, "global"]
    captions: UInt32[Array, "global *parts"]
    concepts: UInt32[Array, "global"] | None = None


class Queries(NamedTuple):
    """Every distinct set of queries of a micro-batch, and the same rows' own keys of every set."""

    vectors: Float[Array, "query_sets n d"]
    own: Float[Array, "sets n d"]
    rows: Int[Array, "n"]
    captions: UInt32[Array, "n *parts"]
    concepts: UInt32[Array, "n"] | None = None


class Contrast(NamedTuple):
    """Per pair of sets and query: the loss (nats), and whether the own key beats all negatives."""

    loss: Float[Array, "pairs n"]
    correct: Bool[Array, "pairs n"]


def mix(*vectors: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """normalize((a + b) / 2) of unit vectors (docs/method.md); one vector stays itself."""
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

    softmax: CE(softmax_j(scale q_i . k_j), i), the inside of NCE; scale = 1 / temperature.
    sigmoid: sum_j softplus(-z_ij (scale q_i . k_j + bias)), z = 1 for the own key and -1 for others
    (SigLIP, Zhai et al. 2023, arXiv 2303.15343, equation 1 before its mean over i).
    Keys whose caption equals the query's, other than its own key, are left out: no negatives.
    Keys whose concept equals the query's are positives, whatever their caption: softmax then has
    the mean of -log p over all positives, and sigmoid z = 1 for each.

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
    others = _Others(
        tuple(key_set for _, key_set in pairs),
        form,
        keys_carry_gradient,
        keys.concepts is not None,
        mesh,
    )
    met = _against(
        others,
        _Queries(vectors, offsets[None], _labels(queries)),
        _Keys(keys.vectors, _labels(keys)),
    )
    if form == "softmax":
        losses = jax.nn.softplus(met.penalty - own_logits)
        if met.positives is not None:
            number = met.positives.number
            losses += (number * own_logits - met.positives.attraction) / (1 + number)
    else:
        losses = jax.nn.softplus(-own_logits) + met.penalty
        if met.positives is not None:
            losses -= met.positives.attraction
    return Contrast(losses, own_logits > met.maximum)


class _Others(NamedTuple):
    """What is static in the sums over all keys but a query's own."""

    key_sets: tuple[int, ...]
    form: Form
    keys_carry_gradient: bool
    have_concepts: bool
    mesh: Mesh


class _Queries(NamedTuple):
    """As they meet keys: scaled, by pair, with what is added to their logits."""

    vectors: Float[Array, "pairs n d"]
    offsets: Float[Array, "1 n"]
    labels: UInt32[Array, "labels n"]


class _Keys(NamedTuple):
    vectors: Float[Array, "sets n d"]
    labels: UInt32[Array, "labels n"]


class _PositiveSums(NamedTuple):
    """Of a query over the positives met so far, its own key left out.

    `maximum` is the greatest logit of the others, the negatives.
    """

    maximum: Float[Array, "pairs n"]
    attraction: Float[Array, "pairs n"]
    keys: Float[Array, "pairs n d"]
    number: Float[Array, "1 n"]


class _Sums(NamedTuple):
    """Of a query over the keys met so far, where key j has weight w_j = d penalty / d logit_j.

    softmax: weights are exp(logit - maximum), to be divided by their total; `penalty` is unused.
    """

    maximum: Float[Array, "pairs n"]
    weight: Float[Array, "pairs n"]
    weighted_keys: Float[Array, "pairs n d"]
    penalty: Float[Array, "pairs n"]
    positives: _PositiveSums | None


class _Positives(NamedTuple):
    """The sum of the logits of a query's positives, and their number; its own key left out."""

    attraction: Float[Array, "pairs n"]
    number: Float[Array, "1 n"]


class _Met(NamedTuple):
    """What a query's others are to it.

    `penalty` is logsumexp_j logit_j (softmax; -inf without others), sum_j softplus(logit_j)
    (sigmoid), over positives and negatives; `maximum` (no gradient) the greatest logit of the
    negatives.
    """

    penalty: Float[Array, "pairs n"]
    maximum: Float[Array, "pairs n"]
    positives: _Positives | None


class _Answered(NamedTuple):
    """A query on its way to the keys with the gradient it has for them."""

    queries: _Queries
    penalty: Float[Array, "pairs n"]
    cotangent: Float[Array, "pairs n"]
    attraction_cotangent: Float[Array, "pairs n"] | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _against(static: _Others, queries: _Queries, keys: _Keys) -> _Met:
    """Each query against all keys but its own, in one round of the ring."""
    return _against_forward(static, queries, keys)[0]


def _against_forward(
    static: _Others, queries: _Queries, keys: _Keys
) -> tuple[_Met, tuple[jax.Array, jax.Array, _PositiveSums | None, Any]]:
    absorb = _absorb_softmax if static.form == "softmax" else _absorb_sigmoid

    def meet(sums: _Sums, queries: _Queries, keys: _Keys) -> _Sums:
        vectors = _by_pair(keys.vectors, static)
        logits, positive = _logits(static, queries, vectors, keys.labels)
        sums = absorb(sums, logits, vectors)
        if positive is None or sums.positives is None:
            return sums
        return sums._replace(positives=_attract(sums.positives, logits, positive, vectors))

    zeros = jnp.zeros(queries.vectors.shape[:2])
    nothing, none_met = jnp.full_like(zeros, -jnp.inf), jnp.zeros_like(queries.vectors)
    sums = ring.fold(
        meet,
        _Sums(
            *(nothing, zeros, none_met, zeros),
            _PositiveSums(nothing, zeros, none_met, zeros[:1]) if static.have_concepts else None,
        ),
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
    positives = sums.positives
    met = (
        _Met(penalty, sums.maximum, None)
        if positives is None
        else _Met(penalty, positives.maximum, _Positives(positives.attraction, positives.number))
    )
    return met, (expected, weight, positives, saved)


def _against_backward(static: _Others, residuals: Any, cotangents: _Met) -> tuple[_Queries, _Keys]:
    expected, weight, positives, saved = residuals
    cotangent, attraction_cotangent = cotangents.penalty, None
    to_vectors, to_logits = cotangent[..., None] * expected, cotangent * weight
    if cotangents.positives is not None:
        attraction_cotangent = cotangents.positives.attraction
        to_vectors += attraction_cotangent[..., None] * positives.keys
        to_logits += attraction_cotangent * positives.number
    to_queries = _Queries(to_vectors, jnp.sum(to_logits, axis=0, keepdims=True), _NO_GRADIENT)
    if saved is None:
        return to_queries, _Keys(_NO_GRADIENT, _NO_GRADIENT)
    queries, keys, penalty = saved
    answered = _Answered(queries, penalty, cotangent, attraction_cotangent)
    return to_queries, _Keys(_keys_gradient(static, keys, answered), _NO_GRADIENT)


_against.defvjp(_against_forward, _against_backward)


def _keys_gradient(
    static: _Others, keys: _Keys, answered: _Answered
) -> Float[Array, "sets global d"]:
    """Circulate the queries; each key accumulates the gradient of every query that met it."""

    def meet(gradient: jax.Array, keys: _Keys, answered: _Answered) -> jax.Array:
        queries, penalty, cotangent, attraction_cotangent = answered
        logits, positive = _logits(static, queries, _by_pair(keys.vectors, static), keys.labels)
        if static.form == "softmax":
            weights = jnp.exp(logits - _finite(penalty)[..., None])
        else:
            weights = jax.nn.sigmoid(logits)
        weights *= cotangent[..., None]
        if positive is not None and attraction_cotangent is not None:
            weights += jnp.where(positive, attraction_cotangent[..., None], 0.0)
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
    static: _Others,
    queries: _Queries,
    keys: Float[Array, "pairs k d"],
    labels: UInt32[Array, "labels k"],
) -> tuple[Float[Array, "pairs q k"], Bool[Array, "q k"] | None]:
    """Logits, and which keys are positives of which queries.

    Logits are -inf of a query's own key, and of one of an equal caption that is not a positive.
    """
    logits = _einsum("pqd,pkd->pqk", queries.vectors, keys) + queries.offsets[..., None]
    first_caption = 2 if static.have_concepts else 1
    own = queries.labels[0, :, None] == labels[0]
    theirs = labels[first_caption:]
    equal = queries.labels[first_caption:, None, :, None] == theirs[:, None, :]
    left_out, positive = own | (equal & (theirs != 0)[:, None, :]).any(axis=(0, 1)), None
    if static.have_concepts:
        positive = (queries.labels[1, :, None] == labels[1]) & (labels[1] != 0) & ~own
        left_out &= ~positive
    return jnp.where(left_out, -jnp.inf, logits), positive


def _attract(
    sums: _PositiveSums,
    logits: Float[Array, "pairs q k"],
    positive: Bool[Array, "q k"],
    keys: Float[Array, "pairs k d"],
) -> _PositiveSums:
    weights = positive.astype(logits.dtype)
    return _PositiveSums(
        jnp.maximum(sums.maximum, jnp.where(positive, -jnp.inf, logits).max(axis=2)),
        sums.attraction + jnp.where(positive, logits, 0.0).sum(axis=2),
        sums.keys + _einsum("qk,pkd->pqd", weights, keys),
        sums.number + weights.sum(axis=1),
    )


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
        sums.positives,
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
        sums.positives,
    )


def _finite(value: Float[Array, "pairs n"]) -> Float[Array, "pairs n"]:
    """Of a query that has met no key yet: any number but -inf, which would make NaN."""
    return jnp.where(jnp.isfinite(value), value, 0.0)


def _by_pair(vectors: Float[Array, "sets k d"], static: _Others) -> Float[Array, "pairs k d"]:
    return jnp.stack([vectors[key_set] for key_set in static.key_sets])


def _labels(of: Queries | Keys) -> UInt32[Array, "labels n"]:
    """What tells negatives apart, as one array: it travels as one message.

    The row, the concept where there are concepts, the captions.
    """
    concepts = [] if of.concepts is None else [of.concepts]
    captions = of.captions.reshape(len(of.rows), -1).T
    return jnp.stack([of.rows.astype(jnp.uint32), *concepts, *captions])
