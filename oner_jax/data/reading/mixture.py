"""Several splits read as one: which example of which split stands at which position.

A mixture is written as names with commas. Without weights the splits are shuffled together, as if
they were one: each joint epoch shows every example once. With weights, `A=3,B=1`, examples come
from A and B in exactly these proportions (see `order.interleaving`), and each split goes through
epochs of its own.

An example is known by one number: its index in its split, plus the sizes of the splits before it.
"""

import collections
import dataclasses
import fractions
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from oner_jax.data.reading import order
from oner_jax.data.records import Split, open_split
from oner_jax.errors import InputError
from oner_jax.files import split_names

# A table of so many entries is made; weights with four digits stay below.
_LONGEST_CYCLE = 100_000


@dataclasses.dataclass(frozen=True)
class Part:
    """`number` examples of a split, from place `first` of its fixed shuffle; or all of it."""

    split: Split
    first: int
    number: int

    @classmethod
    def first_of(cls, split: Split, fraction: float) -> "Part":
        """A random part: the same for every seed of training, and at least one example."""
        return cls(split, 0, max(1, round(fraction * len(split))))

    @classmethod
    def rest_of(cls, split: Split, fraction: float) -> "Part":
        """The examples that are not in `first_of`."""
        first = cls.first_of(split, fraction).number
        return cls(split, first, len(split) - first)

    def indices(self, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """In the split, of examples by their number in this part."""
        if self.number == len(self.split):
            return numbers
        return order.shuffled_indices(self.first + numbers, len(self.split))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Parts of splits with their weights, or None. `lane` keeps its random numbers its own."""

    parts: tuple[Part, ...]
    weights: tuple[int, ...] | None
    lane: int = 0

    @property
    def number(self) -> int:
        """Examples in all parts: the length of an epoch, joint or nominal."""
        return sum(part.number for part in self.parts)

    @functools.cached_property
    def _first_examples(self) -> Int64[np.ndarray, " parts"]:
        return np.cumsum([0, *(len(part.split) for part in self.parts[:-1])])

    @functools.cached_property
    def _interleaving(self) -> tuple[np.ndarray, np.ndarray]:
        return order.interleaving(self.weights or ())

    def examples(self, positions: Int64[np.ndarray, " n"], seed: int) -> Int64[np.ndarray, " n"]:
        """The example at each position."""
        found = np.empty(len(positions), np.int64)
        if self.weights is None:
            numbers = order.example_indices(positions, self.number, seed, self.lane)[0]
            ends = np.cumsum([part.number for part in self.parts])
            sources = np.searchsorted(ends, numbers, side="right")
            numbers = numbers - (ends - [part.number for part in self.parts])[sources]
        else:
            cycles, offsets = np.divmod(positions, sum(self.weights))
            sources, earlier = (table[offsets] for table in self._interleaving)
            numbers = cycles * np.array(self.weights)[sources] + earlier
        for source, part in enumerate(self.parts):
            here = np.flatnonzero(sources == source)
            chosen = numbers[here]
            if self.weights is not None:
                chosen = order.example_indices(chosen, part.number, seed, self.lane, source)[0]
            found[here] = self._first_examples[source] + part.indices(chosen)
        return found

    def replacement(self, example: int, position: int, attempt: int, seed: int) -> int:
        """What stands in for a damaged example at a position: another one of the same part."""
        source, _ = self.place(example)
        part = self.parts[source]
        number = order.replacement_index(position, attempt, part.number, seed, self.lane)
        (index,) = part.indices(np.array([number]))
        return int(self._first_examples[source] + index)

    def deranged(self, examples: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Another example of the same split for each, always the same one's."""
        found = np.empty(len(examples), np.int64)
        for source, here, indices in self._by_source(examples):
            others = order.deranged_indices(indices, len(self.parts[source].split), seed=0)
            found[here] = self._first_examples[source] + others
        return found

    def read(self, examples: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Serialised records. Raises whatever array_record raises where one cannot be read."""
        found = [b""] * len(examples)
        for source, here, indices in self._by_source(examples):
            read = self.parts[source].split.read(indices)
            for place, serialised in zip(here, read, strict=True):
                found[place] = serialised
        return found

    def place(self, example: int) -> tuple[int, int]:
        """Which part the example's split is, and its index in the split."""
        source = int(np.searchsorted(self._first_examples, example, side="right")) - 1
        return source, int(example - self._first_examples[source])

    def _by_source(
        self, examples: Int64[np.ndarray, " n"]
    ) -> Iterator[tuple[int, Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]]:
        """(source, where its examples are, their indices in the split) for each that has some."""
        if len(self.parts) == 1:
            yield 0, np.arange(len(examples)), examples
            return
        sources = np.searchsorted(self._first_examples, examples, side="right") - 1
        for source in np.unique(sources):
            here = np.flatnonzero(sources == source)
            yield int(source), here, examples[here] - self._first_examples[source]

    def description(self) -> dict[str, dict[str, Any]]:
        """By name of split, what identifies the data: a run is continued on the same alone."""
        weights: Sequence[int | None] = self.weights or [None] * len(self.parts)
        return {
            part.split.name: {"hash": part.split.content_hash, "records": part.number}
            | ({} if weight is None else {"weight": weight})
            for part, weight in zip(self.parts, weights, strict=True)
        }


def parse(key: str, text: str) -> tuple[list[str], tuple[int, ...] | None]:
    """Names of splits, and their weights as the smallest integers in proportion, or None.

    Raises InputError, naming `key` of the config, where `text` is no mixture.
    """
    names, weights = [], []
    for item in split_names(text):
        name, separator, weight = item.rpartition("=")
        # A directory's name may have an equals sign itself.
        number = _weight(weight) if separator else None
        names.append(item if number is None else name.strip())
        weights.append(number)
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice or not all(names):
        problem = f"names {twice[0]!r} twice" if twice else "has an empty name"
        raise InputError(f"{key}={text!r} {problem}: give splits, with commas between them")
    given = [weight for weight in weights if weight is not None]
    if not given or len(names) == 1:
        return names, None
    if len(given) < len(names) or min(given) <= 0:
        raise InputError(f"{key}={text!r}: give every split a weight above 0, or none")
    scale = math.lcm(*(weight.denominator for weight in given))
    whole = [int(weight * scale) for weight in given]
    cycle = tuple(number // math.gcd(*whole) for number in whole)
    if sum(cycle) > _LONGEST_CYCLE:
        raise InputError(
            f"{key}={text!r}: proportions repeat after {sum(cycle):,} examples only, more than "
            f"{_LONGEST_CYCLE:,}; give weights with fewer digits"
        )
    return names, cycle


def _weight(text: str) -> fractions.Fraction | None:
    try:
        return fractions.Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        return None


def open_mixture(
    key: str, text: str, *, lane: int, pictures: bool, captions: bool, fraction: float = 1.0
) -> Mixture:
    """Opens a mixture of examples that have what is asked for: the given fraction of each split.

    Raises InputError as `parse` and `open_split` do, and where the manifest of a split says that
    records have no picture or no caption.
    """
    names, weights = parse(key, text)
    splits = [open_split(name) for name in names]
    for split in splits:
        for count, wanted, lacking in (
            ("images_only", captions, "caption"),
            ("texts_only", pictures, "picture"),
        ):
            if wanted and (number := split.manifest.get(count, 0)):
                raise InputError(
                    f"{key}: dataset {split.name} has {number:,} records without a {lacking}; "
                    "ingest those apart (pictures alone are for data.image_only, captions alone "
                    "for data.text_only), or with --unpaired=drop"
                )
    parts = tuple(Part.first_of(split, fraction) for split in splits)
    return Mixture(parts, weights, lane)


def rest_of(mixture: Mixture, fraction: float, lane: int) -> Mixture:
    """The examples of the same splits that a mixture of this fraction leaves out."""
    parts = [Part.rest_of(part.split, fraction) for part in mixture.parts]
    weights = mixture.weights
    if weights is not None and not all(part.number for part in parts):
        raise InputError(
            f"data.paired_fraction={fraction} leaves nothing of a split that has a weight: "
            "lower it, or name other data"
        )
    if not any(part.number for part in parts):
        raise InputError(f"data.paired_fraction={fraction} leaves no example over: lower it")
    return Mixture(tuple(parts), weights, lane)
