"""Which files a source's name means, and how they are read: local or remote, all alike.

A name is a file, a directory, a glob pattern (`shards/*.tar`) or a pattern with braces
(`shards/{00000..00012}.tar`), on this machine or by its address (`gs://...`, `s3://...`).
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

from oner_jax.data.sources import remote
from oner_jax.errors import InputError
from oner_jax.files import is_remote

_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
_BUFFER_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a source. Its size is part of what identifies it; `split` is what its name says."""

    path: str
    size_bytes: int
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source's name stands for, as far as telling its format takes.

    `files` are the paths that it stands for, whether they exist or not, or those of the files
    directly in the directory that it names; `folders` the directories in that, without hidden ones.
    """

    name: str
    is_directory: bool = False
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def has(self, *suffixes: str) -> bool:
        """Whether some file's name ends so (in any case)."""
        return any(path.lower().endswith(suffixes) for path in self.files)


def find(name: str) -> Found:
    """What the name stands for."""
    if not is_directory(name):
        return Found(name, files=tuple(_expanded(name)))
    paths = listed(name)
    folders = [path for path in paths if is_directory(path)]
    return Found(name, True, tuple(sorted(set(paths) - set(folders))), tuple(folders))


def matching_files(name: str, suffixes: tuple[str, ...]) -> list[File]:
    """The files that a name means, sorted; of a directory those with such a suffix.

    InputError if there is none, or if one that a pattern with braces names is missing.
    """
    if is_directory(name):
        paths = [path for path in listed(name) if path.lower().endswith(suffixes)]
        if not paths:
            raise InputError(
                f"{name}: holds no {' or '.join(suffixes)} file; name another directory"
            )
    else:
        paths = _expanded(name)
        if not paths:
            raise InputError(f"{name}: matches no file; name a file, a directory or a pattern")
    return [file_at(path) for path in paths]


def walk(directory: str) -> list[File]:
    """All files below a directory but hidden ones, with paths from there. Links are followed.

    A file that a link does not lead to counts 0 bytes. OSError if a directory cannot be read.
    """
    return list(_walk_remote(directory) if is_remote(directory) else _walk_local(directory))


def _walk_local(directory: str) -> Iterator[File]:
    folders = [""]
    visited = set()  # a link may lead back up
    while folders:
        folder = folders.pop()
        status = os.stat(os.path.join(directory, folder))
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(directory, folder)) as entries:
            found = [entry for entry in entries if entry.name[0] != "."]
        for entry in sorted(found, key=lambda entry: entry.name):
            path = os.path.join(folder, entry.name)
            if entry.is_dir():
                folders.append(path)
            else:
                yield File(path, entry.stat().st_size if entry.is_file() else 0)


def _walk_remote(directory: str) -> Iterator[File]:
    for path, size_bytes in sorted(remote.walk(directory)):
        below = path[len(directory) :].lstrip("/")
        if not any(name.startswith(".") for name in below.split("/")):
            yield File(below, size_bytes)


def file_at(path: str) -> File:
    """The file with its size. InputError if there is none."""
    try:
        size_bytes = remote.size_bytes(path) if is_remote(path) else os.stat(path).st_size
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({remote.reason(error)}); name a file") from error
    return File(path, size_bytes)


# TensorFlow could answer for local paths, too, but not for names that are no UTF-8.


def exists(path: str) -> bool:
    """Whether anything is there."""
    return remote.exists(path) if is_remote(path) else os.path.exists(path)


def is_directory(path: str) -> bool:
    """Whether a directory is there."""
    return remote.is_directory(path) if is_remote(path) else os.path.isdir(path)


def listed(directory: str) -> list[str]:
    """The paths in a directory but those of hidden files, sorted."""
    names = remote.names_in(directory) if is_remote(directory) else os.listdir(directory or ".")
    names = sorted(name.rstrip("/") for name in names)
    return [posixpath.join(directory, name) for name in names if name[:1] != "."]


def parent(path: str) -> str:
    """The directory that the file is in; empty for the current one."""
    return posixpath.dirname(path)


def id_prefixes(files: Sequence[File]) -> list[str]:
    """What goes before the ids of each file's examples, so that no two files share them.

    Nothing for a single file, else its path from the folder that they have in common.
    """
    if len(files) == 1:
        return [""]
    paths = [file.path.split("/") for file in files]
    levels = zip(*(path[:-1] for path in paths), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return ["/".join(path[common:]).rsplit(".", 1)[0] + "/" for path in paths]


@contextlib.contextmanager
def open_file(path: str) -> Iterator[io.BufferedIOBase]:
    """The file for reading, buffered and seekable. OSError if that cannot be done."""
    raw = remote.opened(path) if is_remote(path) else io.FileIO(path)
    with io.BufferedReader(raw, _BUFFER_BYTES) as file:
        yield file


def read_file(path: str) -> bytes:
    """All its bytes. OSError if they cannot be read."""
    with open_file(path) as file:
        return file.read()


def _expanded(name: str) -> list[str]:
    """The paths that a pattern stands for; the name itself where it is none or a file's own."""
    if exists(name):
        return [name]  # whatever it has in its name
    paths = []
    for path in expand_braces(name):
        if _MAGIC.search(path):
            paths += sorted(remote.matching(path) if is_remote(path) else glob.glob(path))
        else:
            paths.append(path)
    return list(dict.fromkeys(paths))


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
