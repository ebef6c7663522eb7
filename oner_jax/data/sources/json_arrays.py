"""The elements of a long JSON array in a file, one after another, and the bytes they take."""

import json
import re
from collections.abc import Iterator
from io import BufferedIOBase

from oner_jax.data.sources import files
from oner_jax.errors import InputError

_CHUNK_BYTES = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")
# Where a number ends shows in what follows it; all other values end by themselves.
_LONGEST_NUMBER = 32


def array_elements(path: str, key: str = "") -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of every element of the array under this key of the file's object.

    Without a key the file is the array. Holds one element and a buffer at a time. InputError if the
    file cannot be read, is no JSON up to the array's end, or has no such array.
    """
    try:
        with files.open_file(path) as opened:
            text = _Text(opened)
            if key and not _found(text, key):
                raise InputError(f"{path}: has no {key!r}; it is not the file it should be")
            if text.next_character() != "[":
                raise InputError(f"{path}: {key or 'it'} is no array; it is not the right file")
            yield from _elements(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON ({error}); download it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _found(text: "_Text", key: str) -> bool:
    """Goes to the value under the key of an object."""
    if text.next_character() != "{":
        return False
    text.skip()
    while text.next_character() == '"':
        name = json.loads(text.value()[1])
        if text.next_character() != ":":
            raise ValueError(f"no ':' at byte {text.offset_bytes:,}")
        text.skip()
        if name == key:
            return True
        if text.next_character() == "[":  # long, and not to be held
            for _ in _elements(text):
                pass
        else:
            text.value()
        if text.next_character() == ",":
            text.skip()
    if text.next_character() != "}":
        raise ValueError(f"no '}}' at byte {text.offset_bytes:,}")
    return False


def _elements(text: "_Text") -> Iterator[tuple[int, bytes]]:
    """The elements of the array that begins here; ends behind it."""
    text.skip()
    if text.next_character() == "]":
        text.skip()
        return
    while True:
        text.next_character()
        yield text.value()
        separator = text.next_character()
        if separator not in (",", "]"):
            raise ValueError(f"no ',' or ']' at byte {text.offset_bytes:,}")
        text.skip()
        if separator == "]":
            return


class _Text:
    """A file as text that is read as far as it is needed.

    In Latin-1, where a character is a byte. JSON's own characters are the same there as in UTF-8,
    and those of its strings are not looked at.
    """

    def __init__(self, file: BufferedIOBase):
        self._file = file
        self._decoder = json.JSONDecoder(strict=False)
        self._buffer = ""
        self._position = 0
        self._buffer_offset_bytes = 0

    @property
    def offset_bytes(self) -> int:
        """Where in the file this is."""
        return self._buffer_offset_bytes + self._position

    def next_character(self) -> str:
        """Goes to the next character that is no space; it, or nothing at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._position)
            assert match
            self._position = match.end()
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._read_on():
                return ""

    def skip(self) -> None:
        """Passes the character that `next_character` found."""
        self._position += 1

    def value(self) -> tuple[int, bytes]:
        """Passes the value that begins here; its offset and bytes. ValueError if it is none."""
        start = self.offset_bytes
        while True:
            try:
                _, end = self._decoder.raw_decode(self._buffer, self._position)
            except ValueError as error:
                if not self._read_on():
                    raise ValueError(f"no value at byte {start:,}") from error
                continue
            if end + _LONGEST_NUMBER > len(self._buffer) and self._read_on():
                continue
            value = self._buffer[self._position : end].encode("latin-1")
            self._position = end
            return start, value

    def _read_on(self) -> bool:
        """Adds as much as there is, at least a chunk; whether there was anything."""
        rest = self._buffer[self._position :]
        more = self._file.read(max(_CHUNK_BYTES, len(rest)))
        if more:
            self._buffer_offset_bytes += self._position
            self._buffer, self._position = rest + more.decode("latin-1"), 0
        return bool(more)
