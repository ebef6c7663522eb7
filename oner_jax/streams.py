"""Standard output and standard error that do not end a program.

Hours of work must not be lost because `| head` has read enough, a terminal has gone, a disk is full
or a path has characters that the terminal cannot show.
"""

import io
import os
import sys
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


def keep_going() -> None:
    """Make the standard streams of this process steadfast; call once, before its work."""
    _occupy_closed()
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue  # closed by the user, or in the hands of a test or a notebook
        stream.flush()
        buffered = io.BufferedWriter(_Steadfast(stream.fileno()))
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


def lost_output() -> str:
    """Return why something that was printed did not reach standard output; "" where all did.

    A reader that closes its end, like `head`, has lost nothing that it wanted.
    """
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
