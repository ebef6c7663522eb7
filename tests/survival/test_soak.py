"""Half an hour of training, saving and logging at tiny scale: does anything grow?"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.survival.runs import last_logged

SECONDS = 1800
# What grows until everything has been used once is no leak.
WARM_UP_SECONDS = 600
INTERVAL_SECONDS = 10


def sample(process: int) -> tuple[float, int, int]:
    """MB resident, threads, open files."""
    status = Path(f"/proc/{process}/status").read_text()
    values = {
        name: int(re.findall(rf"{name}:\s*(\d+)", status)[0]) for name in ("VmRSS", "Threads")
    }
    return values["VmRSS"] / 1000, values["Threads"], len(os.listdir(f"/proc/{process}/fd"))


@pytest.mark.soak
def test_memory_threads_and_files_do_not_grow(tmp_path):
    workdir = tmp_path / "run"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "oner_jax.train", "--config=configs/oner.py:tiny"),
                *(f"--workdir={workdir}", "--config.total_steps=10000000"),
                *("--config.checkpoint.interval_steps=200", "--config.log_interval_steps=20"),
            ],
            stdout=log,
            stderr=log,
            env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        )
        began = time.monotonic()
        samples = []
        while time.monotonic() - began < SECONDS:
            time.sleep(INTERVAL_SECONDS)
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            samples.append((time.monotonic() - began, *sample(process.pid)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=600) == 75
    seconds, resident, threads, files = np.array(samples).T
    late = seconds > WARM_UP_SECONDS
    slope = np.polyfit(seconds[late] / 60, resident[late], 1)[0]
    first, last = slice(20), slice(-20, None)
    many = {
        at: [int(values[late][part].max()) for values in (threads, files)]
        for at, part in (("early", first), ("late", last))
    }
    print(
        f"soak: {SECONDS / 60:.0f} minutes, {last_logged(workdir)} steps; {resident[-1]:.0f} MB "
        f"resident, slope {slope:+.3f} MB/min after {WARM_UP_SECONDS / 60:.0f} minutes; "
        f"most threads and files {many['early']} early, {many['late']} late"
    )
    assert slope < 1
    # A save in the background has its own for a moment.
    for before, after in zip(many["early"], many["late"], strict=True):
        assert after <= before + 5
