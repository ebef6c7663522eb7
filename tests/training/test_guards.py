"""Guards: what is skipped, that it changes nothing, and that nothing else is changed by them."""

import functools
import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.errors import InputError
from oner_jax.models.pretraining import PureModel
from oner_jax.objectives.objective import Objective
from oner_jax.parallel import mesh as meshes
from oner_jax.training.gradients import make_gradient_function
from oner_jax.training.guards import GuardSettings, init_guard, judge
from tests import small
from tests.damage import Breakable, broken
from tests.marks import slow

WINDOW, LIMIT = small.GUARD.spike_window_steps, small.GUARD.spike_z_score

_judge = jax.jit(functools.partial(judge, small.GUARD))


class ListedGuard:
    """The same rule over a plain list."""

    def __init__(self):
        self.losses, self.in_a_row, self.nonfinite, self.spikes = [], 0, 0, 0

    def accepts(self, loss: float, norm: float) -> bool:
        finite = math.isfinite(loss) and math.isfinite(norm)
        spike = finite and len(self.losses) >= WINDOW and self.z_score(loss) > LIMIT
        self.nonfinite += not finite
        self.spikes += spike
        if finite and not spike:
            self.losses.append(loss)
        self.in_a_row = 0 if finite and not spike else self.in_a_row + 1
        return self.in_a_row == 0

    def z_score(self, loss: float) -> float:
        recent = self.losses[-WINDOW:]
        median = statistics.median(recent)
        deviation = statistics.median(abs(each - median) for each in recent)
        return (loss - median) / max(1.4826 * deviation, 0.01 * abs(median))


# Sixteenths, exact in float32, so that the two can only differ by the rule.
ordinary = st.integers(8, 64).map(lambda n: n / 16)
anything = st.one_of(
    ordinary, st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(65, 9999).map(float)
)


@given(
    st.lists(ordinary, max_size=2 * WINDOW),
    st.lists(st.tuples(anything, st.sampled_from([1.0, 1.0, 1.0, math.inf])), max_size=20),
)
def test_what_is_skipped_is_what_the_rule_says(before, after):
    state, listed = init_guard(small.GUARD), ListedGuard()
    for loss, norm in [(loss, 1.0) for loss in before] + after:
        judged = len(listed.losses) >= WINDOW and math.isfinite(loss)
        if judged and abs(listed.z_score(loss) - LIMIT) < 1e-3:
            continue  # so near that rounding decides
        accepted, state, metrics = _judge(state, jnp.float32(loss), jnp.float32(norm))
        assert bool(accepted) == listed.accepts(loss, norm)
        assert metrics["guard/consecutive_skips"] == listed.in_a_row
        assert metrics["guard/skipped_nonfinite"] == listed.nonfinite
        assert metrics["guard/skipped_spikes"] == listed.spikes
        assert math.isfinite(metrics["guard/z_score"])
    assert state.accepted_steps == len(listed.losses)
    held = sorted(listed.losses[-WINDOW:] + [0.0] * (WINDOW - len(listed.losses)))
    np.testing.assert_array_equal(np.sort(state.recent_losses), held)


def test_a_low_loss_is_no_spike_and_a_score_of_0_knows_none():
    state = init_guard(small.GUARD)._replace(
        recent_losses=jnp.full(WINDOW, 4.0), accepted_steps=jnp.int32(WINDOW)
    )
    assert _judge(state, jnp.float32(0.01), jnp.float32(1.0))[0]
    assert not _judge(state, jnp.float32(4.5), jnp.float32(1.0))[0]
    without = GuardSettings(
        spike_z_score=0.0,
        spike_window_steps=WINDOW,
        maximum_consecutive_skips=3,
        maximum_rollbacks=1,
    )
    assert judge(without, state, jnp.float32(1e9), jnp.float32(1.0))[0]


