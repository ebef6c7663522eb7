"""Bootstrap over the examples of a dataset: how far would a number move with other examples?

Which examples a resample draws follows from their number alone, so it is the same for every model
and every metric of a dataset. The difference of two models by resample is therefore the paired
bootstrap (Efron & Tibshirani 1993, ch. 8 and 13), whatever the metric is.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Float64, Int

RESAMPLES = 1000
LEVEL_PERCENT = 95.0

_COUNTS_AT_ONCE = 2**23  # of one chunk: 32 MiB of float32
_COUNTS_KEPT = 2**25

Counts = Float[np.ndarray, "resamples examples"]
"""How often each resample drew each example."""

Statistic = Callable[[Counts], Float[np.ndarray, "resamples"]]


def resamples_of(
    statistic: Statistic, examples: int, *, resamples: int = RESAMPLES
) -> Float64[np.ndarray, "{resamples}"]:
    """`statistic` of every resample of so many examples; it sees a chunk of resamples at a time."""
    return np.concatenate([statistic(counts) for counts in _draws(examples, resamples)]).astype(
        np.float64
    )


def resampled_means(
    values: Float[np.ndarray, "values"],
    groups: Int[np.ndarray, "values"] | None = None,
    *,
    examples: int | None = None,
    resamples: int = RESAMPLES,
) -> Float64[np.ndarray, "{resamples}"]:
    """The mean of `values` in every resample.

    An example may have several values (a picture its five captions): `groups` numbers the example
    of each, and all values of an example are drawn together. Where which examples have a value
    depends on the model, `examples` says how many there are, so that models remain paired.
    """
    if groups is None:
        return resamples_of(
            lambda counts: counts @ values / len(values), len(values), resamples=resamples
        )
    if examples is None:
        _, groups = np.unique(groups, return_inverse=True)
        examples = int(groups.max()) + 1
    sums, sizes = (np.bincount(groups, weights, examples) for weights in (values, None))
    return resamples_of(
        lambda counts: _ratio(counts @ sums, counts @ sizes.astype(np.float64)),
        examples,
        resamples=resamples,
    )


def _ratio(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return sums / np.where(sizes > 0, sizes, np.nan)


def percentile_interval(resampled: Float[np.ndarray, "resamples"]) -> tuple[float, float]:
    """The 95 % percentile interval; nan where some resample has no value."""
    if not np.isfinite(resampled).all():
        return float("nan"), float("nan")
    edge = (100.0 - LEVEL_PERCENT) / 2
    low, high = np.percentile(resampled, [edge, 100.0 - edge])
    return float(low), float(high)


def _draws(examples: int, resamples: int) -> Iterator[Counts]:
    if examples * resamples <= _COUNTS_KEPT:
        yield _kept_draws(examples, resamples).astype(np.float32)
    else:
        yield from _drawn(examples, resamples)


@functools.lru_cache(maxsize=4)
def _kept_draws(examples: int, resamples: int) -> np.ndarray:
    """The metrics of a dataset share its draws."""
    return np.concatenate(list(_drawn(examples, resamples))).astype(np.uint16)


def _drawn(examples: int, resamples: int) -> Iterator[Counts]:
    random = np.random.default_rng(examples)
    at_once = max(1, _COUNTS_AT_ONCE // examples)
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        drawn = random.integers(examples, size=(rows, examples))
        drawn += examples * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * examples)
        yield counts.reshape(rows, examples).astype(np.float32)
