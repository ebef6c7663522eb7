"""Files of a run, local or on object storage (gs://), and what is said when that fails."""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence

from etils import epath

from oner_jax.errors import InputError, StorageError, first_line
from oner_jax.files import absolute, is_remote, write_whole

# How tensorstore and TensorFlow name the kinds of failure that come from storage.
_STATUS = (
    "ABORTED|DATA_LOSS|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|NOT_FOUND|OUT_OF_RANGE|"
    "PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|UNAVAILABLE"
)
_REWRITE_SECONDS = 60.0
# Orbax finds files by patterns with the whole path in them, unescaped, and takes a folder `gs:` for
# the beginning of an address: what it writes under such a path it cannot read.
_PATTERN = re.compile(r"[\[*?\\]")
_SCHEME = re.compile(r"\w+:")


def orbax_path(path: epath.PathLike) -> epath.Path:
    """Return `path` as an absolute one; raise InputError where Orbax would lose what it writes."""
    found = absolute(path)
    text = os.fspath(found)
    problem = None
    if pattern := _PATTERN.search(text):
        problem = f"has {pattern[0]!r} in its path"
    elif _shown(text) != text:
        problem = "has bytes in its path that are not UTF-8"
    elif not is_remote(text) and (schemes := list(filter(_SCHEME.fullmatch, found.parts))):
        problem = f"has a folder called {schemes[0]!r} in its path"
    if problem is None:
        return found
    raise InputError(
        f"{_shown(text)} {problem}, from where checkpoints cannot be read back: choose another "
        "folder, or name a symbolic link to this one"
    )


def _shown(text: str) -> str:
    """Return `text` with what is not Unicode, such as single bytes of a file name, replaced."""
    return text.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[None]:
    """Raise StorageError, naming `path`, where storage fails inside."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        reason = failure_reason(error)
        if reason is None:
            raise
        raise StorageError(
            f"{path} could not be written: {reason}; the same command continues from the last "
            "checkpoint"
        ) from error


class Lines:
    """A text file that grows by lines, each there at once.

    Object storage cannot append: there the file is written anew, at most every minute and at the
    end. A killed run loses lines that its checkpoints would have it write again.
    """

    def __init__(self, path: epath.Path, lines: Sequence[str] = ()):
        """Begin with `lines` (default: none), in place of what is there."""
        self._path = path
        self._lines = list(lines)
        self._rewrite()
        self._file = None if is_remote(path) else path.open("a")

    def append(self, line: str) -> None:
        """Add a line."""
        if self._file is not None:
            with writing(self._path):
                self._file.write(line + "\n")
                self._file.flush()
            return
        self._lines.append(line)
        if time.monotonic() - self._written >= _REWRITE_SECONDS:
            self._rewrite()

    def close(self) -> None:
        """Write what is not written yet."""
        if self._file is not None:
            with writing(self._path):
                self._file.close()
        else:
            self._rewrite()

    def _rewrite(self) -> None:
        with writing(self._path):
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
