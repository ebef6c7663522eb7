"""When a checkpoint is saved and which ones stay: `config.checkpoint`."""

import dataclasses
import math
import time
from collections.abc import Mapping

from orbax.checkpoint import checkpoint_managers

from oner_jax.configuration import nearest
from oner_jax.errors import InputError
from oner_jax.parallel.distributed import LeadDecision

# How often processes ask process 0 whether the minutes are over. A request to the coordination
# service each time, so not at every step (our choice).
_CLOCK_STEPS = 10
EVALUATION_PREFIX = "eval/"  # of the names of what is evaluated between steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """`interval_steps` and `interval_minutes` of 0 save nothing by themselves; the last step of a
    run, and the one at which it is asked to stop, are always saved.

    The `keep` latest stay, every one at a multiple of `keep_every_steps` (0: none), and the one
    that is best by `best_metric`, a name in the metrics of its step ("": none).
    """

    interval_steps: int
    keep: int
    interval_minutes: float = 0.0
    keep_every_steps: int = 0
    best_metric: str = ""
    best_metric_mode: str = "min"

    def __post_init__(self) -> None:
        for name in ("interval_steps", "interval_minutes", "keep_every_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"checkpoint.{name}={getattr(self, name)} must be 0 or more")
        if self.keep < 1:
            raise InputError(f"checkpoint.keep={self.keep} must be at least 1")
        if self.best_metric_mode not in ("max", "min"):
            raise InputError(
                f"checkpoint.best_metric_mode={self.best_metric_mode!r} must be 'max' or 'min'"
            )

    def preservation(self) -> checkpoint_managers.AnyPreservationPolicy:
        """Which checkpoints stay, for Orbax."""
        policies: list[checkpoint_managers.PreservationPolicy] = [
            checkpoint_managers.LatestN(self.keep)
        ]
        if self.keep_every_steps:
            policies.append(checkpoint_managers.EveryNSteps(self.keep_every_steps))
        if self.best_metric:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=self.goodness, n=1, keep_checkpoints_without_metrics=False
                )
            )
        return checkpoint_managers.AnyPreservationPolicy(policies)

    def goodness(self, metrics: Mapping[str, float]) -> float:
        """The more the better; -inf where the metric is missing or not finite."""
        value = metrics.get(self.best_metric)
        if value is None or not math.isfinite(value):
            return -math.inf
        return value if self.best_metric_mode == "max" else -value

    def check_evaluated(self, *, interval_steps: int, total_steps: int) -> None:
        """Raise InputError if the best is sought by an evaluation, every `interval_steps` steps,
        after some of which nothing is saved: the best could be among those."""
        if not self.best_metric.startswith(EVALUATION_PREFIX) or not interval_steps > 0:
            return
        saved = self.interval_steps and interval_steps % self.interval_steps == 0
        if not saved and interval_steps < total_steps:  # the last step is always saved
            raise InputError(
                f"checkpoint.best_metric={self.best_metric!r} is measured every {interval_steps} "
                f"steps (evaluation.interval_steps), but checkpoint.interval_steps="
                f"{self.interval_steps} saves after others: make the first a multiple of the second"
            )

    def check_metrics(self, metrics: Mapping[str, object]) -> None:
        """Raise InputError if the best is sought by a metric that a run does not have."""
        if self.best_metric and self.best_metric not in metrics:
            raise InputError(
                f"checkpoint.best_metric={self.best_metric!r} is not logged"
                f"{nearest(self.best_metric, metrics)}: there are {', '.join(sorted(metrics))}"
            )


class SaveClock:
    """Whether a step's checkpoint is due. Of several processes, process 0's clock counts."""

    def __init__(self, policy: CheckpointPolicy):
        self._policy = policy
        self._decide = LeadDecision("checkpoint by time")
        self.restart()

    def restart(self) -> None:
        """Count minutes from now: a checkpoint is being saved."""
        self._since = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after `step`: on all processes the same. Ask at every step."""
        interval_steps, minutes = self._policy.interval_steps, self._policy.interval_minutes
        by_step = interval_steps > 0 and step % interval_steps == 0
        by_time = False
        if minutes > 0 and step % _CLOCK_STEPS == 0:
            by_time = self._decide(time.monotonic() - self._since >= 60 * minutes)
        return by_step or by_time
