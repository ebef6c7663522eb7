"""What a launcher asks before it spends anything."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.preflight import checks_of, recipe_arguments

ROOT = Path(__file__).parents[2]
TRAIN = ["python", "-m", "oner_jax.train", "--workdir=runs/x"]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (["--config=a.py:b"], ["--config=a.py:b"]),
        (["--config", "a.py:b", "--seed=1"], ["--config=a.py:b"]),
        (
            ["-config=a.py", "--config.data.train=x = y"],
            ["-config=a.py", "--config.data.train=x = y"],
        ),
        (["--config.data.flip", "--noconfig.x.y"], ["--config.data.flip", "--noconfig.x.y"]),
        (["--config.k", "two words", "--other", "--configuration=x"], ["--config.k=two words"]),
    ],
)
def test_the_recipe_and_its_overrides_are_found(written, found):
    assert recipe_arguments([*TRAIN, *written]) == found


def test_what_does_not_train_is_not_checked():
    command = ["python", "-m", "oner_jax.evaluate", "--workdir=runs/x"]
    assert checks_of(command, "v5e:4x4", 1, ["plan", "data"]) == []


def preflight(*options: str, command: list[str]):
    return subprocess.run(
        [sys.executable, "-m", "launch.preflight", *options, "--", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_sound_data_pass_and_missing_data_do_not():
    tiny = [*TRAIN, "--config=configs/oner.py:tiny"]
    sound = preflight("--checks=data", command=tiny)
    assert sound.returncode == 0, sound.stderr
    assert "embedded:train: 14,024 records" in sound.stderr
    missing = preflight("--checks=data", command=[*tiny, "--config.data.train=/nowhere"])
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[-1].endswith("--skip_checks=data starts all the same")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--checks=plan"], "--topology is missing"), (["--checks=plans"], "checks are plan, data")],
)
def test_bad_options_are_named(options, complaint):
    result = preflight(*options, command=TRAIN)
    assert result.returncode == 2
    assert complaint in result.stderr
