"""Goodput: which share of a run's wall time were steps that count, and what took the rest.

Every second since the run was first started is in exactly one category:

step            the loop itself: dispatching steps, waiting for the device
input           waiting for the next batch
compile         the first step of a process, which compiles the program
checkpoint      blocked by saving
evaluation      evaluating between steps
initialisation  from a process's start to its first step: data, devices, restoring
replayed        was `step`, and is lost: steps after the checkpoint that the run went back to
down            no process ran, as far as the last record before tells

The record is `goodput.json` in the workdir, so that it goes on over restarts.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from oner_jax.errors import Preempted
from oner_jax.files import write_whole
from oner_jax.training.storage import writing

FILE = "goodput.json"
CATEGORIES = (
    *("step", "input", "compile", "checkpoint"),
    *("evaluation", "initialisation", "replayed", "down"),
)

# Of how many steps it is remembered how long it took to come there. In between is interpolated.
_MARKS = 100


class Goodput:
    """The time of this process by category, and of those before it in `workdir`.

    Without a workdir (the processes that write no files) nothing is read, recorded or said. A
    process starts in `initialisation`, at `began` (of `time.monotonic`; default: now). Use as a
    context manager around the run: leaving it says where the time went.
    """

    def __init__(self, workdir: epath.Path | None = None, *, began: float | None = None):
        self._path = None if workdir is None else workdir / FILE
        self.seconds = dict.fromkeys(CATEGORIES, 0.0)
        self.starts = 1
        self._marks: dict[int, float] = {0: 0.0}
        self._category = "initialisation"
        self._since = time.monotonic() if began is None else began
        if self._path is not None and self._path.exists():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged: begin anew
                self._read(json.loads(self._path.read_text()))

    def __enter__(self) -> "Goodput":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._path is not None and kind in (None, Preempted):
            self._write()
            print(self.describe(), flush=True)

    def _read(self, record: dict[str, Any]) -> None:
        seconds, starts, since = record["seconds"], record["starts"], record["time"]
        marks = {int(step): float(spent) for step, spent in record["step_seconds_at"]}
        initialising = time.monotonic() - self._since
        self.seconds |= {name: float(seconds[name]) for name in CATEGORIES}
        self.seconds["down"] += max(0.0, time.time() - since - initialising)
        self.starts, self._marks = starts + 1, marks

    def enter(self, category: str) -> None:
        """From now on time is of this category."""
        now = time.monotonic()
        self.seconds[self._category] += now - self._since
        self._category, self._since = category, now

    @contextlib.contextmanager
    def spending(self, category: str) -> Iterator[None]:
        """Time of this category, within whatever there is before and after."""
        before = self._category
        self.enter(category)
        try:
            yield
        finally:
            self.enter(before)

    def so_far(self) -> dict[str, float]:
        """Seconds by category up to now."""
        self.enter(self._category)
        return dict(self.seconds)

    def go_back_to(self, step: int) -> None:
        """The run goes on from `step`; what was done beyond it is lost."""
        self.enter(self._category)
        steps = sorted(self._marks)
        came_at = float(np.interp(step, steps, [self._marks[at] for at in steps]))
        self.seconds["replayed"] += self.seconds["step"] - came_at
        self.seconds["step"] = came_at
        self._marks = {at: spent for at, spent in self._marks.items() if at < step}
        self._marks[step] = came_at

    def mark(self, step: int) -> None:
        """Remember when `step` was done, should the run go back to it."""
        self._marks[step] = self.so_far()["step"]
        for at in sorted(self._marks)[:-_MARKS]:
            del self._marks[at]

    def record(self, step: int) -> dict[str, float]:
        """Record that `step` is done, and return the share of each category, as `goodput/NAME`."""
        self.mark(step)
        if self._path is not None:
            self._write()
        seconds = self.so_far()
        total = sum(seconds.values())
        return {f"goodput/{name}": spent / total for name, spent in seconds.items()}

    def _write(self) -> None:
        assert self._path is not None
        content = {
            "time": time.time(),
            "starts": self.starts,
            "seconds": self.so_far(),
            "step_seconds_at": sorted(self._marks.items()),
        }
        with writing(self._path):
            write_whole(self._path, json.dumps(content, indent=2) + "\n")

    def describe(self) -> str:
        """One line: the shares that are not zero, the largest first."""
        seconds = self.so_far()
        total = sum(seconds.values())
        ordered = sorted(seconds, key=lambda name: -seconds[name])
        shares = [f"{name} {seconds[name] / total:.1%}" for name in ordered if seconds[name] > 0]
        starts = f"{self.starts} start" + "s" * (self.starts > 1)
        return f"goodput     {', '.join(shares)} of {total:,.0f} s over {starts}"
