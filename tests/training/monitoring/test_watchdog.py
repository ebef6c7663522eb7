"""Runs that hang, in Python and in C, with and without Python's lock: each in its own process."""

import math
import subprocess
import sys

import pytest
from etils import epath

from oner_jax.errors import InputError
from oner_jax.training.monitoring.watchdog import Watchdog

HANG = """
import ctypes, sys, time
from pathlib import Path
import jax.numpy as jnp
from oner_jax.training.monitoring.watchdog import Watchdog

def hang():
    {hang}

with Watchdog(Path(sys.argv[1]), minutes={minutes}, first_step_minutes=10) as watchdog:
    for step in (1, 2):
        watchdog.dispatched(step, jnp.float32(step))
        time.sleep(1.2)
    hang()
"""


def run(hang: str, folder, minutes: float = 0.02) -> subprocess.CompletedProcess[str]:
    code = HANG.format(hang=hang, minutes=minutes)
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_hang_in_c_ends_with_the_cause_and_all_stacks(tmp_path):
    # Of C's own sleep no bytecode runs afterwards: no signal handler, no exception.
    result = run("ctypes.CDLL(None).sleep(100)", tmp_path)
    assert result.returncode == 1
    (stacks,) = tmp_path.glob("stacks-*-0.txt")
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "no step was finished for 0.0 minutes after step 2" in line
    assert "the main thread waits in hang (" in line
    assert line.endswith(str(stacks))
    assert "in hang" in stacks.read_text()
    assert "thread MainThread" in stacks.read_text()
    assert "in hang" in result.stderr, "stacks are in the log as well"


def test_a_hang_that_keeps_pythons_lock_ends_too(tmp_path):
    result = run("ctypes.PyDLL(None).sleep(100)", tmp_path)
    assert result.returncode == 1
    assert "Timeout (0:00:0" in result.stderr
    assert "in hang" in result.stderr


def test_a_run_that_goes_on_is_left_alone(tmp_path):
    result = run("pass", tmp_path, minutes=0.05)
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("minutes", "first_step_minutes"), [(5.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, 1e30)]
)
def test_limits_that_cannot_be_are_refused(tmp_path, minutes, first_step_minutes):
    with pytest.raises(InputError, match="first_step_minutes"):
        Watchdog(epath.Path(tmp_path), minutes=minutes, first_step_minutes=first_step_minutes)
