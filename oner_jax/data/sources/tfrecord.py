"""TFRecord files: records with checksums, each a `tf.train.Example` with a feature per field.

img2dataset's `--output_format tfrecord` names them `key`, the image by its format (`jpg`, `png` or
`webp`), `txt` for the caption, and adds what it knows of the image.
"""

import contextlib
import dataclasses
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tensorflow.python.lib.io import tf_record

from oner_jax.data.host_tensorflow import tf
from oner_jax.data.sources import fields, files, img2dataset, layout
from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason

SUFFIXES = (".tfrecord", ".tfrecords")

_RECORDS_TO_GUESS_FROM = 100

# A record is its length and that number's checksum, its bytes, and their checksum.
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


@dataclasses.dataclass(frozen=True)
class TfRecords:
    """One file of records, and img2dataset's log of it if there is one."""

    file: files.File
    log: files.File | None
    names: fields.FieldNames
    id_prefix: str

    @property
    def name(self) -> str:
        """The file."""
        return self.file.path

    @property
    def examples(self) -> None:
        """Only reading tells."""
        return None

    def read(self) -> Iterator[RawExample | Dropped]:
        """Its records, then what the log has beyond them. OSError if it cannot be opened."""
        present = set()
        for number, record in enumerate(records_of(self.file)):
            entry = record if isinstance(record, Dropped) else self._entry(record, number)
            if isinstance(entry, RawExample):
                present.add(entry.id)
            yield entry
        if self.log:
            yield from img2dataset.missing_entries(self.log, present)

    def _entry(self, record: bytes, number: int) -> RawExample | Dropped:
        location = location_of(self.file, number)
        try:
            values = feature_values(record)
        except ValueError as error:
            return Dropped(location, Reason.BROKEN_ENTRY, fields.one_line(str(error)))
        return fields.example_of(
            {name: _field(value) for name, value in values.items()},
            self.names,
            location=location,
            default_id=f"{self.id_prefix}{number:08d}",
            directory="",
            numbered=True,
        )


def parts(
    name: str, examples_per_part: int, names: fields.FieldNames, *, splits: Sequence[str] = ()
) -> list[Part]:
    """The files that the name means, each whole: records can be found only one after another.

    InputError if there are none, or if their fields are not as `names` says.
    """
    del examples_per_part
    found = layout.matching_files(name, SUFFIXES, splits)
    names = fields.resolve(names, _columns(found), name)
    logs = img2dataset.logs_beside(file.path for file in found)
    return [
        TfRecords(
            file, logs.get(file.path), dataclasses.replace(names, split=file.split), id_prefix
        )
        for file, id_prefix in zip(found, files.id_prefixes(found), strict=True)
    ]


def _columns(found: list[files.File]) -> list[str]:
    """The fields of the first records of the first file that has any to read."""
    for file in found:
        columns: dict[str, None] = {}
        for number, record in enumerate(records_of(file)):
            if number == _RECORDS_TO_GUESS_FROM:
                break
            if not isinstance(record, Dropped):
                with contextlib.suppress(ValueError):
                    columns |= dict.fromkeys(sorted(feature_values(record)))
        if columns:
            return list(columns)
    return []


def location_of(file: files.File, number: int) -> str:
    """Where a record stands, for messages; the first is 0."""
    return f"{file.path}[{number}]"


def records_of(file: files.File) -> Iterator[bytes | Dropped]:
    """Every record's bytes, in order, or what is wrong there.

    One whose checksum is not its own is dropped alone. Where a length is damaged, or the file ends
    inside a record, nothing behind it can be found. OSError if the file cannot be read at all.
    """
    if not file.size_bytes:
        yield Dropped(file.path, Reason.EMPTY_ARCHIVE, "the file has 0 bytes")
        return
    # Not TFRecordDataset: it cannot go on behind a damaged record.
    with _os_errors(file.path):
        reader = tf_record.tf_record_random_reader(file.path)
    number = offset = 0
    while offset < file.size_bytes:
        entry: bytes | Dropped
        try:
            with _os_errors(file.path):
                entry, offset = reader.read(offset)
        except (tf.errors.DataLossError, IndexError):  # IndexError: not even a length is left
            behind = _end_of_record(file, offset)
            if not behind:
                rest = f"bytes {offset:,} to {file.size_bytes:,} cannot be read"
                yield Dropped(location_of(file, number), Reason.TRUNCATED_ARCHIVE, rest)
                return
            entry = Dropped(location_of(file, number), Reason.BROKEN_ENTRY, "wrong checksum")
            offset = behind
        yield entry
        number += 1


@contextlib.contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """TensorFlow's errors as OSError, but for damage."""
    try:
        yield
    except tf.errors.DataLossError:
        raise
    except tf.errors.OpError as error:
        raise OSError(f"{path}: {error.message}") from error


def _end_of_record(file: files.File, offset: int) -> int:
    """Where the record at this byte ends, by its length; 0 if that is damaged or leads nowhere."""
    with files.open_file(file.path) as opened:
        size_bytes = opened.seek(0, os.SEEK_END)  # the file may have been cut since it was found
        opened.seek(offset)
        header = opened.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return 0
    length, checksum = _HEADER.unpack(header)
    end = offset + _HEADER.size + length + _FOOTER_BYTES
    return end if checksum == _checksum(header[:8]) and end <= size_bytes else 0


def _checksum(data: bytes) -> int:
    """CRC-32C, turned and shifted as TFRecord does it. Bit by bit: for a few bytes only."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def feature_values(record: bytes) -> dict[str, list[Any]]:
    """The values of every feature of a serialised `tf.train.Example`: bytes, int or float.

    ValueError if it is none.
    """
    try:
        example = tf.train.Example.FromString(record)
    except Exception as error:  # protobuf's DecodeError; protobuf is TensorFlow's own affair
        raise ValueError(f"no tf.train.Example ({error})") from error
    values = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found = list(getattr(feature, kind).value) if kind else []
        if kind == "float_list":
            # 32 bits, in as many digits as they have.
            found = [float(str(np.float32(value))) for value in found]
        values[name] = found
    return values


def _field(values: list[Any]) -> Any:
    """A feature's values as one field. img2dataset writes what it does not know as empty text."""
    if len(values) > 1:
        return values
    return values[0] if values and values[0] != b"" else None
