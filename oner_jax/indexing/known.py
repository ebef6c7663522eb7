"""Vectors that were computed before, found again by what they were computed from.

A row is known by its own fields with the content of its image, as a key of 16 bytes. Reading every
image again would take long: where the image is a file that the system describes as it did then
(size and times of change), that is enough, and is kept as a second key, the stamp.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from oner_jax.files import is_remote
from oner_jax.indexing.rows import Row

KEY_BYTES = 16
NO_STAMP = bytes(KEY_BYTES)
_SOURCES_IN_MEMORY = 8

Keys = UInt8[np.ndarray, "rows 16"]


class Origin(NamedTuple):
    """What a row was made from: its `key`, and the `stamp` of its file (zeros: no own file)."""

    key: bytes
    stamp: bytes


class Known:
    """Vectors by key and by stamp. Keys are in memory, and the vectors of a few sources."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], np.ndarray]] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._keys: dict[bytes, bytes] = {}  # by stamp
        # Rows come in nearly the order in which they were written.
        self._loaded = functools.lru_cache(_SOURCES_IN_MEMORY)(lambda source: source())

    def add(
        self, keys: Keys, stamps: Keys, load: Callable[[], Float32[np.ndarray, "rows features"]]
    ) -> None:
        """Add the rows that `load` gives, which is called when one of them is asked for."""
        self._sources.append(load)
        source = len(self._sources) - 1
        for row, (key, stamp) in enumerate(zip(split(keys), split(stamps), strict=True)):
            self._places[key] = (source, row)
            if stamp != NO_STAMP:
                self._keys[stamp] = key

    def key_of(self, stamp: bytes) -> bytes | None:
        """Return the key of the row with this stamp; None where no row has it."""
        return self._keys.get(stamp)

    def vector(self, key: bytes) -> Float32[np.ndarray, "features"] | None:
        """Return the vector of this key; None where it is not known."""
        if key not in self._places:
            return None
        source, row = self._places[key]
        return np.array(self._loaded(self._sources[source])[row])


def key_of(row: Row, content: bytes | None) -> bytes:
    """Return the key of a row and of the content of its image, if it has one."""
    digest = "" if content is None else hashlib.blake2b(content, digest_size=KEY_BYTES).hexdigest()
    return _hash([*row, digest])


def stamp_of(row: Row) -> bytes:
    """Return the stamp of a row whose image is a local file; zeros for any other.

    The time of the last change to the file's entry is part of it, since a file that is replaced by
    another one may keep the time of its content.
    """
    if not row.image or is_remote(row.image):
        return NO_STAMP
    try:
        status = os.stat(row.image)
    except (OSError, ValueError):
        return NO_STAMP
    return _hash([*row, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino])


def as_array(keys: list[bytes]) -> Keys:
    """Join keys to an array, one a row."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def stored_keys(folder: Path, names: tuple[str, str]) -> tuple[Keys, Keys] | None:
    """Read the keys and stamps that a folder keeps; None unless both are there and whole."""
    try:
        keys, stamps = (np.load(folder / name) for name in names)
    except (OSError, ValueError, EOFError):
        return None
    fits = keys.shape == stamps.shape and keys.shape[1:] == (KEY_BYTES,)
    return (keys, stamps) if fits and keys.dtype == stamps.dtype == np.uint8 else None


def split(keys: Keys) -> list[bytes]:
    """Return the keys one by one."""
    content = np.ascontiguousarray(keys).tobytes()
    return [content[first : first + KEY_BYTES] for first in range(0, len(content), KEY_BYTES)]


def _hash(fields: list) -> bytes:
    text = json.dumps(fields).encode()
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()
