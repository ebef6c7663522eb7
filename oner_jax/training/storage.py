"""Files of a run, local or on object storage (gs://), and what is said when that fails."""

import os
import re
import time
from collections.abc import Sequence

from etils import epath

from oner_jax.errors import first_line
from oner_jax.files import is_remote, write_whole

# How tensorstore and TensorFlow name the kinds of failure that come from storage.
_STATUS = (
    "ABORTED|DATA_LOSS|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|NOT_FOUND|OUT_OF_RANGE|"
    "PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|UNAVAILABLE"
)
_REWRITE_SECONDS = 60.0


class Lines:
    """A text file that grows by lines, each there at once.

    Object storage cannot append: there the file is written anew, at most every minute and at the
    end. A killed run loses lines that its checkpoints would have it write again.
    """

    def __init__(self, path: epath.Path, lines: Sequence[str] = ()):
        """Begin with `lines` (default: none), in place of what is there."""
        self._path = path
        self._lines = list(lines)
        write_whole(path, "".join(f"{line}\n" for line in lines))
        self._written = time.monotonic()
        self._file = None if is_remote(path) else path.open("a")

    def append(self, line: str) -> None:
        """Add a line."""
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
            return
        self._lines.append(line)
        if time.monotonic() - self._written >= _REWRITE_SECONDS:
            self._rewrite()

    def close(self) -> None:
        """Write what is not written yet."""
        if self._file is not None:
            self._file.close()
        else:
            self._rewrite()

    def _rewrite(self) -> None:
        write_whole(self._path, "".join(f"{line}\n" for line in self._lines))
        self._written = time.monotonic()


def failure_reason(error: BaseException) -> str | None:
    """Why storage failed, in a few words; None where `error` is not storage's.

    Looks through what caused `error`: libraries raise their own on top of the system's.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and not isinstance(seen, TimeoutError):
            return seen.strerror or first_line(seen)
        if number := re.search(r"os_error_code='(\d+)'", str(seen)):  # tensorstore's
            return os.strerror(int(number[1]))
        if isinstance(seen, ValueError) and re.match(_STATUS, str(seen)):
            return first_line(seen)
        if type(seen).__module__.startswith(("tensorflow.", "google.")):
            return first_line(seen)
        seen = seen.__cause__ or seen.__context__
    return None
