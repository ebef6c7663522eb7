"""Parquet: a row for each example, with the image's path (relative to the file) or its bytes.

What img2dataset and Hugging Face write is read as it is: columns `jpg`, `txt`, `key` and the like,
and images as a structure of `bytes` and `path`. Columns of other bytes are left out.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oner_jax.data.sources import fields, files, layout
from oner_jax.data.sources.img2dataset import without_suffix
from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason

SUFFIXES = (".parquet",)

# A group of rows can be read from its start alone, so each further part of one reads it in vain up
# to where it begins. One that is larger than this stays whole.
_MAXIMUM_CUT_GROUP_BYTES = 256 * 2**20
# Rows may hold images: this many are in memory at once.
_ROWS_AT_ONCE = 128
_STREAM_BYTES = 2**20
# What reading a damaged file raises; names of columns are decoded by no means of Arrow's.
_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class Table:
    """How a file's rows are read: which of its columns, and what they mean."""

    file: files.File
    columns: tuple[str, ...]
    names: fields.FieldNames
    id_prefix: str


@dataclasses.dataclass(frozen=True)
class RowRange:
    """Rows `first` to `last` (exclusive, from 0) of a group, which begins at the file's `start`."""

    group: int
    start: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a file that follow one another."""

    table: Table
    ranges: tuple[RowRange, ...]

    @property
    def name(self) -> str:
        """The file and the first row, counted from 1."""
        first = self.ranges[0]
        return f"{self.table.file.path}: row {first.start + first.first + 1}"

    @property
    def examples(self) -> int:
        """Its rows."""
        return sum(rows.last - rows.first for rows in self.ranges)

    def read(self) -> Iterator[RawExample | Dropped]:
        """Its rows. OSError if the file cannot be opened."""
        with files.open_file(self.table.file.path) as file:
            try:
                opened = pq.ParquetFile(
                    file, buffer_size=_STREAM_BYTES, page_checksum_verification=True
                )
            except _DAMAGE as error:
                raise OSError(f"{self.table.file.path}: {error}") from error
            for rows in self.ranges:
                yield from self._group_entries(opened, rows)

    def _group_entries(
        self, file: pq.ParquetFile, rows: RowRange
    ) -> Iterator[RawExample | Dropped]:
        """The entries of these rows; where their bytes are damaged, a dropped one for each."""
        done, failure = 0, "is missing"
        try:
            for row in _group_rows(file, rows, self.table.columns):
                yield self._entry(row, rows.start + rows.first + done)
                done += 1
        except _DAMAGE as error:
            if getattr(error, "errno", None):  # the machine's trouble, not the data's
                raise
            failure = _line(error)
        for number in range(rows.first + done, rows.last):
            yield Dropped(self._location(rows.start + number), Reason.BROKEN_ENTRY, failure)

    def _entry(self, row: pa.RecordBatch, number: int) -> RawExample | Dropped:
        location = self._location(number)
        try:
            (values,) = row.to_pylist()
        except UnicodeDecodeError as error:
            return Dropped(location, Reason.INVALID_TEXT, f"no UTF-8 text ({error.reason})")
        except (ValueError, OverflowError, pa.ArrowException) as error:  # a date in year 300,000
            return Dropped(location, Reason.BROKEN_ENTRY, _line(error))
        return fields.example_of(
            values,
            self.table.names,
            location=location,
            default_id=f"{self.table.id_prefix}{number + 1:08d}",
            directory=files.parent(self.table.file.path),
            numbered=True,
        )

    def _location(self, number: int) -> str:
        return f"{self.table.file.path}: row {number + 1}"


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A file of which nothing can be read, and why."""

    file: files.File
    reason: Reason
    detail: str

    @property
    def name(self) -> str:
        """The file."""
        return self.file.path

    @property
    def examples(self) -> int:
        """One, which says that."""
        return 1

    def read(self) -> Iterator[RawExample | Dropped]:
        """One entry."""
        yield Dropped(self.file.path, self.reason, self.detail)


def recognises(found: files.Found) -> bool:
    """Whether there are such files that are more than img2dataset's logs of the folders there."""
    return any(
        path.lower().endswith(SUFFIXES) and without_suffix(path) not in found.folders
        for path in found.files
    )


def parts(
    name: str, examples_per_part: int, names: fields.FieldNames, *, splits: Sequence[str] = ()
) -> list[Part]:
    """Ranges of about `examples_per_part` rows of the files that the name means.

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
    if not file.size_bytes:
        yield Unreadable(file, Reason.EMPTY_ARCHIVE, "has 0 bytes")
        return
    with files.open_file(file.path) as opened:
        try:
            parquet = pq.ParquetFile(opened)
            metadata, schema = parquet.metadata, parquet.schema_arrow
        except _DAMAGE as error:
            if getattr(error, "errno", None):
                raise
            yield Unreadable(file, Reason.TRUNCATED_ARCHIVE, _line(error))
            return
    if not metadata.num_rows:
        yield Unreadable(file, Reason.EMPTY_ARCHIVE, "has no rows")
        return
    names = fields.resolve(names, schema.names, file.path)
    kept = (names.image, *names.captions, names.id)
    columns = tuple(
        column.name for column in schema if column.name in kept or not _holds_bytes(column.type)
    )
    table = Table(file, columns, names, id_prefix)
    gathered: list[RowRange] = []
    for rows in _ranges(metadata, examples_per_part):
        gathered.append(rows)
        if sum(r.last - r.first for r in gathered) >= examples_per_part:
            yield Rows(table, tuple(gathered))
            gathered = []
    if gathered:
        yield Rows(table, tuple(gathered))


def _ranges(metadata: pq.FileMetaData, examples_per_part: int) -> Iterator[RowRange]:
    """All rows of a file: whole groups, or cut where they hold more rows than a part should."""
    start = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        whole = group.total_byte_size > _MAXIMUM_CUT_GROUP_BYTES
        step = max(group.num_rows, 1) if whole else examples_per_part
        for first in range(0, group.num_rows, step):
            yield RowRange(number, start, first, min(first + step, group.num_rows))
        start += group.num_rows


def _group_rows(
    file: pq.ParquetFile, rows: RowRange, columns: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    """The rows, each as a batch of one."""
    begin = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[rows.group], columns=list(columns)):
        for row in range(max(rows.first - begin, 0), min(rows.last - begin, batch.num_rows)):
            yield batch.slice(row, 1)
        begin += batch.num_rows
        if begin >= rows.last:
            return


def _holds_bytes(kind: Any) -> bool:
    """Whether values of this Arrow type are bytes, or hold some."""
    inner = (kind.field(number).type for number in range(kind.num_fields))
    own = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    own = own or pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind)
    return own or any(map(_holds_bytes, inner))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
