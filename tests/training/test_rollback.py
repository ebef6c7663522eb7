"""Runs that go wrong: what they skip, where they go back to, and what the end is like."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from configs.oner import get_config
from oner_jax.command_line.program import EXIT_FAILED, report
from oner_jax.configuration import resolve_without_data
from oner_jax.errors import Diverged, Preempted
from oner_jax.objectives.batch import TextFormat
from oner_jax.parallel.mesh import make_mesh
from oner_jax.parallel.preemption import StopRequest
from oner_jax.training.checkpointing.checkpoints import Checkpoints, available_steps
from oner_jax.training.checkpointing.policy import CheckpointPolicy
from oner_jax.training.initial_state import state_at
from oner_jax.training.loop import Loop
from oner_jax.training.monitoring.damage_log import DamageLog
from oner_jax.training.monitoring.goodput import Goodput
from oner_jax.training.monitoring.metrics import MetricsLog
from oner_jax.training.monitoring.watchdog import Watchdog
from oner_jax.training.recipe import Recipe
from oner_jax.training.rollback import Rollbacks
from oner_jax.training.synthetic import synthetic_batch
from tests.damage import Breakable, broken, spiking
from tests.marks import slow

ROOT = Path(__file__).parents[2]
STEPS = 48
DATA = {"train": "synthetic"}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """A run of 48 steps on one device, whose guard looks at 8 losses and bears 3 skips in a row."""
    config = get_config("tiny,terms=itc+mlm")
    config.batch_size, config.total_steps, config.log_interval_steps = 8, STEPS, 1
    config.model.depth, config.model.vocabulary_size = 1, 64
    config.optimizer.learning_rate_per_256_examples = 0.016
    config.optimizer.clip_norm = 1e9  # or it would spare what the guard is to spare
    config.guards.spike_window_steps, config.guards.maximum_consecutive_skips = 8, 3
    text, mesh = TextFormat.synthetic(64), make_mesh(devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oner_jax.training.recipe.Objective", Breakable)
        return Recipe.from_config(resolve_without_data(config), text, mesh)


@pytest.fixture(scope="module")
def batches(recipe):
    """The batch of a number: one of four."""
    made = [synthetic_batch(recipe, seed) for seed in range(4)]
    return lambda number: made[number % 4]


def uninterrupted(recipe, batches, numbers):
    """The state after the batches of these numbers, by nothing but the step."""
    state = recipe.init_state()
    for number in numbers:
        state, _ = recipe.step(state, batches(number))
    return state


def first_state(recipe, checkpoints):
    """State, step and roll-backs that a run begins with."""
    step = checkpoints.last_good()
    state, position = state_at(step, recipe, checkpoints)
    return state, step or 0, Rollbacks(recipe.guard, position)


class StopAfter(StopRequest):
    """A request to stop after so many steps of this process that are not discarded."""

    def __init__(self, steps: int | None):
        self._left = steps

    def here(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left < 0


def run(recipe, batches, folder: Path, bad=(), *, stop=None, damage=broken, saved_every_steps=4):
    """Train in `folder`, from its last checkpoint; the batches numbered in `bad` are damaged."""

    def batches_from(number):
        while True:
            batch = batches(number)
            yield damage(batch) if number in bad else batch
            number += 1

    policy = CheckpointPolicy(interval_steps=saved_every_steps, keep=20)
    damage_log = DamageLog(None, maximum_fraction=0.0, examples_per_step=8)
    with Checkpoints(folder, policy) as checkpoints:
        state, step, rollbacks = first_state(recipe, checkpoints)
        with MetricsLog(epath.Path(folder), first_step=step, total_steps=STEPS) as log:
            return Loop(
                recipe,
                state,
                step,
                batches_from=batches_from,
                data=DATA,
                rollbacks=rollbacks,
                checkpoints=checkpoints,
                log=log,
                damage=damage_log,
                stop=StopAfter(stop),
                watchdog=Watchdog(epath.Path(folder), minutes=0.0, first_step_minutes=0.0),
                goodput=Goodput(),
            ).run()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def trained(state):
    return jax.device_get((state.parameters, state.momentum, state.optimizer))


def assert_identical(one, other):
    jax.tree.map(np.testing.assert_array_equal, trained(one), trained(other))


def test_one_batch_that_gives_no_number_costs_its_step_alone(recipe, batches, tmp_path, capsys):
    state = run(recipe, batches, tmp_path, bad={10}, saved_every_steps=STEPS)
    expected = recipe.init_state()
    for number in range(STEPS):
        if number == 10:
            expected = expected._replace(step=expected.step + 1)
        else:
            expected, _ = recipe.step(expected, batches(number))
    assert_identical(state, expected)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained(state)))
    metrics = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    assert [line["guard/skipped_nonfinite"] for line in metrics] == [0] * 10 + [1] * 38
    assert metrics[-1]["guard/rollbacks"] == metrics[-1]["guard/skipped_spikes"] == 0
    assert "step 11 was skipped: loss nan" in capsys.readouterr().out


# Of the run in three parts the second begins within the bad steps, goes back and ends at step 7.
# Batches 10, 11 and 12 are those of steps 11 to 13; step 4 has the last checkpoint with three good
# steps after it that precede them. From there on batch 13 and what follows are read.
BAD = {10, 11, 12}
NUMBERS = [*range(4), *range(13, 13 + STEPS - 4)]


@pytest.mark.parametrize("stops", [(), (12, 4, 33), slow((12,)), slow((13,)), slow((6,))], ids=str)
def test_many_in_a_row_go_back_and_on_after_them_whenever_the_run_is_stopped(
    recipe, batches, tmp_path, capsys, stops
):
    for stop in stops:
        with pytest.raises(Preempted):
            run(recipe, batches, tmp_path, BAD, stop=stop)
    state = run(recipe, batches, tmp_path, BAD)
    assert_identical(state, uninterrupted(recipe, batches, NUMBERS))
    metrics = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    last = metrics[-1]
    assert (last["guard/rollbacks"], last["guard/data_offset_steps"]) == (1, 9)
    assert last["guard/skipped_nonfinite"] == 3, "also of what was rolled back"
    assert [line["step"] for line in lines(tmp_path / "rolled_back.jsonl")][-9:] == [*range(5, 14)]
    assert set(range(4, STEPS + 1, 4)) <= set(saved_steps(tmp_path))
    assert "went back to step 4" in capsys.readouterr().out


def test_a_checkpoint_is_not_made_by_the_interval_among_skipped_steps(recipe, batches, tmp_path):
    with pytest.raises(Preempted):
        run(recipe, batches, tmp_path, bad={11}, stop=13)
    assert saved_steps(tmp_path) == [4, 8, 13]


def test_bad_batches_without_end_stop_the_run_and_leave_the_last_good_checkpoint(
    recipe, batches, tmp_path, capsys
):
    bad = range(10, 110)
    with pytest.raises(Diverged) as end:
        run(recipe, batches, tmp_path, bad)
    assert report(end.value) == EXIT_FAILED
    (complaint,) = capsys.readouterr().err.splitlines()
    assert complaint.startswith("error: steps 5 to 7 were skipped in a row")
    assert saved_steps(tmp_path) == [4]
    with Checkpoints(tmp_path, CheckpointPolicy(interval_steps=4, keep=20)) as checkpoints:
        state, step, _ = first_state(recipe, checkpoints)
    assert step == 4
    assert_identical(state, uninterrupted(recipe, batches, range(4)))
    metrics = lines(tmp_path / "metrics.jsonl")
    assert metrics[-1]["step"] == 7
    assert metrics[-1]["guard/skipped_nonfinite"] == 6
    with pytest.raises(Diverged):
        run(recipe, batches, tmp_path, bad)
    assert saved_steps(tmp_path) == [4]


def test_a_run_that_goes_wrong_before_its_first_checkpoint_begins_again(recipe, batches, tmp_path):
    state = run(recipe, batches, tmp_path, bad={0, 1, 2})
    assert_identical(state, uninterrupted(recipe, batches, range(3, 3 + STEPS)))


def test_after_a_spike_the_loss_is_that_of_the_clean_run(recipe, batches, tmp_path):
    def losses(folder, **bad):
        run(recipe, batches, folder, saved_every_steps=STEPS, **bad)
        return np.array([line["loss"] for line in lines(folder / "metrics.jsonl")])

    clean = losses(tmp_path / "clean")
    spiked = losses(tmp_path / "spiked", bad={30}, damage=spiking)
    assert spiked[30] > 100 * clean[30]
    assert lines(tmp_path / "spiked" / "metrics.jsonl")[-1]["guard/skipped_spikes"] == 1
    np.testing.assert_allclose(spiked[31:], clean[31:], rtol=0.01)
    # And where the guard has not seen enough to know a spike, it is not.
    state = uninterrupted(recipe, batches, range(30))
    state = state._replace(guard=recipe.init_guard())
    unguarded = []
    for number in range(30, STEPS):
        batch = batches(number)
        state, metrics = recipe.step(state, spiking(batch) if number == 30 else batch)
        unguarded.append(metrics["loss"])
    assert np.max(np.abs(unguarded[1:] / clean[31:] - 1)) > 0.015


def test_a_checkpoint_from_before_there_were_guards_is_continued(recipe, batches, tmp_path):
    state = uninterrupted(recipe, batches, range(4))
    with Checkpoints(tmp_path, CheckpointPolicy(interval_steps=4, keep=20)) as checkpoints:
        checkpoints.save(4, state._replace(guard={}), {"step": 4, "data": DATA})
        checkpoints.wait()
        restored, step, rollbacks = first_state(recipe, checkpoints)
    assert step == 4
    assert_identical(restored, state)
    assert int(restored.guard.accepted_steps) == 0
    assert rollbacks.position() == {"rollbacks": 0, "data_offset_steps": 0}


PROGRAM = """
from oner_jax.command_line import program as program_ends
from oner_jax import train
from oner_jax.training import recipe
from tests.damage import Breakable, broken

batches_from = train._batches_from


def damaged(*arguments):
    for number, batch in enumerate(batches_from(*arguments), arguments[-1]):
        yield broken(batch) if 10 <= number < 110 else batch


recipe.Objective, train._batches_from = Breakable, damaged
program_ends.run_program(train.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_program_goes_back_and_then_ends_with_1_and_one_line(tmp_path, processes):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", PROGRAM, "--config=configs/oner.py:tiny"]
    command += [f"--workdir={folder}", "--config.guards.maximum_consecutive_skips=5"]
    if processes > 1:
        command = [sys.executable, "launch/local.py", f"--processes={processes}", "--", *command]
    environment = os.environ | {"XLA_FLAGS": ""}
    for _ in range(2):
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
        )
        assert ended.returncode == 1, ended.stderr
        assert "Traceback" not in ended.stderr
        complaints = [line for line in ended.stderr.splitlines() if "error: " in line]
        assert len(complaints) == processes, ended.stderr
        assert all("error: steps 11 to 15 were skipped" in line for line in complaints)
        assert "went back to step 10" in ended.stdout
        assert available_steps(folder) == [10]
