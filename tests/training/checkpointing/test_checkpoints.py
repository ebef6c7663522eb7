"""Checkpoints come back on any mesh; what is damaged is noticed, and what fails is said."""

import dataclasses
import errno
import functools
import os
import random
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from configs.oner import get_config
from oner_jax.configuration import resolve_without_data, to_json
from oner_jax.errors import InputError, StorageError
from oner_jax.objectives.batch import TextFormat
from oner_jax.parallel.mesh import make_mesh
from oner_jax.training.checkpointing import integrity
from oner_jax.training.checkpointing import policy as checkpoint_policy
from oner_jax.training.checkpointing.checkpoints import (
    Checkpoints,
    available_steps,
    load_run,
    resolve_step,
)
from oner_jax.training.checkpointing.policy import CheckpointPolicy
from oner_jax.training.guards import init_guard
from oner_jax.training.recipe import Recipe
from oner_jax.training.step import TrainState
from tests import small

POLICY = CheckpointPolicy(interval_steps=1, keep=10)


ONE = jax.devices()[:1]


@functools.cache
def recipe(devices: int = 1, *, fsdp: int = 1, tensor: int = 1) -> Recipe:
    config = get_config("tiny")
    config.model.vocabulary_size = 64
    axes = {"slice": 1, "data": -1, "fsdp": fsdp, "tensor": tensor}
    mesh = make_mesh(axes, jax.devices()[:devices])
    return Recipe.from_config(resolve_without_data(config), TextFormat.synthetic(64), mesh)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at steps 1, 2 and 3, each of other numbers."""
    folder = tmp_path_factory.mktemp("saved")
    made = recipe()
    (folder / "config.json").write_text(to_json(made.config))
    state = made.init_state()
    with Checkpoints(folder, POLICY) as checkpoints:
        for step in (1, 2, 3):
            state = jax.tree.map(lambda x: x + 1, state)
            checkpoints.save(step, state, {"step": step}, {"loss": 1.0 / step})
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def small_state(number: int) -> TrainState:
    """Of the form of a state, where what is in it does not matter."""
    guard = init_guard(small.GUARD)
    return TrainState(jnp.int32(number), {"w": jnp.full(3, number)}, {}, {"m": jnp.zeros(3)}, guard)


def describe(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def restored(folder: Path, made: Recipe):
    with Checkpoints(folder, POLICY) as checkpoints:
        step = checkpoints.last_good()
        assert step is not None
        return checkpoints.restore(step, made.abstract)


def assert_equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def truncate(path: Path, byte: int) -> None:
    path.write_bytes(path.read_bytes()[:byte])


def largest_file(folder: Path) -> Path:
    return max(folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)


@pytest.mark.parametrize(("devices", "mesh"), [(8, {"fsdp": 4}), (4, {"tensor": 2}), (1, {})])
def test_a_state_comes_back_on_any_mesh(saved, tmp_path, devices, mesh):
    """From one device to many; from those to one, as evaluation reads it."""
    made = recipe(devices, **mesh)
    state, position = restored(saved, made)
    assert position == {"step": 3}
    assert int(state.step) == 3
    fresh = recipe().init_state()
    for name in ("parameters", "momentum", "optimizer"):
        found, before = getattr(state, name), getattr(fresh, name)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y + 3, rtol=1e-6), found, before)
    assert jax.tree.map(lambda leaf: leaf.sharding, state.parameters) == jax.tree.map(
        lambda leaf: leaf.sharding, made.abstract.parameters
    )
    shutil.copy(saved / "config.json", tmp_path)
    with Checkpoints(tmp_path, POLICY) as checkpoints:
        checkpoints.save(7, state, {})
    assert_equal(load_run(tmp_path).parameters, state.parameters)


def test_a_checkpoint_truncated_anywhere_is_moved_aside_and_the_one_before_is_used(copy, capsys):
    """Fifty bytes drawn from all that a checkpoint consists of, and one in each of its files."""
    directory = epath.Path(copy / "checkpoints")
    earlier = {step: files(copy / "checkpoints" / step) for step in ("1", "2")}
    whole = files(copy / "checkpoints" / "3")
    # Written by the commit itself, of which it says no more than the folder's name.
    del whole["commit_success.txt"]
    draw = random.Random(0)
    drawn = draw.choices(list(whole), [len(content) for content in whole.values()], k=50)
    for name in [*drawn, *whole]:
        byte = draw.randrange(len(whole[name]))
        truncate(copy / "checkpoints" / "3" / name, byte)
        assert integrity.latest_whole(directory, [1, 2, 3]) == 2, (name, byte)
        said = capsys.readouterr().err.strip()
        aside = copy / "checkpoints" / "damaged-3"
        assert said.startswith("checkpoint 3 is damaged: ")
        assert said.endswith(f"; moved to {aside}")
        assert "\n" not in said
        assert (aside / name).read_bytes() == whole[name][:byte]
        (aside / name).write_bytes(whole[name])
        aside.rename(copy / "checkpoints" / "3")
    assert {step: files(copy / "checkpoints" / step) for step in ("1", "2")} == earlier
    assert integrity.latest_whole(directory, [1, 2, 3]) == 3


def test_a_run_continues_from_the_last_whole_checkpoint(copy, capsys):
    truncate(largest_file(copy / "checkpoints" / "3"), 100)
    truncate(copy / "checkpoints" / "2" / "checksums.json", 0)
    state, position = restored(copy, recipe())
    assert position == {"step": 1}
    assert int(state.step) == 1
    assert available_steps(copy) == [1]
    assert len(capsys.readouterr().err.splitlines()) == 2
    with Checkpoints(copy, POLICY) as checkpoints:
        checkpoints.save(2, state, {"step": 2})
    assert available_steps(copy) == [1, 2]


def test_a_run_whose_checkpoints_are_all_damaged_never_begins_anew(copy):
    for step in ("1", "2", "3"):
        truncate(largest_file(copy / "checkpoints" / step), 7)
    for _ in range(2):
        with (
            pytest.raises(InputError, match=r"no checkpoint left .*damaged-1, damaged-2"),
            Checkpoints(copy, POLICY) as checkpoints,
        ):
            checkpoints.last_good()


def test_checkpoints_of_earlier_revisions_are_tried(copy):
    """They have no checksums: what can be read in full is taken, and gets them."""
    for step in ("1", "2", "3"):
        (copy / "checkpoints" / step / "checksums.json").unlink()
    truncate(largest_file(copy / "checkpoints" / "3"), 100)
    with Checkpoints(copy, POLICY) as checkpoints:
        assert checkpoints.last_good() == 2
    assert integrity.damage(epath.Path(copy / "checkpoints" / "2")) is None


def test_an_unfinished_save_is_discarded(copy, capsys):
    shutil.copytree(copy / "checkpoints" / "3", copy / "checkpoints" / "4.orbax-checkpoint-tmp")
    Checkpoints(copy, POLICY).__exit__(None)
    assert "discarded an unfinished save" in capsys.readouterr().err
    assert not (copy / "checkpoints" / "4.orbax-checkpoint-tmp").exists()


def test_a_checkpoint_of_another_model_is_refused_naming_the_array(copy):
    wider = get_config("tiny")
    wider.model.vocabulary_size, wider.model.mlp_width = 64, 64
    text = TextFormat.synthetic(64)
    made = Recipe.from_config(resolve_without_data(wider), text, make_mesh(devices=ONE))
    with pytest.raises(
        InputError, match=r"mlp/contract/kernel is \(1, 128, 32\) there and \(1, 64"
    ):
        restored(copy, made)
    assert available_steps(copy) == [1, 2, 3], "nothing is moved aside"


def test_a_damaged_checkpoint_is_not_evaluated(copy):
    truncate(largest_file(copy / "checkpoints" / "3" / "optimizer"), 5)
    assert load_run(copy, 3).step == 3, "its parameters are whole"
    truncate(largest_file(copy / "checkpoints" / "3" / "parameters"), 5)
    with pytest.raises(InputError, match=r"3 is damaged: parameters/.* is not as it was"):
        load_run(copy, 3)


def test_rolling_back_takes_the_last_whole_one_and_discards_later_ones(copy):
    with Checkpoints(copy, POLICY) as checkpoints:
        assert checkpoints.last_good(at_most=2) == 2
        assert checkpoints.last_good(at_most=0) is None
        checkpoints.discard_after(1)
        assert checkpoints.steps() == [1]
        assert checkpoints.last_good() == 1
        checkpoints.save(2, small_state(2), {"step": 2, "again": True})
    with Checkpoints(copy, POLICY) as checkpoints:
        abstract = jax.tree.map(describe, small_state(0))
        assert checkpoints.restore(2, abstract)[1] == {"step": 2, "again": True}


@pytest.mark.parametrize(("mode", "best"), [("min", 30), ("max", 10)])
def test_the_policy_keeps_the_latest_every_so_many_and_the_best(tmp_path, mode, best):
    losses = {10: 9.0, 20: 4.0, 30: 1.0, 40: float("nan"), 50: 2.0, 60: 5.0, 70: 3.0}
    policy = CheckpointPolicy(
        interval_steps=10,
        keep=2,
        keep_every_steps=40,
        best_metric="loss",
        best_metric_mode=mode,
    )
    config = get_config("tiny")
    config.checkpoint.update(dataclasses.asdict(policy))
    (tmp_path / "config.json").write_text(to_json(config))
    with Checkpoints(tmp_path, policy) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, small_state(step), {"step": step}, {"loss": loss})
    assert available_steps(tmp_path) == sorted({best, 40, 60, 70})
    assert resolve_step(tmp_path, "best") == best


def test_a_metric_that_is_not_logged_is_refused_with_the_nearest():
    policy = CheckpointPolicy(interval_steps=1, keep=1, best_metric="los/itc")
    with pytest.raises(InputError, match="did you mean 'loss/itc'"):
        policy.check_metrics({"loss/itc": 1.0, "loss": 2.0})


def test_by_minutes_a_checkpoint_is_due_once_they_have_passed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint_policy.time, "monotonic", lambda: now[0])
    clock = checkpoint_policy.SaveClock(
        CheckpointPolicy(interval_steps=0, interval_minutes=2.0, keep=1)
    )
    due = []
    for step in range(1, 101):
        now[0] += 7.0
        if clock.due(step):
            due.append(step)
            clock.restart()
    assert due == [20, 40, 60, 80, 100], "120 s are 18 steps; every tenth step is asked about"


def test_a_save_that_fails_in_the_background_ends_the_run_naming_the_path(copy, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with Checkpoints(copy, POLICY) as checkpoints:
        monkeypatch.setattr(integrity, "seal", full)
        checkpoints.save(4, small_state(4), {})
        with pytest.raises(StorageError, match="4 could not be saved: No space left"):
            checkpoints.wait()
        monkeypatch.undo()
    assert available_steps(copy) == [1, 2, 3]
    with Checkpoints(copy, POLICY) as checkpoints:
        assert checkpoints.last_good() == 3


def test_a_folder_that_has_gone_is_not_made_anew(copy):
    with Checkpoints(copy, POLICY) as checkpoints:
        copy.rename(copy.with_name("elsewhere"))
        with pytest.raises(StorageError, match="has gone: checkpoint 4 was not saved"):
            checkpoints.save(4, small_state(4), {})
    assert not copy.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def large_state() -> TrainState:
    noise = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)
    return small_state(2)._replace(parameters={"w": jnp.asarray(noise)})


def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(small_disk):
    with Checkpoints(small_disk, POLICY) as checkpoints:
        checkpoints.save(1, small_state(1), {"step": 1})
        checkpoints.wait()
        with pytest.raises(StorageError) as failure:  # noqa: PT012
            checkpoints.save(2, large_state(), {})
            checkpoints.wait()
    assert str(failure.value).startswith("checkpoint 2 could not be saved: No space left on device")
    assert str(small_disk) in str(failure.value)
    with Checkpoints(small_disk, POLICY) as checkpoints:
        assert checkpoints.last_good() == 1
        checkpoints.save(2, small_state(2), {"step": 2})
    assert available_steps(small_disk) == [1, 2]


def test_a_file_system_that_allows_no_writing_ends_the_run(small_disk):
    with Checkpoints(small_disk, POLICY) as checkpoints:
        checkpoints.save(1, small_state(1), {"step": 1})
        checkpoints.wait()
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(StorageError, match="2 could not be saved: Read-only file system"):  # noqa: PT012
            checkpoints.save(2, small_state(2), {})
            checkpoints.wait()
        assert checkpoints.steps() == [1]


@pytest.mark.parametrize(
    ("save", "evaluate", "total", "fine"),
    [
        (10, 6, 30, False),
        (10, 20, 30, True),
        (0, 20, 30, False),
        (10, 30, 30, True),
        (4, 0, 9, True),
    ],
)
def test_a_best_that_is_measured_where_nothing_is_saved_is_refused(save, evaluate, total, fine):
    policy = CheckpointPolicy(interval_steps=save, keep=1, best_metric="eval/retrieval/val/x")
    if fine:
        policy.check_evaluated(interval_steps=evaluate, total_steps=total)
        return
    with pytest.raises(InputError, match=rf"every {evaluate} steps .* make the first a multiple"):
        policy.check_evaluated(interval_steps=evaluate, total_steps=total)
    by_loss = dataclasses.replace(policy, best_metric="loss")
    by_loss.check_evaluated(interval_steps=evaluate, total_steps=total)
