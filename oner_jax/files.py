"""Files and where their names lead: this machine, or object storage by its address.

gs:// is reached by TensorFlow where it is installed, s3://, az:// and hf:// by fsspec and the
package of each, https:// likewise, for reading only. Files appear whole.
"""

import contextlib
import enum
import importlib
import importlib.util
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from etils import epath
from etils.epath import backend, gpath

from oner_jax.errors import InputError, first_line

# The packages without which fsspec does not reach what has such an address.
_PACKAGES = {
    "s3": ("s3fs",),
    "az": ("adlfs",),
    "hf": ("huggingface_hub",),
    "https": ("aiohttp", "requests"),
    "http": ("aiohttp", "requests"),
}
# ram:// is TensorFlow's own, in memory.
_BY_TENSORFLOW = ("gs", "ram", "hdfs")
_READ_ONLY = ("https", "http")

_HOLDER = "held_by"  # the file in a locked folder that names the process


class Access(enum.Enum):
    """What a program does with a path, and so where it may lead."""

    READ = enum.auto()  # by any address
    STORE = enum.auto()  # read and written through epath: no https://
    GS = enum.auto()  # as STORE, by libraries that know gs:// only: ArrayRecord, TensorBoard
    LOCAL = enum.auto()  # mapped into memory, or written by a library that knows files only


@epath.register_path_cls(("s3://", "az://", "hf://"))
class _FsspecPath(gpath.PosixGPath):
    """epath's own takes TensorFlow for every address where it is installed, which knows gs://."""

    @property
    def _backend(self) -> backend.Backend:
        return backend.fsspec_backend


def is_remote(path: epath.PathLike) -> bool:
    """Whether `path` is on object storage: no append, no rename, objects appear whole."""
    return "://" in os.fspath(path)


def scheme_of(path: epath.PathLike) -> str:
    """Return what is before `://`; empty for a path on this machine."""
    scheme, mark, _ = os.fspath(path).partition("://")
    return scheme if mark else ""


def is_read_by_fsspec(path: epath.PathLike) -> bool:
    """Return whether the address is one that TensorFlow does not know."""
    return scheme_of(path) in _PACKAGES


def usable(name: epath.PathLike, access: Access = Access.READ) -> str:
    """Return a path as the user means it, `~` written out.

    Raises InputError for an address that cannot be used so, saying why and what to do; nothing is
    asked of the network.
    """
    text = os.fspath(name)
    if not is_remote(text):
        expanded = os.path.expanduser(text)
        if expanded == "~" or expanded.startswith("~/"):
            raise InputError(f"{text}: there is no home folder here; write the path out")
        return expanded
    scheme = scheme_of(text)
    if scheme == "file":
        raise InputError(f"{text}: give the path, {text.removeprefix('file://')}")
    if scheme not in (*_BY_TENSORFLOW, *_PACKAGES):
        raise InputError(
            f"{text}: {scheme}:// is not known; give a path, or an address of gs://, "
            f"{', '.join(f'{known}://' for known in _PACKAGES if known != 'http')}"
        )
    if access is Access.LOCAL:
        raise InputError(f"{text}: has to be on this machine; give a path, and copy what is there")
    if access is Access.GS and scheme not in _BY_TENSORFLOW:
        raise InputError(
            f"{text}: has to be on this machine or on gs://; give a path, and copy what is there"
        )
    if access is Access.STORE and scheme in _READ_ONLY:
        raise InputError(f"{text}: {scheme}:// serves single files; download it and give the path")
    packages = _PACKAGES.get(scheme, ())
    if missing := [name for name in packages if not importlib.util.find_spec(name)]:
        raise InputError(f"{text}: {scheme}:// needs a package: pip install {' '.join(missing)}")
    return text


@contextlib.contextmanager
def reaching(name: epath.PathLike) -> Iterator[None]:
    """Within it, storage that does not answer for this address raises InputError.

    That nothing is there is left to the caller, as FileNotFoundError.
    """
    if scheme_of(name) in _BY_TENSORFLOW and importlib.util.find_spec("tensorflow"):
        # Before epath imports it: quiet, and not on the accelerator.
        importlib.import_module("oner_jax.data.host_tensorflow")
    try:
        yield
    except (InputError, FileNotFoundError):
        raise
    except Exception as error:  # each library raises its own, from OSError to botocore's
        if not is_remote(name):
            raise
        raise InputError(
            f"{os.fspath(name)}: cannot be reached ({first_line(error)}); check the address, the "
            "network and your credentials"
        ) from error


def check_reachable(address: str) -> None:
    """Raise InputError unless the storage of an address answers, whether anything is there or not.

    Raises the same as `usable`.
    """
    address = usable(address)
    with reaching(address), contextlib.suppress(FileNotFoundError):
        if scheme_of(address) in _READ_ONLY:
            file_system(address).exists(address)
        else:
            epath.Path(address).exists()


def read_bytes(path: epath.PathLike) -> bytes:
    """Return a file's content, wherever it is.

    Raises OSError, and InputError for an address that cannot be used or does not answer.
    """
    name = usable(path)
    with reaching(name):
        if scheme_of(name) in _READ_ONLY:
            return file_system(name).cat_file(name)
        return epath.Path(name).read_bytes()


def file_system(address: str) -> Any:
    """Return fsspec's file system for an address that `is_read_by_fsspec`."""
    return fsspec.filesystem(scheme_of(address))


def absolute(path: epath.PathLike) -> epath.Path:
    """Return `path` from the root of its storage, links not followed.

    `epath.Path.resolve` makes a folder `./gs:` of an address on object storage.
    """
    return epath.Path(path) if is_remote(path) else epath.Path(os.path.abspath(path))


def split_names(text: str) -> list[str]:
    """Return the names in a list with commas, each perhaps with `@STEP` or `=WEIGHT` behind it.

    A name that has commas itself stays whole where a file or folder on this machine has it.
    """
    pieces, names = text.split(","), []
    while pieces:
        joined = (",".join(pieces[:count]).strip() for count in range(len(pieces), 1, -1))
        names.append(next(filter(_names_something, joined), pieces[0].strip()))
        pieces = pieces[names[-1].count(",") + 1 :]
    return names


def _names_something(name: str) -> bool:
    paths = (name, name.rpartition("@")[0], name.rpartition("=")[0])
    return not is_remote(name) and any(path and epath.Path(path).exists() for path in paths)


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
