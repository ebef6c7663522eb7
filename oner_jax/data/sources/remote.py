"""Object storage as sources read it: by TensorFlow (gs://) or by fsspec (s3://, https:// ...).

Every function raises FileNotFoundError where nothing is there, and OSError where storage fails.
"""

import contextlib
import errno
import io
import os
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from oner_jax.data.host_tensorflow import tf
from oner_jax.errors import InputError, first_line
from oner_jax.files import file_system, is_read_by_fsspec, scheme_of, usable

_REQUESTS = 32


def size_bytes(path: str) -> int:
    """Return the file's size."""
    with _os_errors(path):
        if is_read_by_fsspec(path):
            return _fsspec(path).size(path)
        return tf.io.gfile.stat(path).length


def exists(path: str) -> bool:
    """Return whether anything is there."""
    with _os_errors(path):
        return _fsspec(path).exists(path) if is_read_by_fsspec(path) else tf.io.gfile.exists(path)


def is_directory(path: str) -> bool:
    """Return whether a directory is there: of a web server, an index whose address ends so."""
    with _os_errors(path):
        if not is_read_by_fsspec(path):
            return tf.io.gfile.isdir(path)
        return (not path.startswith("http") or path.endswith("/")) and _fsspec(path).isdir(path)


def names_in(directory: str) -> list[str]:
    """Return the names in a directory."""
    with _os_errors(directory):
        if not is_read_by_fsspec(directory):
            return tf.io.gfile.listdir(directory)
        paths = _fsspec(directory).ls(directory, detail=False)
        return [posixpath.basename(path.rstrip("/")) for path in paths]


def matching(pattern: str) -> list[str]:
    """Return the paths that a glob pattern stands for."""
    with _os_errors(pattern):
        if not is_read_by_fsspec(pattern):
            return tf.io.gfile.glob(pattern)
        return [_address(path, pattern) for path in _fsspec(pattern).glob(pattern)]


def walk(directory: str) -> Iterator[tuple[str, int]]:
    """Return paths and sizes of all files below a directory, in no order."""
    with _os_errors(directory):
        if is_read_by_fsspec(directory):
            found = _fsspec(directory).find(directory, detail=True)
            for path, facts in found.items():
                yield _address(path, directory), facts["size"]
            return
        paths = [
            posixpath.join(folder, name)
            for folder, _, names in tf.io.gfile.walk(directory)
            for name in names
        ]
        with ThreadPoolExecutor(_REQUESTS) as pool:  # one request for each size
            yield from zip(paths, pool.map(size_bytes, paths), strict=True)


def opened(path: str) -> io.RawIOBase:
    """Return the file for reading."""
    with _os_errors(path):
        if not is_read_by_fsspec(path):
            file = tf.io.gfile.GFile(path, "rb")
            return _RemoteFile(path, file, file.size())
        file = _fsspec(path).open(path, "rb")
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        return _RemoteFile(path, file, end)


def reason(error: Exception) -> str:
    """Return what went wrong without the path, with which TensorFlow's messages begin."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, FileNotFoundError):  # fsspec's says the path again
        return os.strerror(errno.ENOENT)
    line = first_line(error)
    return line.rpartition("; ")[2] if isinstance(error, tf.errors.OpError) else line


class _RemoteFile(io.RawIOBase):
    """A library's file as Python's, so that lines, seeking and errors are those of a local one."""

    def __init__(self, path: str, file: Any, size: int):
        self._path = path
        self._file = file
        self._size_bytes = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size_bytes}[whence]
        with _os_errors(self._path):
            self._file.seek(max(start + offset, 0))
        return self.tell()

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        with _os_errors(self._path):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _fsspec(path: str) -> Any:
    usable(path)  # its package is there
    return file_system(path)


def _address(path: str, like: str) -> str:
    """A path as fsspec gives it, with what the address begins with."""
    return path if "://" in path else f"{scheme_of(like)}://{path.lstrip('/')}"


@contextlib.contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """Every library's errors as the OSError that the same trouble raises locally."""
    try:
        yield
    except (FileNotFoundError, InputError):
        raise
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(f"{path}: {reason(error)}") from error
    except Exception as error:
        raise OSError(f"{path}: {reason(error)}") from error
