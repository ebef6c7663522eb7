"""A run of a sweep, and runs on this machine."""

import dataclasses
import json
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.programs import Programs
from oner_jax.claims.sweep import Trial
from oner_jax.files import write_whole

LAST_LINES = 5  # of a failed program's log are shown


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One trial with one seed, and the programs that make it."""

    trial: Trial
    seed: int
    folder: Path
    commands: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        return f"{self.trial.name} seed {self.seed}"

    def beside(self, suffix: str) -> Path:
        """A file next to the run's folder, which belongs to the training program alone."""
        return self.folder.with_name(self.folder.name + suffix)

    def seconds(self) -> float | None:
        """How long the finished run took; None if it is not finished, or was of other commands."""
        try:
            stored = json.loads(self.beside(".json").read_text())
        except (OSError, ValueError):
            return None
        same = stored["commands"] == [list(command) for command in self.commands]
        return float(stored["seconds"]) if same else None


def note(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


class RunFailed(Exception):
    """A program of a run ended with an error; the message says which and shows its last lines."""


class Runner:
    """Runs on a few workers, each with its share of the cores. `stop` ends what is running."""

    def __init__(self, side_by_side: int, libraries: Sequence[str]):
        self._stopping = threading.Event()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._workers = [
            Programs(cores[worker::side_by_side] or cores, libraries)
            for worker in range(side_by_side)
        ]
        self._free: queue.SimpleQueue[Programs] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)

    def __call__(self, run: Run) -> float:
        """Train and evaluate; returns the seconds it took. Raises RunFailed."""
        started = time.monotonic()
        worker = self._free.get()
        try:
            run.folder.parent.mkdir(parents=True, exist_ok=True)
            for command in run.commands:
                self._execute(worker, run, command)
        finally:
            self._free.put(worker)
        seconds = time.monotonic() - started
        note(run.beside(".json"), {"commands": run.commands, "seconds": round(seconds, 1)})
        return seconds

    def _execute(self, worker: Programs, run: Run, command: Sequence[str]) -> None:
        if self._stopping.is_set():
            raise RunFailed("stopped")
        module, *arguments = command
        log = run.beside(".log")
        # The program holds the lock: after a kill of the sweep alone it goes on, and the next sweep
        # waits here for it instead of running the same twice.
        code = worker.run(module, arguments, log=log, lock=run.beside(".lock"))
        if code:
            lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            shown = "\n".join(f"    {line}" for line in lines)
            raise RunFailed(f"exit code {code} of python -m {' '.join(command)}\n{shown}")

    def stop(self) -> None:
        """End the running programs; they continue from their last checkpoints next time."""
        self._stopping.set()
        for worker in self._workers:
            worker.stop()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()
