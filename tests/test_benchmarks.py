"""The programs of docs/benchmarks run, at the smallest size of each."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import write_run

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
# The arguments after the program's name, {run} being a finished run, and what it prints.
PROGRAMS = {
    "embed_throughput": (
        ["--model={run}", "--pictures=8", "--side=48", "--repeats=1"],
        r"embed / encoder \d+\.\d\d\n",
    ),
    "localisation": (["--model={run}", "--datasets=embedded:val[1%]", "--grids=4"], r"windows"),
    "exact_search": (["--rows=2048", "--width=4", "--queries=8"], r"of the products' rate: \d"),
    "through_the_predictor": (["{run}"], r"text, predicted \d+\.\d"),
    "two_towers_on_cpu": (["--rounds=1", "--steps=1"], r'"oner_jax_speed_over_it": 1\.0'),
}


def test_every_program_is_run():
    assert PROGRAMS.keys() == {path.stem for path in FOLDER.glob("*.py")}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_at_its_smallest_size(name, tmp_path):
    arguments, printed = PROGRAMS[name]
    run = write_run(tmp_path / "run") if any("{run}" in text for text in arguments) else ""
    result = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *(text.format(run=run) for text in arguments)],
        cwd=tmp_path,  # not the repository: a program must find it by its own place
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(printed, result.stdout), result.stdout
