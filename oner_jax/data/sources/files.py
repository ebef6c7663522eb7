"""Which files a source's name means, and how they are read: local or remote, all alike.

A name is a file, a directory, a glob pattern (`shards/*.tar`) or a pattern with braces
(`shards/{00000..00012}.tar`). Remote ones (`gs://...`) are read through TensorFlow.
"""

import contextlib
import dataclasses
import glob
import io
import itertools
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from etils import epath

from oner_jax.data.host_tensorflow import tf
from oner_jax.errors import InputError

_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
_BUFFER_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a source. Its size is part of what identifies it."""

    path: str
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source's name stands for, as far as telling its format takes.

    `files` are the paths of the files that it names, or of those directly in the directory that it
    names; `folders` the directories in that. Both are sorted, hidden ones left out.
    """

    name: str
    is_directory: bool = False
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def has(self, *suffixes: str) -> bool:
        """Whether some file's name ends so (in any case)."""
        return any(path.lower().endswith(suffixes) for path in self.files)


def is_remote(path: str) -> bool:
    """Whether it is a URL of a remote file system."""
    return "://" in path


def find(name: str) -> Found:
    """What is there. Nothing (no file, no folder) if the name is no path of anything."""
    if not is_directory(name):
        return Found(name, files=tuple(path for path in _expanded(name) if is_file(path)))
    listed = _listed(name)
    folders = [path for path in listed if is_directory(path)]
    return Found(name, True, tuple(sorted(set(listed) - set(folders))), tuple(folders))


def matching_files(name: str, suffixes: tuple[str, ...]) -> list[File]:
    """The files that a name means, sorted; of a directory those with such a suffix.

    InputError if there is none, or if one that a pattern with braces names is missing.
    """
    if is_directory(name):
        paths = [path for path in _listed(name) if path.lower().endswith(suffixes)]
        if not paths:
            raise InputError(
                f"{name}: holds no {' or '.join(suffixes)} file; name another directory"
            )
    else:
        paths = _expanded(name)
        if not paths:
            raise InputError(f"{name}: matches no file; name a file, a directory or a pattern")
    return [file_at(path) for path in paths]


def file_at(path: str) -> File:
    """The file with its size. InputError if there is none."""
    try:
        if is_remote(path):
            return File(path, epath.Path(path).stat().length)
        return File(path, os.stat(path).st_size)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}); name a file") from error


def is_file(path: str) -> bool:
    """Whether a file is there, and no directory."""
    if is_remote(path):
        return epath.Path(path).exists() and not is_directory(path)
    return os.path.isfile(path)


def is_directory(path: str) -> bool:
    """Whether a directory is there."""
    return epath.Path(path).is_dir() if is_remote(path) else os.path.isdir(path)


def parent(path: str) -> str:
    """The directory that the file is in."""
    return posixpath.dirname(path) if is_remote(path) else os.path.dirname(path)


def distinct_stems(files: Sequence[File]) -> list[str]:
    """For each file a short name that no other has: its path from the common folder, no suffix."""
    if len(files) == 1:
        return [_without_suffix(posixpath.basename(files[0].path))]
    common = os.path.commonpath([parent(file.path) for file in files])
    return [_without_suffix(file.path[len(common) :].lstrip("/")) for file in files]


def _without_suffix(path: str) -> str:
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.split(".")[0] or name)


@contextlib.contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """The file for reading, buffered and seekable. OSError if that cannot be done."""
    if is_remote(path):
        with io.BufferedReader(_RemoteFile(path), _BUFFER_BYTES) as file:
            yield file
    else:
        with open(path, "rb", buffering=_BUFFER_BYTES) as file:
            yield file


def read_file(path: str) -> bytes:
    """All its bytes. OSError if they cannot be read."""
    with open_file(path) as file:
        return file.read()


class _RemoteFile(io.RawIOBase):
    """TensorFlow's file as Python's, so that lines, seeking and errors are those of a local one."""

    def __init__(self, path: str):
        self._file = tf.io.gfile.GFile(path, "rb")
        with _os_errors(path):
            self._size_bytes = self._file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _os_errors(self._file.name):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size_bytes}[whence]
        with _os_errors(self._file.name):
            self._file.seek(max(start + offset, 0))
        return self.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextlib.contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """TensorFlow's errors as the OSError that the same trouble raises locally."""
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(f"{path}: {_reason(error)}") from error
    except tf.errors.OpError as error:
        raise OSError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


def _listed(directory: str) -> list[str]:
    """The paths in a directory but the hidden ones, sorted."""
    names = (path.name for path in epath.Path(directory).iterdir())
    return [posixpath.join(directory, name) for name in sorted(names) if name[:1] != "."]


def _expanded(name: str) -> list[str]:
    """The paths that a pattern stands for; the name itself where it is none or a file's own."""
    if not is_remote(name) and os.path.exists(name):
        return [name]
    paths = []
    for path in expand_braces(name):
        if glob.has_magic(path):
            paths += sorted(
                tf.io.gfile.glob(path) if is_remote(path) else glob.glob(path, recursive=True)
            )
        else:
            paths.append(path)
    return paths


def expand_braces(pattern: str) -> list[str]:
    """`a{1..3}b` and `a{x,y}b` as a shell writes them out, in that order, zeros in front kept."""
    parts = _BRACES.split(pattern)
    choices = [[part] if number % 2 == 0 else _choices(part) for number, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    numbers = _NUMBERS.fullmatch(inside)
    if not numbers:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = numbers.groups()
    digits = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    step = 1 if int(first) <= int(last) else -1
    return [f"{number:0{digits}d}" for number in range(int(first), int(last) + step, step)]
