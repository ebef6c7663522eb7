"""One training step: a pure function of (state, batch)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from oner_jax.models.architectures import Parameters, PureModel
from oner_jax.objectives.objective import Batch, Objective, PreparedBatch
from oner_jax.parallel.mesh import Rules, batch_sharding, replicated, shardings
from oner_jax.training.schedule import Schedule

Metrics = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """Everything that changes while training. `momentum` is the twin of the backbone."""

    step: Int[Array, ""]
    parameters: Parameters
    momentum: Parameters
    optimizer: Any


def init_state(model: PureModel, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Fresh weights from `seed`; the momentum twin starts as a copy."""
    parameters = model.init(jax.random.key(seed))
    momentum = jax.tree.map(jnp.copy, parameters["backbone"])
    return TrainState(jnp.int32(0), parameters, momentum, optimizer.init(parameters))


def make_train_step(
    model: PureModel,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    learning_rate: optax.Schedule,
    momentum: Schedule,
    micro_batches: int,
    seed: int,
    mesh: Mesh,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Build step(state, batch) -> (state, metrics), to be compiled with `compile_step`.

    Randomness is fold_in(seed, step). The batch is processed in `micro_batches` parts that all
    contrast with the whole batch's keys: the gradient is that of the undivided batch.
    """
    rows = batch_sharding(mesh)

    def share(parameters, keys, captions, totals, part, own_keys):
        bound = model.bind(parameters)
        return objective.loss(bound, part, own_keys, keys, captions, totals, mesh)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        prepared = objective.prepare(key, batch)
        prepared = jax.lax.with_sharding_constraint(prepared, rows)
        parts = _split(prepared, micro_batches)
        twin = model.bind_backbone(state.momentum)
        own_keys = _each(functools.partial(objective.make_keys, twin), parts)
        # Cut by rows like the batch: the contrast sends them round.
        keys = jax.lax.with_sharding_constraint(_merge(own_keys, micro_batches), rows)
        totals = objective.totals(prepared)
        gradient_of_share = jax.grad(share, has_aux=True)
        gradients, metrics = _sum(
            lambda part: gradient_of_share(
                state.parameters, keys, prepared.captions, totals, *part
            ),
            (parts, own_keys),
        )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        decay = momentum(state.step)
        twin_parameters = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new,
            state.momentum,
            parameters["backbone"],
        )
        metrics |= {
            "learning_rate": jnp.asarray(learning_rate(state.step), jnp.float32),
            "momentum": decay,
            "gradient_norm": optax.global_norm(gradients),
            "parameter_norm": optax.global_norm(parameters),
        }
        return TrainState(state.step + 1, parameters, twin_parameters, optimizer_state), metrics

    return train_step


def compile_step(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    state_shardings: TrainState,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """jit with explicit shardings and the state donated."""
    rows = batch_sharding(mesh)
    return jax.jit(
        train_step,
        in_shardings=(state_shardings, rows),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
    )


def abstract_state(
    model: PureModel, optimizer: optax.GradientTransformation, mesh: Mesh, rules: Rules
) -> TrainState:
    """Shapes, types and shardings of the state, without making it."""
    shapes = jax.eval_shape(functools.partial(init_state, model, optimizer, 0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh, rules),
    )


def _split(batch: PreparedBatch, micro_batches: int) -> PreparedBatch:
    """Leading axis of micro-batches. Part m takes rows m, m + M, ...: local on every device."""
    return jax.tree.map(
        lambda x: x.reshape(len(x) // micro_batches, micro_batches, *x.shape[1:]).swapaxes(0, 1),
        batch,
    )


def _merge(tree: Any, micro_batches: int) -> Any:
    """Inverse of `_split`."""
    return jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(x.shape[1] * micro_batches, *x.shape[2:]), tree
    )


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
