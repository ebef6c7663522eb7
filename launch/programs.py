"""Runs programs one after the other in forks of a process that has imported what they all need.

Importing TensorFlow, JAX and the rest takes longer than a short run of a sweep. This process
imports them once and starts nothing (a fork of a process with threads or devices would be unsound);
every program then is a fork of it, with its own devices, memory and end. `Programs` is the side of
whoever wants them run, `serve` that of the process.
"""

import fcntl
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

# Libraries alone: the programs themselves define flags, of which a process can hold one set.
LIBRARIES = (
    "oner_jax.data.pipeline",
    "oner_jax.evals.engine.suite",
    "oner_jax.training.checkpointing.checkpoints",
    "oner_jax.training.monitoring.metrics",
    "oner_jax.training.recipe",
)


# For the environment of a program that computes on CPUs; glibc reads it when the program starts. A
# step's temporaries, hundreds of MiB that are returned after it, then come in huge pages.
# BENCHMARKS.md has what that saves.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class Programs:
    """A process that runs programs on `cores` (none: wherever it likes).

    It starts with the first program, imports `libraries` and lives until `close`.
    """

    def __init__(self, cores: Iterable[int] = (), libraries: Sequence[str] = LIBRARIES):
        self._arguments = (",".join(map(str, sorted(cores))), ",".join(libraries))
        self._server: subprocess.Popen[str] | None = None
        self._running: int | None = None

    def run(self, module: str, arguments: Sequence[str], *, log: Path, lock: Path) -> int:
        """`python -m module *arguments`, what it prints appended to `log`; returns its exit code.

        It holds `lock` while it runs, and first waits for whoever holds it: a program goes on when
        this process is killed.
        """
        if self._server is None:
            self._server = self._start(log)
        assert self._server.stdin is not None
        order = {"argv": [module, *arguments], "log": str(log), "lock": str(lock)}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        self._running = self._answer(self._server)
        code = self._answer(self._server)
        self._running = None
        return code

    def _start(self, log: Path) -> "subprocess.Popen[str]":
        with log.open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "launch.programs", *self._arguments],
                env=HUGE_PAGES | os.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def _answer(self, server: "subprocess.Popen[str]") -> int:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise ChildProcessError(f"the process that runs programs ended: {server.wait()}")
        return int(line)

    @property
    def running(self) -> int | None:
        """The process id of the running program, if there is one."""
        return self._running

    def stop(self) -> None:
        """Ask the running program to end (SIGTERM)."""
        if self._running is not None:
            os.kill(self._running, signal.SIGTERM)

    def close(self) -> None:
        """End the process, once its program has ended."""
        if self._server is not None:
            self._server.communicate()
            self._server = None


def serve(cores: Sequence[int], libraries: Sequence[str]) -> None:
    """Import, then for every order on standard input print a process id and its exit code."""
    if cores:
        # XLA and TensorFlow make as many threads as there are cores that they may use.
        os.sched_setaffinity(0, cores)
    for library in libraries:
        importlib.import_module(library)
    for line in sys.stdin:
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            sys.exit(_run(**order))
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _run(argv: list[str], log: str, lock: str) -> int | str | None:
    """In the fork: become the program. Returns what it gave to `sys.exit`."""
    # Left open, so that it is held until this process ends.
    fcntl.flock(os.open(lock, os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
    for source, flags, targets in (
        (os.devnull, os.O_RDONLY, (0,)),
        (log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, (1, 2)),
    ):
        opened = os.open(source, flags, 0o666)
        for target in targets:
            os.dup2(opened, target)
    sys.argv[1:] = argv[1:]
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _cores, _libraries = (argument.split(",") if argument else [] for argument in sys.argv[1:])
    serve([int(core) for core in _cores], _libraries)
