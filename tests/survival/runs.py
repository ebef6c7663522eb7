"""Tiny training runs that are interrupted, in forks of one process that has imported everything."""

import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from launch.programs import Programs
from oner_jax.training.checkpointing.checkpoints import DIRECTORY, available_steps, load_run

TINY = (
    *("--config=configs/oner.py:tiny", "--config.batch_size=16", "--config.log_interval_steps=1"),
    *("--config.checkpoint.interval_steps=10", "--config.checkpoint.keep=2"),
)
# Of metrics, what tells time.
TIMES = ("pairs_per_sec", "data_wait_fraction", "goodput/", "checkpoint/blocked")


@dataclasses.dataclass
class Process:
    """A run under way; `ended` gives its exit code."""

    programs: Programs
    log: Path
    ended: "Future[int]"

    @property
    def pid(self) -> int:
        while self.programs.running is None:
            time.sleep(0.005)
        return self.programs.running

    def handles_sigterm(self) -> bool:
        """Whether the program has begun: before, a signal ends what has done nothing yet."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        caught = re.search(r"SigCgt:\s*(\w+)", status)
        return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


class Runs:
    """Starts training programs, one at a time, on one device each."""

    def __init__(self, folder: Path):
        self._folder = folder
        os.environ["XLA_FLAGS"] = re.sub(
            r"(device_count)=\d+", r"\1=1", os.environ.get("XLA_FLAGS", "")
        )
        self._programs = Programs()
        self._pool = ThreadPoolExecutor(1)
        self._started = 0

    def start(self, workdir: Path, *overrides: str) -> Process:
        self._started += 1
        log = self._folder / f"{self._started}.log"
        arguments = [*TINY, f"--workdir={workdir}", *overrides]
        ended = self._pool.submit(
            self._programs.run, "oner_jax.train", arguments, log=log, lock=self._folder / "lock"
        )
        return Process(self._programs, log, ended)

    def finish(self, workdir: Path, *overrides: str) -> float:
        """Run to the end; the seconds it took."""
        began = time.monotonic()
        process = self.start(workdir, *overrides)
        code = process.ended.result()
        assert code == 0, process.log.read_text()[-3000:]
        return time.monotonic() - began

    def close(self) -> None:
        self._programs.close()
        self._pool.shutdown()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Runs]:
    """`Runs` with logs in `folder`; the environment is as before afterwards."""
    flags = os.environ.get("XLA_FLAGS")
    runs = Runs(folder)
    try:
        yield runs
    finally:
        runs.close()
        if flags is not None:
            os.environ["XLA_FLAGS"] = flags


@dataclasses.dataclass
class Interruption:
    """A signal and what it met: steps that were logged, whether a save was under way."""

    exit_code: int
    logged_step: int
    saving: bool
    steps: list[int]


def interrupt(
    runs: Runs,
    workdir: Path,
    number: signal.Signals,
    wait: float,
    *overrides: str,
    in_save: bool = False,
) -> Interruption | None:
    """Start the run and send it the signal `wait` seconds after it has begun; `in_save`: in the
    midst of the next save that follows.

    None where it came to its end first.
    """
    since = time.time()
    process = runs.start(workdir, *overrides)
    while not process.ended.done() and not process.handles_sigterm():
        time.sleep(0.005)
    deadline = time.monotonic() + wait
    while not process.ended.done() and (
        time.monotonic() < deadline or (in_save and not is_saving(workdir, since))
    ):
        time.sleep(0.001)
    if process.ended.done():
        return None
    saving = is_saving(workdir, since)
    os.kill(process.pid, number)
    code = process.ended.result()
    return Interruption(code, last_logged(workdir), saving, available_steps(workdir))


def is_saving(workdir: Path, since: float) -> bool:
    """Whether there is a checkpoint under its temporary name, begun after `since`: a run that was
    killed may have left others."""
    for path in (workdir / DIRECTORY).glob("*tmp*"):
        with contextlib.suppress(FileNotFoundError):  # it has its name now
            if path.stat().st_ctime > since:
                return True
    return False


def last_logged(workdir: Path) -> int:
    """The last step in the metrics, 0 before the first."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    return json.loads(whole[-1])["step"] if whole else 0


def waits(seconds: float, count: int, seed: int) -> list[float]:
    """Random times in which a run of so many seconds, of which most is its start, is under way."""
    random_numbers = random.Random(seed)
    return [random_numbers.uniform(0, seconds) for _ in range(count)]


def metrics(workdir: Path) -> list[dict]:
    """All that was logged, but for times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if not key.startswith(TIMES)} for line in lines
    ]


def assert_identical(workdir: Path, other: Path) -> None:
    """Both runs logged the same and end in the same parameters and twin, to the bit."""
    assert metrics(workdir) == metrics(other)
    for weights in ("online", "momentum"):
        one, two = (load_run(folder, weights=weights) for folder in (workdir, other))
        assert one.step == two.step
        jax.tree.map(np.testing.assert_array_equal, one.parameters, two.parameters)
