"""What a run logs, as other programs read it."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from etils import epath

from oner_jax.errors import StorageError
from oner_jax.training.monitoring.goodput import Goodput
from oner_jax.training.monitoring.metrics import MetricsLog


def log(workdir: Path, first_step: int, steps: range, add: float, back_to: int | None = None):
    """Log `steps` after `first_step`; then go back, and log those after `back_to` again."""
    with MetricsLog(epath.Path(workdir), first_step=first_step, total_steps=9) as metrics:
        for step in steps:
            metrics.write(step, {"loss": step + add})
        if back_to is not None:
            metrics.go_back_to(back_to)
            for step in range(back_to + 1, steps.stop):
                metrics.write(step, {"loss": step + 2 * add})


def in_tensorboard(workdir: Path) -> list[tuple[int, float]]:
    """Steps and values as TensorBoard shows them."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(workdir))
    events.Reload()
    found = events.Tensors("loss")
    return [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in found]


def in_file(workdir: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def test_a_step_stands_once_after_a_kill_and_a_roll_back(tmp_path):
    log(tmp_path, 0, range(1, 7), 0.25)
    log(tmp_path, 4, range(5, 8), 0.5)
    expected = [(step, step + 0.25) for step in range(1, 5)] + [(s, s + 0.5) for s in range(5, 8)]
    assert in_file(tmp_path) == expected
    assert in_tensorboard(tmp_path) == expected
    log(tmp_path, 7, range(8, 10), 0.125, back_to=7)
    expected += [(8, 8.25), (9, 9.25)]
    assert in_file(tmp_path) == expected
    assert in_tensorboard(tmp_path) == expected


def test_every_line_is_json_also_where_numbers_are_not_finite(tmp_path):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    with MetricsLog(epath.Path(tmp_path), first_step=0, total_steps=3) as metrics:
        for step, value in enumerate((math.nan, math.inf, 2.5), start=1):
            metrics.write(step, {"loss": value, "other": -value})
    lines = [
        json.loads(line, parse_constant=refuse)
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [(line["loss"], line["other"]) for line in lines] == [(None, None)] * 2 + [(2.5, -2.5)]


@pytest.fixture
def full_disk(tmp_path):
    """A file system that takes nothing more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        (folder / "filler").write_bytes(b"x" * (1 << 20))


def test_a_disk_that_fills_between_checkpoints_is_one_line(full_disk):
    """Whether the metrics, TensorBoard's writer or goodput.json is the first to notice."""
    workdir = epath.Path(full_disk)
    message = "could not be written: .*; the same command continues from the last checkpoint"

    def write() -> None:
        with MetricsLog(workdir, first_step=0, total_steps=999) as metrics:
            fill(full_disk)
            for step in range(999):
                metrics.write(step, {"loss": float(step)})

    with pytest.raises(StorageError, match=message):
        write()
    with pytest.raises(StorageError, match=r"goodput.json " + message):
        Goodput(workdir).record(1)
