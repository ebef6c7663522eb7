"""What a sweep found: its tables, and for the ladder the verdicts on the paper's claims.

A claim is a difference between two measurements of which the paper says the sign. Seeds are paired:
the same seed means the same order of examples, so the difference is taken seed by seed. The rule,
fixed before the runs: a claim is `replicated` where the 95 % interval of the mean difference
(Student's t over seeds) lies above `margin`, `not replicated` where it lies below, and `unclear`
where it holds both.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from oner_jax.claims.claims import CLAIMS, PROPERTY_CLAIMS, Claim, Side
from oner_jax.claims.spread import Row, Spread


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim with both sides, their difference by seed, and what follows."""

    claim: Claim
    more: Spread
    less: Spread
    difference: Spread

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean difference; nan below two seeds."""
        from scipy.stats import t

        number = self.difference.number
        if number < 2:
            return math.nan, math.nan
        reach = t.ppf(0.975, number - 1) * self.difference.deviation / math.sqrt(number)
        return self.difference.mean - reach, self.difference.mean + reach

    @property
    def word(self) -> str:
        """`replicated`, `not replicated` or `unclear`."""
        low, high = self.interval
        if low > self.claim.margin:
            return "replicated"
        return "not replicated" if high < self.claim.margin else "unclear"


def judge(
    rows: Sequence[Row], claims: Sequence[Claim] = (*CLAIMS, *PROPERTY_CLAIMS)
) -> list[Verdict]:
    """The verdict on every claim whose two sides were measured."""
    by_name = {row.name: row for row in rows}
    verdicts = []
    for claim in claims:
        more, less = _side(by_name, claim.more), _side(by_name, claim.less)
        if more is not None and less is not None:
            verdicts.append(Verdict(claim, more, less, _difference(more, less)))
    return verdicts


def _side(rows: Mapping[str, Row], side: Side) -> Spread | None:
    spread = rows[side.arm].primary(side.metric) if side.arm in rows else None
    if spread is None:
        return None
    if side.over:
        base = _side(rows, Side(side.over, side.metric))
        return None if base is None else _difference(spread, base)
    if side.chance:
        return dataclasses.replace(spread, values=(spread.chance,) * len(spread.values))
    return spread


def _difference(more: Spread, less: Spread) -> Spread:
    values = np.asarray(more.values) - np.asarray(less.values)
    return dataclasses.replace(more, values=tuple(values.tolist()), chance=0.0)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Markdown: one line a claim, with both sides, the difference and its interval."""
    header = ["topic", "claim", "more", "less", "difference", "95 % interval", "verdict"]
    lines = [header, ["---"] * len(header)]
    for verdict in verdicts:
        low, high = verdict.interval
        scale, digits = (100, 1) if verdict.difference.fraction else (1, 3)
        interval = (
            "n/a" if math.isnan(low) else f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"
        )
        claim, difference = verdict.claim, verdict.difference
        sides = [str(verdict.more), str(verdict.less), str(difference)]
        lines.append([claim.topic, claim.statement, *sides, interval, verdict.word])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
