"""The training loop: batch, step, log, checkpoint, stop."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from oner_jax.errors import Preempted
from oner_jax.objectives.batch import Batch
from oner_jax.parallel.chips import Peak
from oner_jax.parallel.preemption import StopRequest
from oner_jax.training import guards
from oner_jax.training.checkpointing.checkpoints import Checkpoints
from oner_jax.training.checkpointing.policy import EVALUATION_PREFIX
from oner_jax.training.monitoring.damage_log import DamageLog
from oner_jax.training.monitoring.goodput import Goodput
from oner_jax.training.monitoring.metrics import MetricsLog, Throughput
from oner_jax.training.monitoring.watchdog import Watchdog
from oner_jax.training.recipe import Recipe
from oner_jax.training.rollback import Rollbacks, Skips, read_skips
from oner_jax.training.step import Metrics, TrainState


@runtime_checkable
class Evaluates(Protocol):
    """Measures the state between two steps (`oner_jax.evals.engine.in_loop`)."""

    def due(self, step: int) -> bool:
        """Whether to measure after `step`."""
        ...

    def __call__(
        self, step: int, state: TrainState, alive: Callable[[], None]
    ) -> Mapping[str, float]:
        """The measurements, by the names that the log gives them; calls `alive` as it goes on."""
        ...


# The global batches number s, s + 1, ... for ever.
BatchesFrom = Callable[[int], Iterator[Batch]]


class Loop:
    """The steps of one run, from `state` after `step` steps to the recipe's last.

    `data` identifies the training data in every checkpoint. The state is donated to each step, so
    that the loop alone may hold it while it runs. Blocks on the device only to save and, one step
    late, to log and to learn whether the step was skipped.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: TrainState,
        step: int,
        *,
        batches_from: BatchesFrom,
        data: Mapping[str, Any],
        rollbacks: Rollbacks,
        checkpoints: Checkpoints,
        log: MetricsLog,
        damage: DamageLog,
        stop: StopRequest,
        watchdog: Watchdog,
        goodput: Goodput,
        evaluates: Evaluates | None = None,
    ):
        self._recipe = recipe
        self._state, self._step = state, step
        self._batches_from, self._rollbacks = batches_from, rollbacks
        self._batches = batches_from(step + rollbacks.data_offset_steps)
        self._data = data
        self._checkpoints, self._log, self._stop = checkpoints, log, stop
        self._watchdog, self._goodput = watchdog, goodput
        self._evaluates = evaluates
        self._evaluated: tuple[int, Mapping[str, float]] = (0, {})
        self._damage = damage
        config = recipe.config
        self._total_steps = config.total_steps
        self._log_interval_steps = config.log_interval_steps
        self._batch_size = config.batch_size
        self._throughput = Throughput(
            config.batch_size,
            recipe.flops.total,
            Peak.of(recipe.mesh.devices.flatten().tolist()),
            goodput,
        )
        self._metrics: Metrics = {}
        self._unwritten: tuple[int, Metrics, dict[str, float]] | None = None
        self._unread: Metrics | None = None

    def run(self) -> TrainState:
        """Step to the end.

        Raises Preempted when asked to stop, and InputError when too many records are damaged, with
        a checkpoint of the step at which it did; Diverged when going back does not help.
        """
        self._damage.require_few(self._step)
        # A checkpoint may have been made just before the run would have gone back.
        skips = read_skips(self._step, guards.counts(self._state.guard))
        if skips is not None and self._rollbacks.needed(skips):
            self._roll_back(skips)
        if self._step < self._total_steps:
            if self._stop.here():
                self._save()
                self._end_as_asked()
            self._log.say("compiling   the training step ...")
            with self._goodput.spending("compile"):
                self._first_step()
        self._goodput.enter("step")
        while self._step < self._total_steps:
            self._go_on()
        self._write()
        self._goodput.enter("checkpoint")  # what remains is to wait for the last one
        return self._state

    def _first_step(self) -> None:
        """Compiles; what is measured begins after it."""
        self._go_on()
        jax.block_until_ready(self._state)
        if self._evaluates is None or not self._best_is_evaluated:
            self._checkpoints.policy.check_metrics(self._metrics)
        self._throughput.start(self._step)
        self._log.begin(self._step)

    def _go_on(self) -> None:
        """One step and all that may be due after it."""
        before = self._unread
        self._take_step()
        self._unread = self._metrics
        last = self._step == self._total_steps
        if self._went_back(self._step - 1, before) or (
            last and self._went_back(self._step, self._metrics)
        ):
            return
        logged = last or self._step % self._log_interval_steps == 0
        stopping = not last and self._stop.here()
        due = self._checkpoints.due(self._step)
        # Among skipped steps none is made by the interval: it would displace a good one.
        saved = last or stopping or (due and read_skips(self._step, self._metrics) is None)
        if logged or saved:
            self._damage.agree(self._step + self._rollbacks.data_offset_steps)
        self._write()
        if logged:
            self._unwritten = (self._step, self._metrics, self._damage.metrics())
        if self._evaluates is not None and self._evaluates.due(self._step):
            self._evaluate(self._evaluates)
        self._checkpoints.check()
        if saved or self._damage.too_many:
            self._save()
        self._log.advance()
        if self._damage.too_many:
            self._write()
            self._damage.require_few(self._step)
        if stopping:
            self._end_as_asked()

    def _went_back(self, step: int, metrics: Metrics | None) -> bool:
        """Say so if `step` was skipped; where too many were, go back, which is the answer."""
        skips = None if metrics is None else read_skips(step, metrics)
        if skips is None or metrics is None:
            return False
        said = {name: float(metrics[name]) for name in ("loss", "gradient_norm", "guard/z_score")}
        described = ", ".join(f"{name} {value:.4g}" for name, value in said.items())
        self._log.say(f"step {step} was skipped: {described}")
        if not self._rollbacks.needed(skips):
            return False
        if self._unwritten is None or self._unwritten[0] < step:
            self._write()
            self._unwritten = (step, metrics, self._damage.metrics())
        self._write()
        self._roll_back(skips)
        return True

    def _roll_back(self, skips: Skips) -> None:
        """Go back to before the bad steps, and on with the batches after theirs."""
        self._rollbacks.require_one_more(skips)
        with self._goodput.spending("initialisation"):
            del self._state, self._batches  # room for those that come in their place
            self._state, self._step, position = self._rollbacks.go_back(
                skips, self._recipe, self._checkpoints
            )
            offset = self._rollbacks.data_offset_steps
            self._batches = self._batches_from(self._step + offset)
            data_step = self._step + position.get("data_offset_steps", 0)
            self._damage.go_back_to(data_step, position.get("damaged", {}))
            self._log.go_back_to(self._step)
        self._goodput.go_back_to(self._step)
        self._throughput.start(self._step)
        self._unread = None
        self._log.say(
            f"steps {skips.first} to {skips.last} were skipped: went back to step {self._step}, "
            f"and read on after their batches ({offset} steps ahead)"
        )

    def _end_as_asked(self) -> None:
        self._write()
        self._goodput.enter("checkpoint")
        raise Preempted(
            f"stopped as asked at step {self._step}; the same command continues from there"
        )

    def _take_step(self) -> None:
        """Dispatch the next step, which the device may work on until its metrics are read."""
        with self._goodput.spending("input"):
            batch = next(self._batches)
        self._state, self._metrics = self._recipe.step(self._state, batch)
        self._step += 1
        self._watchdog.dispatched(self._step, self._metrics["loss"])

    def _write(self) -> None:
        """Log what a step before has left, now that the device has more to do."""
        if self._unwritten is None:
            return
        step, metrics, damage = self._unwritten
        self._unwritten = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        examples = step * self._batch_size
        measured = self._throughput.measure(step)
        measured["checkpoint/blocked_seconds"] = self._checkpoints.take_blocked_seconds()
        figures = {**values, **measured, **self._goodput.record(step), **damage}
        figures |= self._rollbacks.metrics()
        self._log.write(step, {"examples_seen": examples, **figures})

    @property
    def _best_is_evaluated(self) -> bool:
        return self._checkpoints.policy.best_metric.startswith(EVALUATION_PREFIX)

    def _evaluate(self, evaluates: Evaluates) -> None:
        """Measure the state; the time that it takes is no part of training."""
        jax.block_until_ready(self._state)
        with self._goodput.spending("evaluation"):
            measured = evaluates(self._step, self._state, self._watchdog.alive)
        if self._best_is_evaluated:
            self._checkpoints.policy.check_metrics(measured)
        self._evaluated = (self._step, measured)
        self._log.write(self._step, measured)

    def _save(self) -> None:
        """A checkpoint of the state, of where in the data it stands and of the step's metrics."""
        jax.block_until_ready(self._state)
        position = {
            "step": self._step,
            "examples_seen": self._step * self._batch_size,
            "data": self._data,
            "damaged": dict(self._damage.counts),
            **self._rollbacks.position(),
        }
        with self._goodput.spending("checkpoint"):
            values = {name: float(value) for name, value in jax.device_get(self._metrics).items()}
            evaluated_at, measured = self._evaluated
            if evaluated_at == self._step:
                values |= measured
            self._checkpoints.save(self._step, self._state, position, values)
        self._goodput.mark(self._step)
