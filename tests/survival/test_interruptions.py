"""Runs that are killed, or asked to stop, again and again, and end as if nothing had been.

The small forms are among the slow tests, the large ones (`make test-soak`) print the figures of
RELIABILITY.md.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from oner_jax.training.checkpointing.checkpoints import available_steps
from tests.survival.runs import (
    Runs,
    assert_identical,
    interrupt,
    running,
    waits,
)

# How many interruptions, and how many steps: enough that they do not outlast the run.
SIZES = [
    pytest.param(3, 120, marks=pytest.mark.slow),
    pytest.param(20, 800, marks=pytest.mark.soak),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Runs]:
    with running(tmp_path_factory.mktemp("logs")) as started:
        yield started


def uninterrupted(runs: Runs, folder: Path, steps: str) -> tuple[Path, float]:
    """A run left alone, and the seconds until its first steps, with the program compiled."""
    workdir = folder / "uninterrupted"
    runs.finish(folder / "compiled", steps, "--config.total_steps=1")
    seconds = runs.finish(folder / "start", "--config.total_steps=30")
    runs.finish(workdir, steps)
    return workdir, seconds


@pytest.mark.parametrize(("count", "total_steps"), SIZES)
def test_killed_runs_end_bit_identical(runs, tmp_path, count, total_steps):
    steps = f"--config.total_steps={total_steps}"
    alone, seconds = uninterrupted(runs, tmp_path, steps)
    workdir = tmp_path / "killed"
    during_saves = during_steps = longest_replay = 0
    for at, wait in enumerate(waits(seconds, count, seed=1)):
        in_save = at % 2 == 1
        killed = interrupt(runs, workdir, signal.SIGKILL, wait, steps, in_save=in_save)
        assert killed is not None, "the run was over before"
        assert killed.exit_code == -signal.SIGKILL
        during_saves += killed.saving
        during_steps += killed.logged_step > 0
        longest_replay = max(longest_replay, killed.logged_step - max(killed.steps, default=0))
    runs.finish(workdir, steps)
    assert_identical(workdir, alone)
    print(
        f"kill -9: {count} kills of a run of {total_steps} steps, {during_saves} during a save, "
        f"{during_steps} after its first step; parameters, twin and metrics bit-identical; "
        f"longest replay {longest_replay} steps"
    )


@pytest.mark.parametrize(("count", "total_steps"), SIZES)
def test_runs_asked_to_stop_save_exit_75_and_end_identical(runs, tmp_path, count, total_steps):
    steps = f"--config.total_steps={total_steps}"
    alone, seconds = uninterrupted(runs, tmp_path, steps)
    workdir = tmp_path / "stopped"
    for wait in waits(seconds, count, seed=2):
        stopped = interrupt(runs, workdir, signal.SIGTERM, wait, steps)
        assert stopped is not None, "the run was over before"
        assert stopped.exit_code == 75
        assert stopped.logged_step == available_steps(workdir)[-1], "nothing to replay"
    runs.finish(workdir, steps)
    assert_identical(workdir, alone)
    print(
        f"SIGTERM: {count} times exit code 75 with a checkpoint of the step reached; parameters, "
        "twin and metrics bit-identical; nothing replayed"
    )
