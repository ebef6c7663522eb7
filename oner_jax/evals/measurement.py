"""One measured number and what to hold it against: the unit of every table and report."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """A number beside the one that no learning would give.

    `chance` is the exact expectation of `value` under a random answer; for geometry it is the named
    reference of that number. `cases` is how many queries (or pairs) were averaged; 0 where an
    interval makes no sense. `fraction` says that `value` is a share of the cases, so that it is
    shown in per cent.
    """

    value: float
    chance: float
    cases: int = 0
    fraction: bool = True

    @property
    def ratio(self) -> float:
        """How many times chance; nan where chance is not positive."""
        return self.value / self.chance if self.chance > 0 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of a fraction over independent cases (Wilson's form)."""
        if not self.fraction or not self.cases:
            return math.nan, math.nan
        z, n = 1.96, self.cases
        spread = z * math.sqrt(self.value * (1 - self.value) / n + z**2 / (4 * n**2))
        centre, scale = self.value + z**2 / (2 * n), 1 + z**2 / n
        return (centre - spread) / scale, (centre + spread) / scale

    def to_json(self) -> dict[str, Any]:
        """The form stored in a cell of `eval/`; nan, which JSON lacks, as null."""
        stored = dataclasses.asdict(self)
        return {key: None if value != value else value for key, value in stored.items()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Measurement":
        """The inverse of `to_json`."""
        known: dict[str, Any] = {
            key: math.nan if value is None else value for key, value in stored.items()
        }
        return cls(**known)


def measured(results: Mapping[str, Mapping[str, Measurement]]) -> dict[str, Any]:
    """Measurements by space and name, as the content of a cell."""
    return {
        "measurements": {
            space: {name: measurement.to_json() for name, measurement in own.items()}
            for space, own in results.items()
        }
    }


def absent(reason: str) -> dict[str, Any]:
    """The content of a cell that has nothing to measure."""
    return {"absent": reason, "measurements": {}}


def format_value(number: float, fraction: bool) -> str:
    """A fraction in per cent with as many digits as it deserves; any other number with three."""
    if math.isnan(number):
        return "n/a"
    if not fraction:
        return f"{round(number, 3) + 0.0:.3f}"  # + 0.0 turns -0.0 into 0.0
    percent = 100 * number
    if percent == 0 or percent >= 9.95:
        return f"{percent:.1f}%"
    return f"{percent:.2f}%"


def format_ratio(ratio: float) -> str:
    """How many times chance: `12×`, `0.9×`."""
    if math.isnan(ratio):
        return "n/a"
    return f"{ratio:.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×"
