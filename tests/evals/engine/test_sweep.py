"""One command for three checkpoints and all tasks on embedded data, killed half-way."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oner_jax.evals.tasks.catalogue import TASKS

ROOT = Path(__file__).parents[3]
CHECKPOINTS = 3


def cells_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("eval/*/*/*/*.json"))


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_table(tmp_path):
    workdir = tmp_path / "run"
    train = ["-m", "oner_jax.train", "--config=configs/oner.py:tiny", f"--workdir={workdir}"]
    subprocess.run([sys.executable, *train], cwd=ROOT, check=True, capture_output=True)
    command = [sys.executable, "-m", "oner_jax.evaluate", f"--workdir={workdir}", "--steps=all"]
    command += ["--tasks=all", "--datasets=val", "--untrained=False"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, f"--out={whole}"], cwd=ROOT, check=True, capture_output=True)
    everything = CHECKPOINTS * len(TASKS)
    assert len(cells_of(whole)) == everything

    process = subprocess.Popen(
        [*command, f"--out={killed}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(cells_of(killed)) < everything // 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    finished = {cell: cell.stat().st_mtime_ns for cell in cells_of(killed)}
    assert len(finished) < everything
    subprocess.run([*command, f"--out={killed}"], cwd=ROOT, check=True, capture_output=True)
    assert len(cells_of(killed)) == everything
    assert {cell: cell.stat().st_mtime_ns for cell in finished} == finished  # none made twice
    for name in ("table.csv", "table.md"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    for cell in cells_of(killed):
        other = whole / cell.relative_to(killed)
        texts = [
            re.sub(r'"time": {[^}]*}|"command": "[^"]*", ', "", c.read_text())
            for c in (cell, other)
        ]
        assert texts[0] == texts[1], cell
    assert not list(killed.rglob("*.partial"))