@pytest.mark.parametrize(
    "change",
    [
        {"spike_z_score": -1.0},
        {"spike_window_steps": 1},
        {"maximum_consecutive_skips": 0},
        {"maximum_rollbacks": -1},
    ],
)
def test_impossible_settings_are_refused_by_name(change):
    valid = dict(
        spike_z_score=10.0,
        spike_window_steps=8,
        maximum_consecutive_skips=3,
        maximum_rollbacks=1,
    )
    (name,) = change
    with pytest.raises(InputError, match=f"guards.{name}="):
        GuardSettings(**valid | change)


# tests/conftest.py asks for older emitters, with which rounding depends on the program around.
DEFAULT_EMITTERS: dict[str, str | bool] = {"xla_cpu_use_fusion_emitters": True}


@functools.cache
def parts(sizes):
    """Model, objective that can be broken, step and first state on the host, and a batch."""
    settings = small.settings()
    model = PureModel(settings)
    devices = jax.devices()[: int(np.prod(sizes))]
    mesh = meshes.make_mesh(dict(zip(meshes.AXES, sizes, strict=True)), devices)
    weights = {"itc": 1.0, "mim": 1.0, "mlm": 1.0}
    objective = small.objective(settings, weights, mesh, kind=Breakable)
    step, state = small.training(model, objective)
    batch = jax.device_put(small.batch(settings, size=16), meshes.batch_sharding(mesh))
    return model, objective, step, jax.device_get(state), batch


def unguarded_step(model, objective: Objective):
    """A training step as it is without guards."""
    gradients_of = make_gradient_function(model, objective, micro_batches=1)

    def step(state, batch):
        prepared = objective.prepare(jax.random.fold_in(jax.random.key(0), state.step), batch)
        prepared = jax.lax.with_sharding_constraint(prepared, meshes.batch_sharding(objective.mesh))
        with jax.sharding.use_abstract_mesh(objective.mesh.abstract_mesh):
            gradients, _ = gradients_of(state.parameters, state.momentum, prepared)
        updates, optimizer = small.OPTIMIZER.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        momentum = jax.tree.map(
            lambda old, new: (
                jnp.float32(small.MOMENTUM) * old + (1 - jnp.float32(small.MOMENTUM)) * new
            ),
            state.momentum,
            parameters["backbone"],
        )
        return state._replace(
            step=state.step + 1, parameters=parameters, momentum=momentum, optimizer=optimizer
        )

    return step


def trained(state):
    return state.parameters, state.momentum, state.optimizer


def assert_identical(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), slow((1, 2, 2, 2))])
def test_steps_that_are_not_skipped_are_bit_identical_to_steps_without_guards(sizes):
    model, objective, step, start, batch = parts(sizes)
    bare = unguarded_step(model, objective)
    step = step.lower(start, batch).compile(DEFAULT_EMITTERS)
    # The same shardings, which the abstract evaluation of the guarded step tells.
    state, _ = step(start, batch)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    bare = jax.jit(
        bare,
        in_shardings=(shardings, meshes.batch_sharding(objective.mesh)),
        out_shardings=shardings,
    )
    bare = bare.lower(start, batch).compile(DEFAULT_EMITTERS)
    other = bare(start, batch)
    for _ in range(2):
        assert_identical(trained(state), trained(other))
        state, _ = step(state, batch)
        other = bare(other, batch)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), slow((1, 2, 2, 2))])
def test_a_step_that_is_not_finite_changes_nothing_but_counts(sizes):
    _, _, step, start, batch = parts(sizes)
    state, _ = step(start, batch)
    before = jax.device_get(state)
    state, metrics = step(state, broken(batch))
    assert_identical(trained(state), trained(before))
    assert not np.isfinite(metrics["loss"])
    assert metrics["guard/skipped_nonfinite"] == metrics["guard/consecutive_skips"] == 1
    assert int(state.step) == 2, "data and randomness go on"
    after, metrics = step(state, batch)
    # As if the run had been there at this step without the bad batch.
    expected, _ = step(before._replace(step=np.int32(2)), batch)
    assert_identical(trained(after), trained(expected))
    assert metrics["guard/consecutive_skips"] == 0
    assert all(np.isfinite(value) for value in metrics.values())
    assert int(after.guard.accepted_steps) == 2
