"""A split of records as ingest makes it, to be embedded, shown, or ingested anew.

Named as everywhere: its directory, or `embedded:NAME` for those in the package.
"""

import dataclasses
import functools
from collections.abc import Iterator

from oner_jax.data.records import EMBEDDED_PREFIX, MANIFEST, Record, Split, open_split
from oner_jax.data.sources import fields, files
from oner_jax.data.sources.raw import Part, RawExample
from oner_jax.errors import InputError

_SUFFIX = ".array_record"


@dataclasses.dataclass(frozen=True)
class Records:
    """A range of a split's records, from number `first`. `content_hash` is the whole split's."""

    split: str
    content_hash: str
    first: int
    examples: int

    @property
    def name(self) -> str:
        """The split and the first record's number."""
        return _location(self.split, self.first)

    def read(self) -> Iterator[RawExample]:
        """Its records. OSError or InputError if the split cannot be opened."""
        numbers = range(self.first, self.first + self.examples)
        for number, record in zip(numbers, open_split(self.split).records(numbers), strict=True):
            yield _example_of(record, _location(self.split, number))


def parts(name: str, examples_per_part: int, names: fields.FieldNames) -> list[Part]:
    """Ranges of `examples_per_part` records.

    InputError if the name is no split, or `names` asks for other fields than records have.
    """
    if names != fields.FieldNames():
        raise InputError(f"{name}: records have fields of their own; name none")
    split = _opened(name)
    return [
        Records(name, split.content_hash, first, min(examples_per_part, len(split) - first))
        for first in range(0, len(split), examples_per_part)
    ]


def recognises(found: files.Found) -> bool:
    """Whether it is a split's name or directory."""
    return found.name.startswith(EMBEDDED_PREFIX) or (
        found.has(f"/{MANIFEST}") and found.has(_SUFFIX)
    )


def _opened(name: str) -> Split:
    try:
        return open_split(name)
    except InputError as error:
        raise InputError(f"{error}; name another split of records") from None


def _location(split: str, number: int) -> str:
    return f"{split}[{number}]"


def _example_of(record: Record, location: str) -> RawExample:
    return RawExample(
        location=location,
        id=record.id,
        read_image=functools.partial(bytes, record.image) if record.image else None,
        captions=record.captions,
        label=record.label,
        metadata=record.metadata,
    )
