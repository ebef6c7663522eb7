"""Is one checkpoint better than another, on the same examples? Differences with intervals."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from oner_jax.evals.engine.suite import Cell
from oner_jax.evals.inputs.features import PRIMARY
from oner_jax.evals.metrics.bootstrap import percentile_interval

Cells = Mapping[str, Mapping[str, Cell]]  # by dataset and task


@dataclasses.dataclass(frozen=True)
class Difference:
    """One metric of two checkpoints: `value` - `other`, and its paired 95 % bootstrap interval."""

    metric: str
    value: float
    other: float
    fraction: bool
    interval: tuple[float, float]

    @property
    def difference(self) -> float:
        return self.value - self.other

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        low, high = self.interval
        return low > 0 or high < 0


def differences(own: Cells, other: Cells) -> list[Difference]:
    """Of every metric that both have on the same data, in the primary space.

    Both were resampled with the same examples, so that what is easy or hard for both cancels out.
    """
    found = []
    for dataset, cells in own.items():
        for task, cell in cells.items():
            beside = other.get(dataset, {}).get(task)
            if beside is None or beside.content.get("data_hash") != cell.content.get("data_hash"):
                continue
            theirs, their_draws = beside.measurements(PRIMARY), beside.resampled(PRIMARY)
            draws = cell.resampled(PRIMARY)
            for name, measurement in cell.measurements(PRIMARY).items():
                if name not in theirs:
                    continue
                interval = (math.nan, math.nan)
                if name in draws and name in their_draws:
                    interval = percentile_interval(
                        draws[name].astype(np.float64) - their_draws[name]
                    )
                found.append(
                    Difference(
                        f"{task}/{dataset}/{name}",
                        measurement.value,
                        theirs[name].value,
                        measurement.fraction,
                        interval,
                    )
                )
    return found


HEADER = ("metric", "value", "other", "difference", "95 % interval", "clear")


def difference_rows(found: Sequence[Difference]) -> list[tuple[str, ...]]:
    """The rows under `HEADER`; fractions in percentage points, a star where zero is left out."""
    rows: list[tuple[str, ...]] = []
    for one in found:
        scale, digits = (100, 2) if one.fraction else (1, 4)
        low, high = one.interval
        rows.append(
            (
                one.metric,
                f"{scale * one.value:.{digits}f}",
                f"{scale * one.other:.{digits}f}",
                f"{scale * one.difference:+.{digits}f}",
                "n/a"
                if math.isnan(low)
                else f"{scale * low:+.{digits}f} to {scale * high:+.{digits}f}",
                "*" if one.clear else "",
            )
        )
    return rows
