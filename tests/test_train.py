"""The training program as a user runs it: a process, its folder, its exit code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from oner_jax.training.checkpointing.checkpoints import available_steps, load_run
from tests.marks import slow

ROOT = Path(__file__).parents[1]
TINY = "configs/oner.py:tiny"


def environment(devices: int) -> dict[str, str]:
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def command(workdir: Path, *overrides: str, config: str = TINY) -> list[str]:
    return [
        sys.executable,
        *("-m", "oner_jax.train", f"--config={config}", f"--workdir={workdir}"),
        *overrides,
    ]


def run(workdir: Path, *overrides: str, config: str = TINY, devices: int = 1):
    return subprocess.run(
        command(workdir, *overrides, config=config),
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=300,
    )


TIMES = (
    "pairs_per_sec",
    "pairs_per_sec_per_chip",
    "data_wait_fraction",
    "checkpoint/blocked_seconds",
)


def metrics(workdir: Path, *, without=TIMES) -> list[dict]:
    """What was logged, but for times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            key: value
            for key, value in line.items()
            if key not in without and not key.startswith("goodput/")
        }
        for line in lines
    ]


@pytest.fixture(scope="module")
def finished_and_said(tmp_path_factory) -> tuple[Path, str]:
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    result = run(workdir)
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


@pytest.fixture(scope="module")
def finished(finished_and_said) -> Path:
    return finished_and_said[0]


def test_it_prints_a_summary_then_that_it_compiles_and_at_the_end_what_to_type(finished_and_said):
    workdir, said = finished_and_said
    lines = said.splitlines()
    heads = [line.split(" ")[0] for line in lines]
    summary = ["parameters", "devices", "data", "evaluation", "evaluation", "run"]
    assert heads[: len(summary)] == summary, "and no table of arrays"
    assert heads.index("compiling") + 1 == heads.index("step")
    assert lines[-1] == f"next        python -m oner_jax.evaluate --workdir={workdir}"


def test_a_run_leaves_what_it_was_and_what_it_did(finished):
    lines = metrics(finished)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    assert lines[-1]["examples_seen"] == 30 * 32
    assert lines[-1]["loss"] < lines[0]["loss"]
    terms = {"loss/itc", "loss/cmc", "loss/mim", "loss/mlm", "loss/mmm"}
    assert terms <= lines[-1].keys()
    config = json.loads((finished / "config.json").read_text())
    assert config["model"]["vocabulary_size"] == 4096, "resolved from the tokenizer"
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["command"].startswith("python -m oner_jax.train --config=configs/oner.py:tiny ")
    assert manifest["packages"]["jax"] == jax.__version__
    assert manifest["data"]["records"] == 14024
    assert any(finished.glob("events.out.tfevents.*")), "TensorBoard events"
    assert available_steps(finished) == [10, 20, 30]


