"""What every source of other people's data gives: parts, and in each part raw examples.

A source is a list of parts in a fixed order. A part is a piece that can be read alone, in any
process on any machine (an archive, a range of lines): it is small, picklable, and gives the same
entries in the same order each time. An entry is a raw example, or says that something in the source
is none and why; nothing is left out without a word.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from oner_jax.data.reasons import Reason

__all__ = [
    "ChangedPart",
    "Dropped",
    "Part",
    "RawExample",
    "Reason",
    "Unread",
    "entries_of",
    "listed_endings",
]

Unread = collections.Counter[str]
"""How many files were not read, by ending (`.svg`): of no format that is looked for there."""

_MOST_ENDINGS = 8


@dataclasses.dataclass(frozen=True)
class RawExample:
    """An example before its image was read.

    `location` names where it stands in its source, for messages. `read_image` gives the file's
    bytes (or raises OSError), and is None for a text without a picture; a picture without a text
    has no captions, and `without_captions` says where there may be some. Else `captions` has the
    main one first. `split` is empty if the source does not say, `image_path` if the image is no
    file of its own; `image_name` is what a source that holds the image's bytes calls it. `numbered`
    says that `id` is only the entry's place in the source.
    """

    location: str
    id: str
    read_image: Callable[[], bytes] | None
    captions: tuple[str, ...]
    label: str = ""
    split: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_path: str = ""
    without_captions: str = ""
    image_name: str = ""
    numbered: bool = False


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Something in a source that is no example: where, why, and what exactly is wrong."""

    location: str
    reason: Reason
    detail: str = ""


@runtime_checkable
class Part(Protocol):
    """A piece of a source. Implementations are frozen dataclasses of plain values.

    Their `repr` identifies the part, the sizes of its files included: when it changes, the source
    has changed.
    """

    @property
    def name(self) -> str:
        """For messages: the file, and the range in it."""
        ...

    @property
    def examples(self) -> int | None:
        """How many entries it has, for the progress bar; None where only reading would tell."""
        ...

    def read(self) -> Iterator[RawExample | Dropped]:
        """Its entries in order. Raises nothing for damage inside: that is an entry, too.

        OSError where a file cannot be opened at all.
        """
        ...


@runtime_checkable
class PassesOver(Protocol):
    """A part among whose files may be some that belong to no example."""

    def read_and_count(self, unread: Unread) -> Iterator[RawExample | Dropped]:
        """As `Part.read`; adds the files that are passed over to `unread`."""
        ...


def listed_endings(unread: Mapping[str, int]) -> str:
    """Return `8 .svg, 2 .md`, the most frequent ending first, and no more than some."""
    counts = collections.Counter(unread).most_common()
    listed = [f"{count:,} {ending}" for ending, count in counts[:_MOST_ENDINGS]]
    more = sum(count for _, count in counts[_MOST_ENDINGS:])
    return ", ".join([*listed, f"{more:,} others"] if more else listed)


def entries_of(part: Part, unread: Unread) -> Iterator[RawExample | Dropped]:
    """Return the entries of a part; adds the files that it passes over to `unread`."""
    return part.read_and_count(unread) if isinstance(part, PassesOver) else part.read()


@dataclasses.dataclass(frozen=True)
class ChangedPart:
    """A part whose examples go through `change`, a picklable function; it is known by the part."""

    part: Part
    change: Callable[[RawExample], RawExample] = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """The part's own."""
        return self.part.name

    @property
    def examples(self) -> int | None:
        """The part's own."""
        return self.part.examples

    def read(self) -> Iterator[RawExample | Dropped]:
        """The part's entries, changed where they are examples."""
        return self.read_and_count(Unread())

    def read_and_count(self, unread: Unread) -> Iterator[RawExample | Dropped]:
        """As `read`; adds the files that the part passes over to `unread`."""
        for entry in entries_of(self.part, unread):
            yield self.change(entry) if isinstance(entry, RawExample) else entry
