"""JSONL: a file with one JSON object a line, with paths of images relative to the file.

{"image": "photos/0001.jpg", "caption": "a red bicycle against a wall"}
{"image": "photos/0002.png", "captions": ["two cats", "cats asleep on a sofa"]}
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from oner_jax.data.sources import fields, files, layout
from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason

SUFFIXES = (".jsonl", ".ndjson")

_LINES_TO_GUESS_FROM = 100


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """A range of a file's lines, the first of which is number `first_line` (from 1)."""

    file: files.File
    names: fields.FieldNames
    id_prefix: str
    first_line: int
    offset_bytes: int
    length_bytes: int
    examples: int

    @property
    def name(self) -> str:
        """The file and the first line."""
        return f"{self.file.path}:{self.first_line}"

    def read(self) -> Iterator[RawExample | Dropped]:
        """Its lines but the blank ones. OSError if the file cannot be opened."""
        directory = files.parent(self.file.path)
        with files.open_file(self.file.path) as file:
            file.seek(self.offset_bytes)
            content = file.read(self.length_bytes)
        for number, line in enumerate(content.split(b"\n"), start=self.first_line):
            if line and not line.isspace():
                yield self._entry(line, number, directory)

    def _entry(self, line: bytes, number: int, directory: str) -> RawExample | Dropped:
        location = f"{self.file.path}:{number}"
        try:
            row = _json_object(line)
        except UnicodeDecodeError as error:
            return Dropped(location, Reason.INVALID_TEXT, f"no UTF-8 text ({error.reason})")
        except (ValueError, RecursionError) as error:
            return Dropped(location, Reason.BROKEN_ENTRY, f"no JSON object ({error})")
        return fields.example_of(
            row,
            self.names,
            location=location,
            default_id=f"{self.id_prefix}{number:08d}",
            directory=directory,
            numbered=True,
        )


def parts(
    name: str, examples_per_part: int, names: fields.FieldNames, *, splits: Sequence[str] = ()
) -> list[Part]:
    """Ranges of `examples_per_part` lines of the files that the name means.

    InputError if there are none, or if their fields are not as `names` says.
    """
    found = layout.matching_files(name, SUFFIXES, splits)
    return [
        part
        for file, prefix in zip(found, files.id_prefixes(found), strict=True)
        for part in _file_parts(
            file, prefix, examples_per_part, layout.names_for(file, names, splits)
        )
    ]


def _file_parts(
    file: files.File, id_prefix: str, examples_per_part: int, names: fields.FieldNames
) -> Iterator[Part]:
    names = fields.resolve(names, _columns(file), file.path)
    first_line, offset_bytes = 1, 0
    with files.open_file(file.path) as opened:
        while lines := list(itertools.islice(opened, examples_per_part)):
            length_bytes = sum(map(len, lines))
            if examples := len(lines) - sum(map(bytes.isspace, lines)):
                yield JsonLines(
                    file, names, id_prefix, first_line, offset_bytes, length_bytes, examples
                )
            first_line += len(lines)
            offset_bytes += length_bytes


def _columns(file: files.File) -> list[str]:
    """The fields of the first lines, in the order in which they appear; broken lines have none."""
    columns: dict[str, None] = {}
    with files.open_file(file.path) as opened:
        for line in itertools.islice(opened, _LINES_TO_GUESS_FROM):
            try:
                columns |= dict.fromkeys(_json_object(line))
            except (ValueError, RecursionError):
                continue
    return list(columns)


def _json_object(line: bytes) -> dict[str, Any]:
    """ValueError (UnicodeDecodeError for text that is no UTF-8) if the line is none."""
    row = json.loads(line.decode("utf-8-sig"))  # some editors begin a file with a mark
    if not isinstance(row, dict):
        raise ValueError("write {...} with image and caption")
    return row
