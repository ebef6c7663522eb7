"""The training loop: batch, step, log, checkpoint, stop."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from oner_jax.errors import Preempted
from oner_jax.objectives.batch import Batch
from oner_jax.parallel.chips import Peak
from oner_jax.parallel.preemption import StopRequest
from oner_jax.training.checkpoints import Checkpoints
from oner_jax.training.damage_log import DamageLog
from oner_jax.training.goodput import Goodput
from oner_jax.training.metrics import MetricsLog, Throughput
from oner_jax.training.recipe import Recipe
from oner_jax.training.step import Metrics, TrainState
from oner_jax.training.watchdog import Watchdog

EVALUATION_PREFIX = "eval/"  # of the names of what `Evaluates` measures


@runtime_checkable
class Evaluates(Protocol):
    """Measures the state between two steps (`oner_jax.evals.in_loop`)."""

    def due(self, step: int) -> bool:
        """Whether to measure after `step`."""
        ...

    def __call__(
        self, step: int, state: TrainState, alive: Callable[[], None]
    ) -> Mapping[str, float]:
        """The measurements, by the names that the log gives them; calls `alive` as it goes on."""
        ...


# The global batches of step s, s + 1, ... for ever.
BatchesFrom = Callable[[int], Iterator[Batch]]


class Loop:
    """The steps of one run, from `state` after `step` steps to the recipe's last.

    `data` identifies the training data in every checkpoint. The state is donated to each step, so
    that the loop alone may hold it while it runs. Blocks on the device only to log, one step late,
    and to save.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: TrainState,
        step: int,
        *,
        batches_from: BatchesFrom,
        data: Mapping[str, Any],
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
        self._batches = batches_from(step)
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

    def run(self) -> TrainState:
        """Step to the end.

        Raises Preempted when asked to stop, and InputError when too many records are damaged, with
        a checkpoint of the step at which it did.
        """
        self._damage.require_few(self._step)
        if self._step < self._total_steps:
            if self._stop.here():
                self._save()
                self._end_as_asked()
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

    def _go_on(self) -> None:
        """One step and all that may be due after it."""
        self._take_step()
        last = self._step == self._total_steps
        logged = last or self._step % self._log_interval_steps == 0
        stopping = not last and self._stop.here()
        saved = last or stopping or self._checkpoints.due(self._step)
        if logged or saved:
            self._damage.agree(self._step)
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
        goodput = self._goodput.record(step)
        figures = {**values, **measured, **goodput, **damage}
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
        }
        with self._goodput.spending("checkpoint"):
            values = {name: float(value) for name, value in jax.device_get(self._metrics).items()}
            evaluated_at, measured = self._evaluated
            if evaluated_at == self._step:
                values |= measured
            self._checkpoints.save(self._step, self._state, position, values)
        self._goodput.mark(self._step)