def test_killed_and_continued_is_bit_identical_to_uninterrupted(finished, tmp_path):
    workdir = tmp_path / "killed"
    process = subprocess.Popen(
        command(workdir), cwd=ROOT, env=environment(1), stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not available_steps(workdir) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert available_steps(workdir), "no checkpoint was written in time"
    result = run(workdir)
    assert result.returncode == 0, result.stderr
    assert metrics(workdir) == metrics(finished)
    for weights in ("online", "momentum"):
        one, other = (load_run(folder, weights=weights) for folder in (finished, workdir))
        jax.tree.map(np.testing.assert_array_equal, one.parameters, other.parameters)


def test_a_run_asked_to_stop_saves_and_says_how_to_go_on(tmp_path):
    workdir = tmp_path / "stopped"
    process = subprocess.Popen(
        command(workdir, "--config.total_steps=100000", "--config.log_interval_steps=1"),
        cwd=ROOT,
        env=environment(1),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not available_steps(workdir) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=100)
    assert process.returncode == 75, complaint
    step = available_steps(workdir)[-1]
    assert complaint.strip().endswith(
        f"stopped as asked at step {step}; the same command continues from there"
    )
    assert metrics(workdir)[-1]["step"] == step


def test_a_finished_run_stays_as_it_is(finished):
    before = (finished / "metrics.jsonl").read_bytes()
    result = run(finished)
    assert result.returncode == 0, result.stderr
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_eight_devices_train_like_one(finished, tmp_path):
    result = run(tmp_path / "eight", devices=8)
    assert result.returncode == 0, result.stderr
    for one, eight in zip(metrics(finished), metrics(tmp_path / "eight"), strict=True):
        assert one.keys() == eight.keys()
        np.testing.assert_allclose(eight["loss"], one["loss"], rtol=1e-4)


def test_core_modules_import_no_tensorflow():
    code = (
        "import sys, oner_jax.models.embedding, oner_jax.objectives.objective, "
        "oner_jax.training.step, oner_jax.training.recipe, oner_jax.parallel.mesh, "
        "oner_jax.data.tokenizer, oner_jax.data.reading.order; "
        "sys.exit(any(m.split('.')[0] in ('tensorflow', 'tensorflow_datasets', 'clu') "
        "for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("config", "overrides", "named"),
    [
        ("configs/oner.py:tinny", (), "did you mean 'tiny'"),
        slow("configs/none.py", (), "configs/none.py"),
        slow(TINY, ("--config.model.widht=3",), "width"),
        slow(TINY, ("--config.batch_size=many",), "batch_size"),
        (TINY, ("--config.batch_size=33",), "multiple of 8"),
        slow(TINY, ("--config.data.train=nowhere",), "nowhere"),
        slow(TINY, ("--config.data.tokenizer=no.model",), "no.model"),
        slow(TINY, ("--config.total_epochs=1.0",), "total_epochs"),
        slow(TINY, ("--config.model.image_size=30",), "patch_size"),
        (TINY, ("stray",), "stray"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, config, overrides, named):
    workdir = tmp_path / "run"
    result = run(workdir, *overrides, config=config, devices=8)
    assert result.returncode == 2, result.stderr
    complaint = result.stderr.strip().splitlines()[-1]
    assert complaint.startswith("error: ")
    assert named in complaint
    assert "Traceback" not in result.stderr
    assert not workdir.exists(), "nothing is left half-written"


def test_a_workdir_of_another_config_is_refused_naming_the_keys(finished):
    result = run(finished, "--config.seed=7", "--config.objective.temperature=0.3")
    assert result.returncode == 2
    assert "seed: 0 -> 7" in result.stderr
    assert "objective.temperature: 0.2 -> 0.3" in result.stderr


def test_a_workdir_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    result = run(tmp_path)
    assert result.returncode == 2
    assert "holds no run" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.slow
def test_a_finished_run_whose_data_moved_goes_on_with_more_steps(tmp_path):
    shutil.copytree(ROOT / "oner_jax/data/embedded/val", tmp_path / "before" / "train")
    shutil.copy(ROOT / "oner_jax/data/embedded/tokenizer.model", tmp_path / "before")
    workdir = tmp_path / "run"

    def named(folder: Path) -> tuple[str, str]:
        return (
            f"--config.data.train={folder}/train",
            f"--config.data.tokenizer={folder}/tokenizer.model",
        )

    first = run(workdir, *named(tmp_path / "before"))
    assert first.returncode == 0, first.stderr
    (tmp_path / "before").rename(tmp_path / "after")
    moved = run(workdir, *named(tmp_path / "after"), "--config.total_steps=40")
    assert moved.returncode == 0, moved.stderr
    assert "data.train has moved: " in moved.stdout
    assert "total_steps  30 -> 40" in moved.stdout
    assert available_steps(workdir)[-1] == 40
    assert [line["step"] for line in metrics(workdir)] == list(range(5, 45, 5))
    kept = json.loads((workdir / "config-until-step-30.json").read_text())
    assert kept["total_steps"] == 30
    assert json.loads((workdir / "config.json").read_text())["total_steps"] == 40
