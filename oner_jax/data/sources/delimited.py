"""CSV and TSV: a line of column names, then a row for each example, paths relative to the file.

    image,caption
    photos/0001.jpg,a red bicycle against a wall
    photos/0002.png,"two cats, one of them asleep"

A quoted value may hold delimiters and line ends, as spreadsheets and pandas write it. Commas, tabs
and semicolons are told apart by the line of names. An empty value is an absent one.
"""

import collections
import csv
import dataclasses
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from oner_jax.data.sources import fields, files, layout
from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason
from oner_jax.errors import InputError

SUFFIXES = (".csv", ".tsv")

# A quote that is never closed would make one row of the rest of the file.
_MAXIMUM_ROW_BYTES = 16 * 2**20
# The module's own limit, for the whole process, is shorter than captions that occur.
csv.field_size_limit(_MAXIMUM_ROW_BYTES)

_LONE_RETURN = re.compile(r"\r(?!\n)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Table:
    """How a file's rows are read: where its columns are and what they mean."""

    file: files.File
    columns: tuple[str, ...]
    delimiter: str
    names: fields.FieldNames
    id_prefix: str


@dataclasses.dataclass(frozen=True)
class Rows:
    """A range of a file's rows, the first of which begins on line `first_line` (from 1)."""

    table: Table
    first_line: int
    offset_bytes: int
    length_bytes: int
    examples: int

    @property
    def name(self) -> str:
        """The file and the first line."""
        return f"{self.table.file.path}:{self.first_line}"

    def read(self) -> Iterator[RawExample | Dropped]:
        """Its rows but the blank ones. OSError if the file cannot be opened."""
        table = self.table
        directory = files.parent(table.file.path)
        with files.open_file(table.file.path) as file:
            file.seek(self.offset_bytes)
            content = io.BytesIO(file.read(self.length_bytes))
        line = self.first_line
        for row in _rows(_Lines(content), len(table.columns), table.delimiter):
            if not row.isspace():
                yield self._entry(row, line, directory)
            line += row.count(b"\n")

    def _entry(self, row: bytes, line: int, directory: str) -> RawExample | Dropped:
        table = self.table
        location = f"{table.file.path}:{line}"
        try:
            text = row.decode()
        except UnicodeDecodeError as error:
            return Dropped(location, Reason.INVALID_TEXT, f"no UTF-8 text ({error.reason})")
        values = _values([text], table.delimiter)
        if values is None:
            values = _values([_without_lone_returns(text)], table.delimiter)
        if values is None or len(values) != len(table.columns):
            found = "no row" if values is None else f"{len(values)} values"
            detail = f"{found} for {len(table.columns)} columns; are quotes in it doubled?"
            return Dropped(location, Reason.BROKEN_ENTRY, detail)
        return fields.example_of(
            {name: value or None for name, value in zip(table.columns, values, strict=True)},
            table.names,
            location=location,
            default_id=f"{table.id_prefix}{line:08d}",
            directory=directory,
            numbered=True,
        )


def parts(
    name: str, examples_per_part: int, names: fields.FieldNames, *, splits: Sequence[str] = ()
) -> list[Part]:
    """Ranges of `examples_per_part` rows of the files that the name means.

    InputError if there are none, or if their columns are not as `names` says.
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
    with files.open_file(file.path) as opened:
        header = opened.readline()
        columns, delimiter = _columns(header, file.path)
        names = fields.resolve(names, columns, file.path)
        table = Table(file, columns, delimiter, names, id_prefix)
        first_line, offset_bytes = 2, len(header)
        lines = _Lines(opened)
        while rows := _next_rows(lines, table, examples_per_part):
            content = b"".join(rows)
            if examples := len(rows) - sum(map(bytes.isspace, rows)):
                yield Rows(table, first_line, offset_bytes, len(content), examples)
            first_line += content.count(b"\n")
            offset_bytes += len(content)


def _columns(header: bytes, path: str) -> tuple[tuple[str, ...], str]:
    """The names in the first line, and what stands between them."""
    try:
        text = header.removeprefix(_BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:1: no UTF-8 text; save the file as UTF-8") from error
    delimiter = max(",\t;", key=text.count) if not path.lower().endswith(".tsv") else "\t"
    columns = [name.strip() for name in _values([text], delimiter) or []]
    if not any(columns):
        raise InputError(f"{path}:1: no names of columns; write image,caption")
    # A column without a name is what pandas makes of its index.
    named = (name or f"column_{number}" for number, name in enumerate(columns, start=1))
    return tuple(named), delimiter


class _Lines:
    """The lines of a file, to which lines that were taken can be given back."""

    def __init__(self, file: Iterable[bytes]):
        self._file = iter(file)
        self._returned: collections.deque[bytes] = collections.deque()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._returned.popleft() if self._returned else next(self._file)

    def give_back(self, lines: list[bytes]) -> None:
        """These come next."""
        self._returned.extendleft(reversed(lines))


def _next_rows(lines: _Lines, table: Table, count: int) -> list[bytes]:
    """Up to so many rows."""
    taken = list(itertools.islice(lines, count))
    if _each_is_a_row(taken, table.delimiter):  # nearly always, and many times as fast
        return taken
    lines.give_back(taken)
    return list(itertools.islice(_rows(lines, len(table.columns), table.delimiter), count))


def _each_is_a_row(lines: list[bytes], delimiter: str) -> bool:
    """Whether no quote in the lines reaches into the next one, as far as that is beyond doubt."""
    content = b"".join(lines)
    if b'"' not in content:
        return True
    text = io.StringIO(_as_text(content), newline="\n")
    try:
        return sum(1 for _ in csv.reader(text, delimiter=delimiter, strict=True)) == len(lines)
    except csv.Error:
        return False


def _rows(lines: _Lines, columns: int, delimiter: str) -> Iterator[bytes]:
    """The rows that the lines make up. A line that makes none with those after it stands alone."""
    for line in lines:
        whole = _each_is_a_row([line], delimiter)
        yield line if whole else _joined_row(line, lines, columns, delimiter)


def _as_text(lines: bytes) -> str:
    """Text that the csv module cuts as it would the decoded lines, whether they are UTF-8 or not.

    No byte of a character beyond ASCII is a quote, a delimiter or a line end.
    """
    return _without_lone_returns(lines.decode("latin-1"))


def _without_lone_returns(text: str) -> str:
    """A carriage return that ends no line as a space.

    The csv module refuses it outside of quotes, where pandas writes it on all systems but Windows.
    """
    return _LONE_RETURN.sub(" ", text) if "\r" in text else text


def _joined_row(first: bytes, lines: _Lines, columns: int, delimiter: str) -> bytes:
    """The line with those that its quotes reach into.

    Without a row of so many columns, properly quoted, a quote is one too many: the line is then
    kept apart so that no other is lost.
    """
    taken = [first]
    size = len(first)

    def texts() -> Iterator[str]:
        nonlocal size
        yield _as_text(first)
        for line in lines:
            taken.append(line)
            size += len(line)
            if size > _MAXIMUM_ROW_BYTES:
                return
            yield _as_text(line)

    values = _values(texts(), delimiter, strict=True)
    if len(taken) > 1 and (values is None or len(values) != columns):
        lines.give_back(taken[1:])
        return first
    return b"".join(taken)


def _values(lines: Iterable[str], delimiter: str, strict: bool = False) -> list[str] | None:
    """The values of the first row in the lines; None if it is none, or if they end within it.

    Strictly, nothing may follow a closing quote but the next value.
    """
    ended = False

    def watched() -> Iterator[str]:
        nonlocal ended
        yield from lines
        ended = True

    try:
        values = next(csv.reader(watched(), delimiter=delimiter, strict=strict), None)
    except csv.Error:
        return None
    return None if ended else values
