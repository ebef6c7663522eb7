"""One measured number and what to hold it against: the unit of every table and report."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from oner_jax.evals.metrics.bootstrap import (
    Statistic,
    percentile_interval,
    resampled_means,
    resamples_of,
)

Resampled = Float[np.ndarray, "resamples"]

# Our choice: a share of fewer cases has an interval of some 35 points, which tells models of
# nothing apart.
FEWEST_CASES = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """A number beside the one that no learning would give.

    `chance` is the exact expectation of `value` under a random answer; for geometry it is the named
    reference of that number. `cases` is how many queries (or pairs) were averaged. `fraction` says
    that `value` is a share of the cases, so that it is shown in per cent. `interval` is the 95 %
    bootstrap interval over the examples, `resampled` the values that it comes from (see
    `bootstrap.py`); both are nan or nothing where there are too few examples for one.
    """

    value: float
    chance: float
    cases: int = 0
    fraction: bool = True
    interval: tuple[float, float] = (math.nan, math.nan)
    resampled: Resampled | None = dataclasses.field(default=None, repr=False, compare=False)

    @classmethod
    def mean(
        cls,
        values: Num[np.ndarray, "cases"] | Bool[np.ndarray, "cases"],
        chance: float,
        groups: Int[np.ndarray, "cases"] | None = None,
        *,
        examples: int | None = None,
        fraction: bool = True,
    ) -> "Measurement":
        """The mean of a value of each case; nan without cases.

        Cases of the same example, which are not independent, have the same number in `groups`
        (below `examples`, where not every example has a case).
        """
        if not len(values):
            return cls(math.nan, chance, 0, fraction)
        numbers = np.asarray(values, np.float64)
        resampled = resampled_means(numbers, groups, examples=examples)
        return cls._with(float(numbers.mean()), chance, len(numbers), fraction, resampled)

    @classmethod
    def of(
        cls,
        value: float,
        statistic: Statistic,
        examples: int,
        chance: float,
        *,
        fraction: bool = True,
    ) -> "Measurement":
        """Any other statistic of the examples: its value on all, and as a function of resamples."""
        resampled = resamples_of(statistic, examples)
        return cls._with(value, chance, examples, fraction, resampled)

    @classmethod
    def _with(
        cls, value: float, chance: float, cases: int, fraction: bool, resampled: Resampled
    ) -> "Measurement":
        kept = resampled.astype(np.float32)
        return cls(value, chance, cases, fraction, percentile_interval(resampled), kept)

    @property
    def ratio(self) -> float:
        """How many times chance; nan where chance is not positive."""
        return self.value / self.chance if self.chance > 0 else math.nan

    @property
    def few(self) -> bool:
        """Whether there are too few cases to judge by the value."""
        return 0 < self.cases < FEWEST_CASES

    def to_json(self) -> dict[str, Any]:
        """The form stored in a cell of `eval/`; nan, which JSON lacks, as null."""
        return {
            "value": _or_null(self.value),
            "chance": _or_null(self.chance),
            "cases": self.cases,
            "fraction": self.fraction,
            "interval": [_or_null(edge) for edge in self.interval],
        }

    @classmethod
    def from_json(
        cls, stored: Mapping[str, Any], resampled: Resampled | None = None
    ) -> "Measurement":
        """The inverse of `to_json`."""
        low, high = map(_or_nan, stored.get("interval", (None, None)))
        return cls(
            value=_or_nan(stored["value"]),
            chance=_or_nan(stored["chance"]),
            cases=stored["cases"],
            fraction=stored["fraction"],
            interval=(low, high),
            resampled=resampled,
        )


def _or_null(number: float) -> float | None:
    return None if math.isnan(number) else number


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


def measured(results: Mapping[str, Mapping[str, Measurement]]) -> dict[str, Any]:
    """Measurements by space and name, as the content of a cell."""
    return {"measurements": results}


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
