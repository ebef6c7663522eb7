"""Overrides and datasets that make no sense end the training program in one line, or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "count",
    [pytest.param(40, marks=pytest.mark.slow), pytest.param(2000, marks=pytest.mark.soak)],
)
def test_only_exit_codes_0_and_2_and_no_traceback(count):
    result = subprocess.run(
        [sys.executable, "-m", "tests.survival.fuzz", str(count)],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
