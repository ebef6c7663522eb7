"""Standard output and standard error that do not end a program.

Hours of work must not be lost because `| head` has read enough, a terminal has gone, a disk is full
or a path has characters that the terminal cannot show.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

_ENCODING_ERRORS = "backslashreplace"


class _Steadfast(io.RawIOBase):
    """Writes to a file descriptor; what cannot be written is dropped, and `lost` says why."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self.lost = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: "memoryview[int]") -> int:  # type: ignore[override]
        try:
            return os.write(self._descriptor, data)
        except BrokenPipeError:  # its reader has read enough
            return len(data)
        except OSError as error:
            self.lost = self.lost or (error.strerror or str(error))
            return len(data)


@contextlib.contextmanager
def steadfast() -> Iterator[None]:
    """Go on inside, whatever becomes of the standard streams; at the end say what was lost.

    Around the whole of a program: exit code 0 becomes 1, with a line, where something that was
    printed did not reach standard output. A reader that closes its end, like `head`, has lost
    nothing that it wanted.
    """
    _replace_streams()
    code: object = None
    try:
        yield
    except SystemExit as end:
        code = end.code
    if not code and (reason := _lost_output()):
        print(f"error: standard output is not complete: {reason}", file=sys.stderr)
        code = 1
    sys.exit(code)  # type: ignore[arg-type]


def _replace_streams() -> None:
    _occupy_closed()
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            # Closed by the user, or in the hands of a test or a notebook.
            with contextlib.suppress(AttributeError):
                stream.reconfigure(errors=_ENCODING_ERRORS)  # type: ignore[union-attr]
            continue
        stream.flush()
        buffered = io.BufferedWriter(_Steadfast(stream.fileno()))  # type: ignore[type-var]
        steadfast = io.TextIOWrapper(
            buffered,
            encoding=stream.encoding,
            errors=_ENCODING_ERRORS,
            line_buffering=name == "stderr" or stream.isatty(),
        )
        setattr(sys, name, steadfast)


def flush() -> None:
    """Write what is still in memory, before `os._exit`."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _lost_output() -> str:
    flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Steadfast) else ""


def _occupy_closed() -> None:
    """Open nothing in the place of closed standard streams.

    Otherwise the next file that is opened, a checkpoint say, gets the number of a stream, and what
    a library prints is written into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
