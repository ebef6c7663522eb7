"""Files of a run, local or on object storage (gs://), and what is said when that fails."""

import os
import re
import threading

from etils import epath

# How tensorstore and TensorFlow name the kinds of failure that come from storage.
_STATUS = (
    "ABORTED|DATA_LOSS|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|NOT_FOUND|OUT_OF_RANGE|"
    "PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|UNAVAILABLE"
)


def is_remote(path: epath.PathLike) -> bool:
    """Whether `path` is on object storage: no append, no rename, objects appear whole."""
    return "://" in os.fspath(path)


def write_whole(path: epath.Path, text: str) -> None:
    """Write so that a reader never sees half a file: under another name first, then renamed."""
    if is_remote(path):
        path.write_text(text)
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def failure_reason(error: BaseException) -> str | None:
    """Why storage failed, in a few words; None where `error` is not storage's.

    Looks through what caused `error`: libraries raise their own on top of the system's.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and not isinstance(seen, TimeoutError):
            return seen.strerror or _first_line(seen)
        number = re.search(r"OS error (\d+)", str(seen))
        if number:
            return os.strerror(int(number[1]))
        if isinstance(seen, ValueError) and re.match(_STATUS, str(seen)):
            return _first_line(seen)
        if type(seen).__module__.startswith(("tensorflow.", "google.")):
            return _first_line(seen)
        seen = seen.__cause__ or seen.__context__
    return None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
