"""Sets that TensorFlow Datasets has prepared: `tfds:coco_captions`, or the directory of one.

`tfds:NAME[/CONFIG][:VERSION]` is looked for where TFDS keeps what it prepared, and nothing is ever
downloaded. Captions are a text feature or, where there is none, what the classes of a label are
called. An example's id is TFDS's own, of its file and its place there.
"""

import dataclasses
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

from array_record.python.array_record_data_source import ArrayRecordDataSource

from oner_jax.configuration import nearest
from oner_jax.data.sources import fields, files
from oner_jax.data.sources.class_names import Names
from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason
from oner_jax.data.sources.tfds_catalogue import FILES_OF_A_SET, PREFIX, find_builder
from oner_jax.data.sources.tfds_features import Layout, layout_of
from oner_jax.data.sources.tfrecord import feature_values, location_of, records_of
from oner_jax.errors import InputError

_TFRECORD, _ARRAY_RECORD = "tfrecord", "array_record"
_SPLIT = re.compile(r"([^\[\]+]+)(\[[^\[\]+]*\])?")


@dataclasses.dataclass(frozen=True)
class TfdsShard:
    """A range of the records of one file of a split, from number `first`."""

    file: files.File
    file_format: str
    split: str
    layout: Layout
    first: int
    examples: int

    @property
    def name(self) -> str:
        """The file and the first record's number."""
        return location_of(self.file, self.first)

    def read(self) -> Iterator[RawExample | Dropped]:
        """Its records. OSError if the file cannot be opened."""
        records = self._array_records() if self.file_format == _ARRAY_RECORD else self._tf_records()
        for number, record in records:
            yield record if isinstance(record, Dropped) else self._entry(record, number)

    def _tf_records(self) -> Iterator[tuple[int, bytes | Dropped]]:
        end = self.first + self.examples
        number = -1
        for number, record in enumerate(records_of(self.file)):
            lost = isinstance(record, Dropped) and record.reason != Reason.BROKEN_ENTRY
            if number >= self.first or lost:
                yield number, record
            if number + 1 == end or lost:
                return
        detail = f"ends after {number + 1} of {end} records"
        yield number + 1, Dropped(self.name, Reason.TRUNCATED_ARCHIVE, detail)

    def _array_records(self) -> Iterator[tuple[int, bytes | Dropped]]:
        if not files.exists(self.file.path):
            raise FileNotFoundError(f"{self.file.path}: no such file")
        try:
            source = ArrayRecordDataSource([self.file.path])
            length = len(source)
        except (RuntimeError, ValueError) as error:  # its index is at its end
            reason = Reason.TRUNCATED_ARCHIVE if self.file.size_bytes else Reason.EMPTY_ARCHIVE
            yield self.first, Dropped(self.name, reason, fields.one_line(str(error)))
            return
        for number in range(self.first, min(self.first + self.examples, length)):
            try:
                yield number, source[number]
            except (RuntimeError, ValueError) as error:
                location = location_of(self.file, number)
                yield number, Dropped(location, Reason.BROKEN_ENTRY, fields.one_line(str(error)))
        if length < self.first + self.examples:
            detail = f"has {length} records"
            yield length, Dropped(self.name, Reason.TRUNCATED_ARCHIVE, detail)

    def _entry(self, record: bytes, number: int) -> RawExample | Dropped:
        location, layout = location_of(self.file, number), self.layout
        try:
            values = feature_values(record)
            images = values.get(layout.image, []) if layout.image else []
            captions = [text for name in layout.captions for text in values.get(name, [])]
            class_name, called = self._class(values)
            row = {name: _single(values.get(name, [])) for name in layout.metadata} | {
                "image": images[0] if images else None,
                "captions": called if layout.class_captions else captions,
                "label": called[0] if called else None,
                "split": self.split,
                "class": class_name if called and class_name != called[0] else None,
            }
        except (ValueError, IndexError, TypeError) as error:
            detail = f"not as the set's features say ({type(error).__name__}: {error})"
            return Dropped(location, Reason.BROKEN_ENTRY, fields.one_line(detail))
        return fields.example_of(
            row,
            fields.FieldNames("image", ("captions",), layout.id),
            location=location,
            default_id=f"{posixpath.basename(self.file.path)}__{number}",
            directory="",
            numbered=True,
        )

    def _class(self, values: dict[str, list[Any]]) -> tuple[str, Names]:
        """The class's own name and what it is called. IndexError if there is no such class."""
        numbers = values.get(self.layout.label, []) if self.layout.label else []
        if not numbers or numbers[0] == -1:  # as TFDS says that the class is not known
            return "", ()
        if numbers[0] < 0:
            raise IndexError(f"no class {numbers[0]}")
        classes = self.layout.classes
        return classes.names[numbers[0]], classes.called[numbers[0]]


def _single(values: list[Any]) -> Any:
    return values[0] if values else None


def recognises(found: files.Found) -> bool:
    """Whether it is the name of a set, or the directory of one."""
    there = {posixpath.basename(path) for path in found.files}
    return found.name.startswith(PREFIX) or (found.is_directory and set(FILES_OF_A_SET) <= there)


def parts(
    name: str,
    examples_per_part: int,
    names: fields.FieldNames,
    *,
    data_dir: str = "",
    class_names: str = "",
    splits: Sequence[str] = (),
) -> list[Part]:
    """The files of the splits, in their order; those with an index in ranges.

    `splits` are as TFDS writes them, `train[:10%]` also; empty: all. InputError if the set is not
    there, or does not have the features or splits asked for.
    """
    builder = find_builder(name, data_dir)
    layout = layout_of(builder.info.features, names, class_names, name)
    file_format = builder.info.file_format.value
    if file_format not in (_TFRECORD, _ARRAY_RECORD):
        raise InputError(
            f"{name}: is kept as {file_format}; prepare it as {_TFRECORD} or {_ARRAY_RECORD} "
            "(TFDS's file_format)"
        )
    found: list[Part] = []
    for split in splits or list(builder.info.splits):
        split_name, instructions = _instructions(builder.info.splits, split, name)
        for instruction in instructions:
            file = files.file_at(instruction.filename)
            # Records of a TFRecord file can be found only one after another.
            step = examples_per_part if file_format == _ARRAY_RECORD else instruction.take
            end = instruction.skip + instruction.take
            found += [
                TfdsShard(file, file_format, split_name, layout, first, min(step, end - first))
                for first in range(instruction.skip, end, step)
            ]
    return found


def _instructions(available: Any, split: str, source: str) -> tuple[str, list[Any]]:
    """A split's name without its limits, and which records of which files are in it."""
    match = _SPLIT.fullmatch(split.strip())
    name = match[1].strip() if match else split
    if name not in available:
        raise InputError(
            f"{source}: has no split {name!r}{nearest(name, list(available))}; "
            f"it has {', '.join(available)}"
        )
    try:
        return name, available[split.strip()].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(
            f"{source}: split {split!r} cannot be taken ({fields.one_line(str(error))}); "
            "write for example train[:10%]"
        ) from error
