"""A split in two by name: `DIR/train[1%]` is every hundredth record, `DIR/train[-1%]` the others.

So a part of a split can be held out of training where its source has nothing to evaluate on.
"""

import dataclasses
import re

import numpy as np
from jaxtyping import Int64

from oner_jax.errors import InputError

_NAME = re.compile(r"(?P<split>.*[^/])\[(?P<without>-?)(?P<percent>\d+(\.\d+)?)%\]")


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """One record of every `interval` of `split`, or with `without` all others."""

    split: str
    percent: str
    without: bool

    @property
    def name(self) -> str:
        """How it is written."""
        return f"{self.split}[{'-' if self.without else ''}{self.percent}%]"

    @property
    def others(self) -> "HeldOut":
        """What it leaves of the split."""
        return dataclasses.replace(self, without=not self.without)

    @property
    def interval(self) -> int:
        """Records for each one that is held out."""
        return round(100 / float(self.percent))

    def size(self, records: int) -> int:
        """How many records of so many it has."""
        held_out = (records + self.interval - 1 - self._place) // self.interval
        return records - held_out if self.without else held_out

    def indices(self, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Where in the split its records of these numbers are."""
        if not self.without:
            return numbers * self.interval + self._place
        intervals, within = np.divmod(numbers, self.interval - 1)
        return intervals * self.interval + within + (within >= self._place)

    @property
    def _place(self) -> int:
        """Of the one in each interval."""
        return self.interval // 2


def parse(name: str) -> HeldOut | None:
    """Read such a name; None for any other. InputError where the percentage leaves nothing."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    if not 0 < float(match["percent"]) <= 50:
        raise InputError(f"dataset {name}: give a percentage above 0 and at most 50")
    return HeldOut(match["split"], match["percent"], bool(match["without"]))
