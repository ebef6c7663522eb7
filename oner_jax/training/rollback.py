"""When a run goes back to an earlier checkpoint, and where in the data it goes on from there.

A skipped step changes nothing and costs its batch. Many in a row say that the state itself is bad,
or the data for long. Then the run goes back to a checkpoint from before, and reads on after the bad
batches, as Chowdhery et al. (2022, "PaLM", section 5.1) did by hand: step s has the batch of
s + `data_offset_steps`. A checkpoint keeps the offset and the number of roll-backs, so that a run
that is killed goes back at the same steps, to the same, as one that never was.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from oner_jax.errors import Diverged
from oner_jax.training.checkpointing.checkpoints import Checkpoints
from oner_jax.training.guards import GuardSettings
from oner_jax.training.initial_state import state_at
from oner_jax.training.recipe import Recipe
from oner_jax.training.step import Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Skips:
    """`in_a_row` steps up to `last` were skipped; in all of the run, `nonfinite` and `spikes`."""

    last: int
    in_a_row: int
    nonfinite: int
    spikes: int

    @property
    def first(self) -> int:
        return self.last - self.in_a_row + 1


def read_skips(step: int, metrics: Metrics) -> Skips | None:
    """The skips in a row up to `step`, whose metrics these are. Waits until it is done."""
    in_a_row = int(metrics["guard/consecutive_skips"])
    if not in_a_row:
        return None
    totals = (int(metrics[f"guard/skipped_{name}"]) for name in ("nonfinite", "spikes"))
    return Skips(step, in_a_row, *totals)


class Rollbacks:
    """The roll-backs of a run, from the position of the checkpoint that it continues."""

    def __init__(self, settings: GuardSettings, position: Mapping[str, Any]):
        self._settings = settings
        self.count = position.get("rollbacks", 0)
        self.data_offset_steps = position.get("data_offset_steps", 0)

    def position(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"rollbacks": self.count, "data_offset_steps": self.data_offset_steps}

    def metrics(self) -> dict[str, float]:
        """For the log."""
        return {f"guard/{name}": float(value) for name, value in self.position().items()}

    def needed(self, skips: Skips) -> bool:
        """Whether so many in a row are reason to go back."""
        return skips.in_a_row >= self._settings.maximum_consecutive_skips

    def require_one_more(self, skips: Skips) -> None:
        """Raise Diverged when the run has gone back as often as it may."""
        if self.count < self._settings.maximum_rollbacks:
            return
        raise Diverged(
            f"steps {skips.first} to {skips.last} were skipped in a row, and the run has gone back "
            f"{self.count} times already (guards.maximum_rollbacks="
            f"{self._settings.maximum_rollbacks}); checkpoints from before are as they were: look "
            "at metrics.jsonl and rolled_back.jsonl, then at the data or the learning rate"
        )

    def go_back(
        self, skips: Skips, recipe: Recipe, checkpoints: Checkpoints
    ) -> tuple[TrainState, int, dict[str, Any]]:
        """A state from before the bad steps, its step and where it stood in the data.

        Later checkpoints are deleted. The guard's totals stay; its window is that of the state.
        """
        step = self._checkpoint_before(skips, checkpoints)
        checkpoints.discard_after(step or 0)
        state, position = state_at(step, recipe, checkpoints)
        step = step or 0
        self.count += 1
        self.data_offset_steps += skips.last - step
        counts = {
            "consecutive_skips": 0,
            "skipped_nonfinite": skips.nonfinite,
            "skipped_spikes": skips.spikes,
        }
        placed = {
            name: jax.device_put(np.int32(count), getattr(recipe.abstract.guard, name).sharding)
            for name, count in counts.items()
        }
        return state._replace(guard=state.guard._replace(**placed)), step, position

    def _checkpoint_before(self, skips: Skips, checkpoints: Checkpoints) -> int | None:
        """The last that as many good steps followed as are bad now, as what went wrong may have
        begun before it showed; else the last before the bad steps. None is the beginning.

        Only those at the policy's interval count: the others depend on when a run was stopped.
        """
        interval_steps = checkpoints.policy.interval_steps
        margin = self._settings.maximum_consecutive_skips
        if skips.first <= interval_steps:
            return None
        for at_most in (skips.first - 1 - margin, skips.first - 1):
            step = checkpoints.last_good(at_most)
            while step is not None and interval_steps and step % interval_steps:
                step = checkpoints.last_good(step - 1)
            if step is not None:
                return step
        # Those are deleted or damaged. One of a stop among skipped steps has the state from before.
        return checkpoints.last_good()
