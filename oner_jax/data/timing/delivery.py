"""What training's input delivers: its rate, timed, and the memory that this process holds."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from oner_jax.data.timing.stopwatch import Spent, Stopwatch

# More batches than the pipeline keeps ready, so that timing starts with none.
READY_BATCHES = 4


class Delivery:
    """A pipeline's batches, timed from a state in which none is ready."""

    def __init__(self, batches: Iterator[object], batch_size: int):
        self._batches = batches
        self._batch_size = batch_size

    def take(self, pairs: int) -> Spent:
        """Takes at least so many pairs, then rests."""
        count = -(-pairs // self._batch_size)
        spent = self._timed(lambda taken, _: taken == count)
        _wait_until_idle()
        return spent

    def take_for(self, seconds: float) -> Spent:
        """Takes pairs for at least so long."""
        return self._timed(lambda _, passed: passed >= seconds)

    def _timed(self, is_enough: Callable[[int, float], bool]) -> Spent:
        for _ in range(READY_BATCHES):
            next(self._batches)
        watch, taken = Stopwatch(), 0
        while not is_enough(taken, watch.seconds()):
            next(self._batches)
            taken += 1
        return watch.spent(taken * self._batch_size)


def _wait_until_idle() -> None:
    """Returns when this process has stopped working ahead, so that it slows nothing else."""
    used = -1.0
    while time.process_time() - used > 0.01:
        used = time.process_time()
        time.sleep(0.1)


def resident_bytes() -> int:
    """Memory that this process holds; where the system does not tell, the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    return pages * os.sysconf("SC_PAGE_SIZE")
