"""One training step: a pure function of (state, batch)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from oner_jax.models.pretraining import Parameters, PureModel
from oner_jax.objectives.batch import Batch
from oner_jax.objectives.objective import Objective
from oner_jax.parallel.mesh import Rules, batch_sharding, replicated, shardings
from oner_jax.training import guards
from oner_jax.training.gradients import make_gradient_function
from oner_jax.training.guards import GuardSettings, GuardState
from oner_jax.training.optimizer import applied_updates
from oner_jax.training.schedule import Schedule

Metrics = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """Everything that changes while training.

    `momentum` is the twin of the backbone, empty where the objective's keys are the online model's.
    """

    step: Int[Array, ""]
    parameters: Parameters
    momentum: Parameters
    optimizer: Any
    guard: GuardState


def init_state(
    model: PureModel,
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    has_twin: bool,
    guard: GuardSettings,
) -> TrainState:
    """Fresh weights from `seed`; the momentum twin, where there is one, starts as a copy."""
    parameters = model.init(jax.random.key(seed))
    momentum = jax.tree.map(jnp.copy, parameters["backbone"]) if has_twin else {}
    optimizer_state = optimizer.init(parameters)
    return TrainState(jnp.int32(0), parameters, momentum, optimizer_state, guards.init_guard(guard))


def make_train_step(
    model: PureModel,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    learning_rate: optax.Schedule,
    momentum: Schedule,
    guard: GuardSettings,
    micro_batches: int,
    seed: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Build step(state, batch) -> (state, metrics), to be compiled with `compile_step`.

    Randomness is fold_in(seed, step). The batch is processed in `micro_batches` parts that all
    contrast with the whole batch's keys: the gradient is that of the undivided batch. A step that
    `guard` takes for bad leaves all but its own count and the guard's as it was.
    """
    rows = batch_sharding(objective.mesh)
    gradients_of = make_gradient_function(model, objective, micro_batches)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        prepared = jax.lax.with_sharding_constraint(objective.prepare(key, batch), rows)
        with jax.sharding.use_abstract_mesh(objective.mesh.abstract_mesh):
            gradients, metrics = gradients_of(state.parameters, state.momentum, prepared)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        twin, twin_metrics = state.momentum, {}
        if objective.has_twin:
            decay = momentum(state.step)
            twin_metrics = {"momentum": decay}
            twin = jax.tree.map(
                lambda old, new: decay * old + (1 - decay) * new, twin, parameters["backbone"]
            )
        if prepared.is_mosaic is not None:
            metrics["mosaic_fraction"] = prepared.is_mosaic.mean()
        loss, gradient_norm = objective.total(metrics), optax.global_norm(gradients)
        accepted, guard_state, guard_metrics = guards.judge(guard, state.guard, loss, gradient_norm)
        parameters, twin, optimizer_state = guards.choose(
            accepted,
            (parameters, twin, optimizer_state),
            (state.parameters, state.momentum, state.optimizer),
        )
        rate = learning_rate(applied_updates(state.optimizer))
        metrics = {
            "loss": loss,
            **metrics,
            "learning_rate": jnp.asarray(rate, jnp.float32),
            **twin_metrics,
            "gradient_norm": gradient_norm,
            "parameter_norm": optax.global_norm(parameters),
            **guard_metrics,
        }
        after = TrainState(state.step + 1, parameters, twin, optimizer_state, guard_state)
        return after, metrics

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
    model: PureModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: Rules,
    *,
    has_twin: bool,
    guard: GuardSettings,
) -> TrainState:
    """Shapes, types and shardings of the state, without making it."""
    make = functools.partial(init_state, model, optimizer, 0, has_twin=has_twin, guard=guard)
    shapes = jax.eval_shape(make)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh, rules),
    )
