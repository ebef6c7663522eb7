"""Damaged records of a run: counted by reason, listed in `damaged.jsonl`, few or the run ends.

The examples that a process has to replace are known to it alone. At the steps where all processes
log or save, they tell each other, so that all have the same counts and stop at the same step.
"""

import collections
import itertools
import json
from collections.abc import Iterable, Mapping

from etils import epath

from oner_jax.data.reading.damage import Loss
from oner_jax.errors import InputError
from oner_jax.parallel import distributed
from oner_jax.training.monitoring.metrics import lines_up_to
from oner_jax.training.storage import Lines

FILE = "damaged.jsonl"

# The fraction that is damaged is of at least so many examples: a few at the start are no rate.
_FEWEST_EXAMPLES = 10_000
_NAMED = 3


class DamageLog:
    """What was replaced, in all processes, up to the last step at which they agreed.

    `folder` is the run's on the process that writes files, None on others. `examples_per_step` are
    those of all kinds of data.
    """

    def __init__(
        self, folder: epath.Path | None, *, maximum_fraction: float, examples_per_step: int
    ):
        self._path = None if folder is None else folder / FILE
        self._file: Lines | None = None
        self._maximum_fraction = maximum_fraction
        self._examples_per_step = examples_per_step
        self._untold: list[Loss] = []
        self._first: list[Loss] = []
        self._examples_seen = 0
        self._talks = 0
        self.counts: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> "DamageLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def go_back_to(self, step: int, counts: Mapping[str, int]) -> None:
        """Stand as after `step`, with the counts of its checkpoint; what came after is dropped."""
        self.counts = collections.Counter(counts)
        self._examples_seen = step * self._examples_per_step
        self._untold.clear()
        self._close()
        if self._path is not None and self._path.exists():
            self._file = Lines(self._path, lines_up_to(self._path, step))

    def add(self, losses: Iterable[Loss]) -> None:
        """What this process replaced, in batches of whatever steps."""
        self._untold += losses

    def agree(self, step: int) -> None:
        """Bring all processes to what was replaced up to `step`. Call on all."""
        own = [loss.to_json() for loss in self._untold if loss.step <= step]
        self._untold = [loss for loss in self._untold if loss.step > step]
        self._talks += 1
        told = itertools.chain.from_iterable(distributed.gathered(f"damage/{self._talks}", own))
        # Processes that hold the same rows have replaced the same examples.
        by_place = {loss.place: loss for loss in (Loss(**line) for line in told)}
        losses = [by_place[place] for place in sorted(by_place)]
        self.counts.update(loss.reason for loss in losses)
        self._first = (self._first + losses)[:_NAMED]
        self._examples_seen = step * self._examples_per_step
        if losses and self._path is not None:
            self._file = self._file or Lines(self._path)
            for loss in losses:
                self._file.append(json.dumps(loss.to_json()))

    def metrics(self) -> dict[str, float]:
        """Damaged records so far by reason, and all of them as a fraction of the examples seen."""
        total = self.counts.total()
        return {
            "data/damaged_fraction": total / max(1, self._examples_seen),
            **{f"data/damaged/{reason}": float(n) for reason, n in sorted(self.counts.items())},
        }

    @property
    def too_many(self) -> bool:
        """Whether more than the fraction of the examples seen, or of 10,000 if those are fewer."""
        limit = self._maximum_fraction * max(self._examples_seen, _FEWEST_EXAMPLES)
        return self.counts.total() > limit

    def require_few(self, step: int) -> None:
        """Raise InputError where `too_many`; `step` is the one whose checkpoint was just saved."""
        if not self.too_many:
            return
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in self.counts.most_common())
        named = "".join(
            f"; {loss.dataset} {loss.id or f'number {loss.index}'}: {loss.detail}"
            for loss in self._first
        )
        raise InputError(
            f"{self.counts.total():,} of {self._examples_seen:,} examples were damaged records "
            f"({reasons}{named}), more than data.maximum_damaged_fraction="
            f"{self._maximum_fraction:g} allows; {FILE} in the workdir lists them. Ingest the data "
            f"again, or raise the fraction: the same command then continues from step {step}"
        )
