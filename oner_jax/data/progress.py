"""Progress of long work on standard error: a line that updates on a terminal, else plain lines."""

import sys
import time

_TERMINAL_INTERVAL_SECONDS = 0.2
_PLAIN_INTERVAL_SECONDS = 15.0


class Progress:
    """Counts items done out of `total` and reports them with rate and time left.

    `done_before` of them were done by an earlier run, and say nothing of this one's rate.
    """

    def __init__(self, title: str, total: int, done_before: int = 0):
        self._title = title
        self._total = total
        self._done_before = self._done = done_before
        self._terminal = sys.stderr.isatty()
        interval = _TERMINAL_INTERVAL_SECONDS if self._terminal else _PLAIN_INTERVAL_SECONDS
        self._interval_seconds = interval
        self._start = self._reported = time.monotonic()

    def advance(self, items: int = 1) -> None:
        """So many more items are done."""
        self._done += items
        now = time.monotonic()
        if now - self._reported >= self._interval_seconds:
            self._reported = now
            self._report(now)

    def finish(self) -> None:
        """Reports the final count and ends the line."""
        self._report(time.monotonic())
        if self._terminal:
            print(file=sys.stderr)

    def _report(self, now: float) -> None:
        seconds = max(now - self._start, 1e-9)
        rate = (self._done - self._done_before) / seconds
        text = f"{self._title}: {self._done:,} of {self._total:,}, {rate:,.0f}/s"
        if self._done < self._total and rate > 0:
            minutes, left = divmod(round((self._total - self._done) / rate), 60)
            text += f", {minutes}:{left:02d} left"
        # \x1b[K clears what a longer earlier text left behind.
        end = "\r" if self._terminal else "\n"
        print(text + ("\x1b[K" if self._terminal else ""), end=end, file=sys.stderr, flush=True)
