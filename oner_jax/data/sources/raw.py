"""What every source of other people's data gives: parts, and in each part raw examples.

A source is a list of parts in a fixed order. A part is a piece that can be read alone, in any
process on any machine (an archive, a range of lines): it is small, picklable, and gives the same
entries in the same order each time. An entry is a raw example, or says that something in the source
is none and why; nothing is left out without a word.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from oner_jax.data.reasons import Reason

__all__ = ["ChangedPart", "Dropped", "Part", "RawExample", "Reason"]


@dataclasses.dataclass(frozen=True)
class RawExample:
    """An example before its image was read.

    `location` names where it stands in its source, for messages. `read_image` gives the file's
    bytes (or raises OSError), and is None for a text without a picture; a picture without a text
    has no captions. Else `captions` has the main one first. `split` is empty if the source does not
    say, `image_path` if the image is no file of its own; `image_name` is what a source that holds
    the image's bytes calls it. `numbered` says that `id` is only the entry's place in the source.
    """

    location: str
    id: str
    read_image: Callable[[], bytes] | None
    captions: tuple[str, ...]
    label: str = ""
    split: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_path: str = ""
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
        for entry in self.part.read():
            yield self.change(entry) if isinstance(entry, RawExample) else entry
