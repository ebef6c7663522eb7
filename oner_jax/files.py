"""Files that appear whole, local or on object storage (gs://)."""

import contextlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from oner_jax.errors import InputError

_HOLDER = "held_by"


def is_remote(path: epath.PathLike) -> bool:
    """Whether `path` is on object storage: no append, no rename, objects appear whole."""
    return "://" in os.fspath(path)


def write_whole(path: epath.PathLike, content: str | bytes) -> None:
    """Write so that a reader never sees half a file: under another name first, then renamed.

    Several processes, on several hosts, may write the same file. Raises OSError, and then leaves
    what was there.
    """
    path = epath.Path(path)
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        path.write_bytes(data)
        return
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def held_folder(folder: Path, name: str, kind: str = "process") -> Iterator[None]:
    """Make a local folder and lock it; the lock goes with the process, however that ends.

    A folder in which nothing was left is removed at the end. Raises InputError, beginning with
    `name`, where the folder cannot be made or where another process (of this `kind`) holds it.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, _locked(folder, name, kind))
        stack.callback(_leave, folder)
        (folder / _HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield


def _leave(folder: Path) -> None:
    holder = folder / _HOLDER
    if holder.exists():  # not where the folder is finished with
        holder.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()


def _locked(folder: Path, name: str, kind: str) -> int:
    """Return the folder's descriptor, with the lock on it."""
    import fcntl  # not on Windows, where the API works without it

    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{name}: cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one before may have finished, and deleted what was just opened.
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"{name}: another {kind} is writing it{_held_by(folder)}; wait for it to end"
            ) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _held_by(folder: Path) -> str:
    try:
        return f" ({(folder / _HOLDER).read_text()})"
    except OSError:  # it has just begun, or is about to end
        return ""


def replace_folder(new: Path, old: Path, aside: Path) -> None:
    """Put the folder `new` in the place of `old`, if that is there, and delete what was there.

    A kill leaves `old` as it was, or `aside` to be renamed back to it, or the new one.
    """
    if old.exists():
        shutil.rmtree(aside, ignore_errors=True)
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)
