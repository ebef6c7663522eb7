"""Ends a run that hangs: on every host the stacks of all threads, and one line with the cause."""

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from etils import epath

from oner_jax.command_line.program import EXIT_FAILED
from oner_jax.errors import InputError
from oner_jax.parallel import distributed

# Looks that are taken in the time that a step may last.
_LOOKS = 50
# Storage may be what hangs.
_WRITING_SECONDS = 10.0
_STDERR = 2
_YEAR_MINUTES = 366 * 24 * 60.0  # timers do not take any number
_PACKAGE = str(Path(__file__).parents[1])


class Watchdog:
    """Ends the program when no step is finished for `minutes`; 0 never does.

    The first step, which restores and compiles, may take `first_step_minutes`. Use as a context
    manager. The stacks go to standard error and to `folder/stacks-HOST-PROCESS.txt`. The watch is a
    thread, so that the main thread may hang in a library's own code; where that code also keeps
    Python's lock, so that no thread of Python runs, a timer without Python ends the process, with
    stacks on standard error alone.
    """

    def __init__(self, folder: epath.Path, *, minutes: float, first_step_minutes: float):
        if not 0 <= minutes <= first_step_minutes <= _YEAR_MINUTES:
            raise InputError(
                f"watchdog.minutes={minutes} and watchdog.first_step_minutes="
                f"{first_step_minutes}: the first is at least 0, the second at least the first and "
                "at most a year"
            )
        self._limit_seconds = 60 * first_step_minutes if minutes else float("inf")
        self._later_limit_seconds = 60 * minutes if minutes else float("inf")
        self._file = folder / f"stacks-{socket.gethostname()}-{jax.process_index()}.txt"
        self._main_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._finished, self._finished_at = 0, time.monotonic()
        # A step that was dispatched and what it makes; whether that is there tells that it is done.
        self._watched: tuple[int, Any] | None = None
        self._newest: tuple[int, Any] | None = None

    def __enter__(self) -> "Watchdog":
        distributed.before_exit(self._write_stacks)
        if self._limit_seconds < float("inf"):
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        distributed.before_exit(None)

    def dispatched(self, step: int, result: jax.Array) -> None:
        """`step` is under way; it is finished when its `result` is there."""
        self._newest = (step, result)
        if self._watched is None:
            self._watched = self._newest

    def alive(self) -> None:
        """Something other than a step goes on, such as an evaluation."""
        self._finished_at = time.monotonic()

    def _watch(self) -> None:
        limit = self._later_limit_seconds
        while not self._stopped.wait(min(1.0, limit / _LOOKS)):
            self._look()
            waited = time.monotonic() - self._finished_at
            if waited > self._limit_seconds:
                self._end(waited)
            # Starts anew at every look, so that it comes only when there are no more looks.
            faulthandler.dump_traceback_later(2 * self._limit_seconds, exit=True, file=_STDERR)

    def _look(self) -> None:
        if self._watched is None:
            return
        step, result = self._watched
        if result.is_ready():
            self._finished, self._finished_at = step, time.monotonic()
            self._limit_seconds = self._later_limit_seconds
            self._watched = self._newest if self._newest is not self._watched else None

    def _end(self, waited: float) -> None:
        after = f"after step {self._finished}" if self._finished else "and none before"
        cause = (
            f"no step was finished for {waited / 60:.1f} minutes {after}; the main thread waits in "
            f"{_where(sys._current_frames()[self._main_thread])}; all stacks: {self._file}"
        )
        print(f"error: {cause}", file=sys.stderr, flush=True)
        self._write_stacks()
        distributed.end_all(cause, EXIT_FAILED, stacks=True)

    def _write_stacks(self) -> None:
        """What every thread does, to standard error and, if that is possible, to the file."""
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)
        writer = threading.Thread(target=self._write_file, daemon=True)
        writer.start()
        writer.join(_WRITING_SECONDS)

    def _write_file(self) -> None:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        stacks = [
            f"thread {names.get(number, number)}\n{''.join(traceback.format_stack(frame))}"
            for number, frame in sys._current_frames().items()
            if number != threading.get_ident()
        ]
        with contextlib.suppress(Exception):  # whatever the storage raises
            self._file.write_text("\n".join(stacks))


def _where(frame: FrameType | None) -> str:
    """The innermost call, and the innermost line of this package that led there."""
    summary = traceback.extract_stack(frame)
    inner = summary[-1]
    text = f"{inner.name} ({os.path.basename(inner.filename)}:{inner.lineno})"
    own = next((line for line in reversed(summary) if line.filename.startswith(_PACKAGE)), inner)
    if own is not inner:
        path = os.path.relpath(own.filename, os.path.dirname(_PACKAGE))
        text += f", called by {own.name} ({path}:{own.lineno}: {own.line})"
    return text
