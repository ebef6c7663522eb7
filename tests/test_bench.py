"""The benchmark as a user runs it, on a machine without the data and checkpoint libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Everything of requirements.txt that the benchmark does without.
ABSENT = [
    *("array_record", "clu", "grain", "matplotlib", "orbax", "PIL", "sentencepiece", "sklearn"),
    *("tensorboard", "tensorflow", "tqdm"),
]
RUN = f"""
import runpy, sys
sys.modules |= dict.fromkeys({ABSENT})
runpy.run_module("oner_jax.bench", run_name="__main__")
"""


def bench(*arguments: str):
    # One device: a child with the tests' eight would only compile for longer.
    environment = os.environ | {"XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_figures_of_a_step_as_json(tmp_path: Path):
    result = bench(
        *("--config=configs/oner.py:tiny", "--config.batch_size=4", "--config.model.depth=1"),
        *("--steps=2", "--repeats=3", "--json", f"--profile={tmp_path}"),
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["device"] == "cpu"
    assert figures["chips"] == 1
    assert figures["mfu"] is None
    assert 0 < figures["step_seconds_min"] <= figures["step_seconds"] <= figures["step_seconds_max"]
    assert figures["pairs_per_sec"] == pytest.approx(4 / figures["step_seconds"])
    assert figures["loss"] > 0
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_bad_input_is_one_line():
    result = bench("--steps=2")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: --config is missing: name a recipe, for example configs/oner.py:b16"
    ]
