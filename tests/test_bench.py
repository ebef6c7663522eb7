"""The benchmark as a user runs it; of the step on a machine without the libraries for data."""

import importlib.util
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


def bench(*arguments: str, program=("-c", RUN)):
    # One device: a child with the tests' eight would only compile for longer.
    environment = os.environ | {"XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, *program, *arguments],
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


MODULE = ("-m", "oner_jax.bench")


def test_figures_of_the_input():
    result = bench(
        *("--input", "--config=configs/oner.py:tiny", "--steps=2", "--repeats=2", "--json"),
        program=MODULE,
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert (figures["image_size"], figures["batch_size"]) == (32, 32)
    assert 80_000 < figures["file_bytes"] < 120_000
    assert 50 * 2**20 < figures["resident_bytes"] < 4 * 2**30
    contestants = ["oner_jax", "bare", "decode"]
    contestants += ["webdataset"] if importlib.util.find_spec("webdataset") else []
    for name in contestants:
        own = figures[name]
        assert 0 < own["pairs_per_sec_min"] <= own["pairs_per_sec"] <= own["pairs_per_sec_max"]
        # Processors cannot have worked for longer than there are processors.
        most = figures["cores"] / own["pairs_per_sec_min"]
        assert 0 < own["cpu_seconds_per_pair"] < 1.2 * most
    assert figures["oner_jax"]["times_as_fast"] == 1


@pytest.mark.slow
def test_a_soak_shows_memory_over_time():
    arguments = ("--input", "--config=configs/oner.py:tiny", "--seconds=1", "--json")
    result = bench(*arguments, program=MODULE)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[-1]["seconds"] >= 1
    assert all(line["pairs_per_sec"] > 0 for line in lines)
    assert all(line["resident_bytes"] > 50 * 2**20 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--steps=2"],
            "--config is missing: name a recipe, for example configs/oner.py:b16",
        ),
        (["--seconds=5"], "--seconds is for the input: give --input as well"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    result = bench(*arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [f"error: {message}"]
