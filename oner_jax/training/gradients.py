"""The gradient of the global batch, whole or in micro-batches that add up to exactly the whole.

Contrast joins all examples of a batch, so a micro-batch alone has the wrong loss. Two ways out:

keys first       A momentum twin's keys carry no gradient: they are made first, for all
                 micro-batches, and every micro-batch of queries then meets the keys of the global
                 batch. No second forward pass.
cached gradients Where keys are the online model's own, features of all micro-batches are made
                 first without their activations, the contrast gives its gradient with respect to
                 them, and a second pass carries that into the parameters (Gao et al. 2021, "Scaling
                 deep contrastive learning batch size under memory limited setup").
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from oner_jax.models.pretraining import Parameters, PretrainingModel, PureModel
from oner_jax.objectives.batch import PreparedBatch
from oner_jax.objectives.contrastive import Keys
from oner_jax.objectives.objective import Features, Objective, Scalars
from oner_jax.parallel.mesh import BATCH_AXES

GradientFunction = Callable[[Parameters, Parameters, PreparedBatch], tuple[Parameters, Scalars]]
"""(parameters, momentum parameters, batch) -> (gradients, metrics) of the global batch."""


def make_gradient_function(
    model: PureModel, objective: Objective, micro_batches: int
) -> GradientFunction:
    """The way that suits the objective's keys and the number of micro-batches."""
    if objective.has_twin:
        return _keys_first(model, objective, micro_batches)
    if micro_batches == 1:
        return _whole(model, objective)
    return _cached(model, objective, micro_batches)


def _keys_first(model: PureModel, objective: Objective, micro_batches: int) -> GradientFunction:
    def gradients(parameters, momentum, batch):
        twin = model.bind_backbone(momentum)
        parts = _split(batch, micro_batches)
        own = _each(lambda part: objective.make_keys(twin, part), parts)
        keys = _keys(objective, _merge(own), batch)
        totals = objective.totals(batch)

        def share(parameters, part, own):
            bound = model.bind(parameters)
            features, metrics = objective.features(bound, part, totals)
            metrics |= objective.contrast_losses(bound, features.queries, own, part, keys, totals)
            return objective.total(metrics), metrics

        return _sum(lambda xs: jax.grad(share, has_aux=True)(parameters, *xs), (parts, own))

    return gradients


def _whole(model: PureModel, objective: Objective) -> GradientFunction:
    def gradients(parameters, momentum, batch):
        del momentum
        totals = objective.totals(batch)

        def loss(parameters):
            bound = model.bind(parameters)
            features, metrics = objective.features(bound, batch, totals)
            metrics |= _contrast(objective, bound, features, batch, totals)
            return objective.total(metrics), metrics

        return jax.grad(loss, has_aux=True)(parameters)

    return gradients


def _cached(model: PureModel, objective: Objective, micro_batches: int) -> GradientFunction:
    def gradients(parameters, momentum, batch):
        del momentum
        totals = objective.totals(batch)
        parts = _split(batch, micro_batches)
        bound = model.bind(parameters)
        features = _each(lambda part: objective.features(bound, part, totals)[0], parts)
        whole = jax.tree.map(_merge, features)

        def contrast(parameters, whole):
            metrics = _contrast(objective, model.bind(parameters), whole, batch, totals)
            return objective.total(metrics), metrics

        (direct, of_features), contrasted = jax.grad(contrast, argnums=(0, 1), has_aux=True)(
            parameters, whole
        )
        of_features = jax.tree.map(lambda x: _split_features(x, micro_batches), of_features)

        def share(parameters, part, cotangent):
            features, metrics = objective.features(model.bind(parameters), part, totals)
            # Its gradient with respect to the parameters is the contrast's, by the chain rule.
            products = jax.tree.map(jnp.vdot, features, cotangent)
            return jax.tree.reduce(jnp.add, products) + objective.total(metrics), metrics

        indirect, rebuilt = _sum(
            lambda xs: jax.grad(share, has_aux=True)(parameters, *xs), (parts, of_features)
        )
        return jax.tree.map(jnp.add, direct, indirect), contrasted | rebuilt

    return gradients


def _contrast(
    objective: Objective,
    bound: PretrainingModel,
    features: Features,
    batch: PreparedBatch,
    totals: Scalars,
) -> Scalars:
    """All queries of the global batch against its own keys, through which the gradient flows."""
    keys = _keys(objective, features.keys, batch)
    return objective.contrast_losses(bound, features.queries, features.keys, batch, keys, totals)


def _keys(
    objective: Objective, vectors: Float[Array, "sets global d"], batch: PreparedBatch
) -> Keys:
    """Keys of the global batch, their rows where the batch's are: the contrast moves them."""
    rows = NamedSharding(objective.mesh, PartitionSpec(None, BATCH_AXES))
    vectors = jax.lax.with_sharding_constraint(vectors, rows)
    return Keys(vectors, batch.row, batch.caption_hash, batch.concept_hash)


def _split(batch: PreparedBatch, micro_batches: int) -> PreparedBatch:
    """Leading axis of micro-batches. Part m takes rows m, m + M, ...: local on every device."""
    return jax.tree.map(
        lambda x: x.reshape(len(x) // micro_batches, micro_batches, *x.shape[1:]).swapaxes(0, 1),
        batch,
    )


def _split_features(
    features: Float[Array, "sets global d"], micro_batches: int
) -> Float[Array, "parts sets n d"]:
    """The same for vectors of several sets."""
    sets, rows, width = features.shape
    parts = features.reshape(sets, rows // micro_batches, micro_batches, width)
    return jnp.moveaxis(parts, 2, 0)


def _merge(features: Float[Array, "parts sets n d"]) -> Float[Array, "sets global d"]:
    """Inverse of `_split_features`."""
    parts, sets, rows, width = features.shape
    return jnp.moveaxis(features, 0, 2).reshape(sets, rows * parts, width)


def _each(function: Callable[[PreparedBatch], Any], parts: PreparedBatch) -> Any:
    if parts.row.shape[0] == 1:
        outputs = function(jax.tree.map(lambda x: x[0], parts))
        return jax.tree.map(lambda x: x[None], outputs)
    return jax.lax.map(function, parts)


def _sum(function: Callable[[Any], Any], parts: Any) -> Any:
    """Sum of `function` over the parts, one part in memory at a time."""
    first = jax.tree.map(lambda x: x[0], parts)
    if jax.tree.leaves(parts)[0].shape[0] == 1:
        return function(first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first))

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    return jax.lax.scan(add, zeros, parts)[0]
