"""What work took: by the clock, and of all processors."""

import time
from typing import NamedTuple


class Spent(NamedTuple):
    """Seconds for each pair: by the clock, and summed over all processors."""

    seconds: float
    cpu_seconds: float


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        """So far, by the clock."""
        return time.perf_counter() - self._began

    def cpu_seconds(self) -> float:
        """So far, of this process on all processors."""
        return time.process_time() - self._cpu_began

    def spent(self, pairs: int) -> Spent:
        """What each of so many pairs took."""
        return Spent(self.seconds() / pairs, self.cpu_seconds() / pairs)
