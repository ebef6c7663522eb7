"""Being asked to stop: SIGTERM, Ctrl-C, a terminal that has gone, and JAX's preemption service."""

import os
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

_INTERRUPTED = 128 + signal.SIGINT


class StopRequest:
    """Whether the run was asked to stop: by SIGTERM, SIGHUP or Ctrl-C to any of its processes.

    SIGTERM is how SLURM, Kubernetes, and preemptible machines or those with maintenance ahead
    announce that time is nearly up; SIGHUP comes when a connection is lost, and is left alone where
    it is ignored (`nohup`). A second Ctrl-C ends the process at once. Use as a context
    manager, in the main thread, around everything from which stopping is to be orderly.
    """

    def __init__(self) -> None:
        self._received = threading.Event()
        self._asked = 0

    def __enter__(self) -> "StopRequest":
        self._alone = not jax.distributed.is_initialized()
        # With several processes JAX listens to SIGTERM, and agrees on a step with the others.
        self._signals = [signal.SIGINT, *([signal.SIGTERM] if self._alone else [])]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._signals.append(signal.SIGHUP)
        # Python runs its handlers between bytecodes, which compiling or waiting for a device holds
        # up for minutes; what is written to this pipe is read at once.
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._pipe_before = signal.set_wakeup_fd(self._pipe[1])
        self._before = {number: signal.signal(number, _noop) for number in self._signals}
        self._thread = threading.Thread(target=self._listen, name="stop request", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._pipe_before)
        os.close(self._pipe[1])
        self._thread.join()
        os.close(self._pipe[0])

    def here(self) -> bool:
        """Whether to stop now: on all processes the same.

        All have to ask as often as each other: before the first step and after every step.
        """
        # JAX agrees on the largest of these numbers; a step's own number would be wrong for a
        # request that comes before the first step of a run that is continued.
        self._asked += 1
        return self._received.is_set() or multihost_utils.reached_preemption_sync_point(self._asked)

    def _listen(self) -> None:
        interrupts = 0
        while numbers := os.read(self._pipe[0], 16):
            interrupts += numbers.count(signal.SIGINT)
            if interrupts > 1:
                os._exit(_INTERRUPTED)
            if interrupts:
                print(
                    "stopping after this step, with a checkpoint; Ctrl-C again: at once",
                    file=sys.stderr,
                    flush=True,
                )
            asked = interrupts or signal.SIGHUP in numbers
            if asked and not self._alone:
                signal.raise_signal(signal.SIGTERM)
            elif asked or signal.SIGTERM in numbers:
                self._received.set()


def _noop(*_: object) -> None:
    """In the place of Python's own handler, so that the number is written to the pipe alone."""
