"""Evaluation while training, at chosen steps, by the code that evaluates checkpoints.

Its cells are those that `oner_jax.evaluate` would make of a checkpoint of that step, so they are
shown with the others even where no checkpoint was kept.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from oner_jax.errors import InputError
from oner_jax.evals.engine.checkpoints import Checkpoint
from oner_jax.evals.engine.datasets import available, choose
from oner_jax.evals.engine.suite import Dataset, Origin, evaluate_subject
from oner_jax.evals.inputs.features import PRIMARY
from oner_jax.evals.tasks.catalogue import TASKS
from oner_jax.models.embedding import Embedder
from oner_jax.models.pretraining import Parameters
from oner_jax.parallel.mesh import replicated
from oner_jax.training.checkpointing.policy import EVALUATION_PREFIX
from oner_jax.training.recipe import Recipe
from oner_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class InLoopSettings:
    """`config.evaluation`: these tasks every so many steps, and at the last one (0: never)."""

    interval_steps: int = 0
    tasks: tuple[str, ...] = ("retrieval", "zeroshot")

    def __post_init__(self) -> None:
        if self.interval_steps < 0:
            raise InputError(f"evaluation.interval_steps={self.interval_steps} must be 0 or more")
        for task in self.tasks:
            if task not in TASKS:
                raise InputError(
                    f"evaluation.tasks: there is no {task!r}; tasks are {', '.join(TASKS)}"
                )


class InLoop:
    """Evaluates the state of a run between two steps; of several processes, all of them.

    Raises InputError at once where the datasets or tasks of the config are not there.
    """

    def __init__(self, recipe: Recipe, workdir: epath.Path, origin: Origin):
        config = recipe.config
        self._settings = InLoopSettings(
            config.evaluation.interval_steps, tuple(config.evaluation.tasks)
        )
        self._config, self._workdir, self._recipe = config, workdir, recipe
        self._origin = origin
        self._embedder: Embedder | None = None

    def due(self, step: int) -> bool:
        """Whether `step` is one of those chosen."""
        interval = self._settings.interval_steps
        return interval > 0 and (step % interval == 0 or step == self._config.total_steps)

    @functools.cached_property
    def _datasets(self) -> list[Dataset]:
        places, _ = available(choose([self._config], (), data_directory=epath.Path()))
        size = self._config.model.image_size
        return [place.dataset(name, size) for name, place in places.items()]

    def __call__(self, step: int, state: TrainState, alive: Callable[[], None]) -> dict[str, float]:
        """The measurements of the online weights, by `eval/task/dataset/name`.

        `alive` is called after every batch that is encoded.
        """
        checkpoint = Checkpoint(self._workdir, step, self._workdir.name)
        subject = checkpoint.subject(f"step {step}", self._workdir / "eval")
        twin = jax.tree.leaves(state.momentum)
        cells = evaluate_subject(
            dataclasses.replace(
                subject,
                load=lambda: self._embed(state.parameters["backbone"]),
                load_momentum=(lambda: self._embed(state.momentum)) if twin else None,
            ),
            self._datasets,
            tasks=self._settings.tasks,
            force=True,  # a run that was rolled back has other weights at the same step
            origin=self._origin,
            announce=lambda text: lambda done, total: alive(),
        )
        return {
            f"{EVALUATION_PREFIX}{task}/{dataset}/{name}": measurement.value
            for dataset, own in cells.items()
            for task, cell in own.items()
            for name, measurement in cell.measurements(PRIMARY).items()
        }

    def _embed(self, backbone: Parameters) -> Embedder:
        """An embedder of these weights, from wherever they are cut; compiled once in a run."""
        whole = jax.jit(lambda tree: tree, out_shardings=replicated(self._recipe.mesh))(backbone)
        parameters = {"backbone": jax.tree.map(np.asarray, whole)}
        if self._embedder is None:
            self._embedder = Embedder(self._recipe.model, parameters)
        return self._embedder.of(parameters)
