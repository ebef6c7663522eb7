"""Checkpoints: Orbax, asynchronous, atomic; parameters, twin, optimizer and data position apart.

Items are saved side by side, so that evaluation and export read the parameters alone. Checksums are
written as part of each commit and checked before a checkpoint is used.
"""

import contextlib
import dataclasses
import json
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from oner_jax import configuration
from oner_jax.errors import InputError, StorageError, first_line
from oner_jax.files import absolute, reaching
from oner_jax.models.files import is_export
from oner_jax.models.pretraining import Parameters, PureModel
from oner_jax.models.settings import ModelSettings
from oner_jax.parallel import distributed
from oner_jax.training.checkpointing import integrity
from oner_jax.training.checkpointing import schema as items
from oner_jax.training.checkpointing.exported import (
    exported_config,
    exported_parameters,
    exported_step,
)
from oner_jax.training.checkpointing.lock import Lock
from oner_jax.training.checkpointing.policy import CheckpointPolicy, SaveClock
from oner_jax.training.step import TrainState
from oner_jax.training.storage import failure_reason, orbax_path

DIRECTORY = "checkpoints"
# Every field of the state is an item of its own, but for the step, which names the checkpoint.
ITEMS = tuple(name for name in TrainState._fields if name != "step")
WEIGHTS = ("online", "momentum")


class Checkpoints:
    """The checkpoints of one run. Use as a context manager: leaving it waits for the last save.

    With several processes, all of them call every method, in the same order. Every method raises
    StorageError where the storage fails, or has failed a save in the background.
    """

    def __init__(self, workdir: epath.PathLike, policy: CheckpointPolicy, lock: Lock | None = None):
        """`lock` is that of the process that holds the workdir: without it nothing is saved."""
        self.directory = orbax_path(workdir) / DIRECTORY
        self.policy = policy
        self._lock = lock
        self._clock = SaveClock(policy)
        self._searches = 0
        self._blocked_seconds = 0.0
        self._saving: int | None = None
        self._expected: dict[str, Any] = {}
        self._watcher: threading.Thread | None = None
        self._failure: BaseException | None = None
        with self._storage("tidied"):
            distributed.from_main(
                "unfinished saves", lambda: integrity.discard_unfinished(self.directory)
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.preservation(),
            best_fn=policy.goodness,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        with self._storage("opened"):
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except StorageError as error:
            if kind is None:
                raise
            print(f"error: {error}", file=sys.stderr)  # beside what ends the run
        with contextlib.suppress(Exception):  # what `wait` has told already
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps of finished checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def last_good(self, at_most: int | None = None) -> int | None:
        """The latest step, up to `at_most`, with a checkpoint that is whole; None if there never
        was one.

        Those found damaged are moved aside (`damaged-STEP`), with a line. Raises InputError where
        no checkpoint is left of some.
        """
        self.wait()
        self._searches += 1
        with self._storage("read"):
            step = distributed.from_main(
                f"last good {self._searches}", lambda: self._latest_whole(at_most)
            )
            self._manager.reload()
        return step

    def due(self, step: int) -> bool:
        """Whether the policy asks for a checkpoint at `step`. Ask at every step."""
        return self._clock.due(step)

    def save(
        self,
        step: int,
        state: TrainState,
        position: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Save `state` and the data position in the background, unless `step` is there already.

        `metrics` of the step are kept with it, to find the best by.
        """
        if self._manager.latest_step() == step:
            return
        trees = _arrays(state)
        arguments: dict[str, Any] = {
            name: ocp.args.StandardSave(arrays) for name, arrays in trees.items()
        }
        arguments[items.POSITION] = ocp.args.JsonSave(dict(position))
        self._clock.restart()
        began = time.monotonic()
        self.wait()
        if not self.directory.exists():
            # Orbax would make it anew, in a folder that holds no run.
            raise StorageError(f"{self.directory} has gone: checkpoint {step} was not saved")
        self._saving = step
        self._expected = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), trees
        )
        with self._storage("saved", step):
            self._manager.save(
                step, args=ocp.args.Composite(**arguments), metrics=dict(metrics or {}), force=True
            )
        self._watcher = threading.Thread(target=self._watch, name=f"save {step}", daemon=True)
        self._watcher.start()
        self._blocked_seconds += time.monotonic() - began

    def check(self) -> None:
        """Raise StorageError if a save in the background has failed, or the workdir is lost."""
        if self._lock is not None:
            self._lock.check()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            with self._storage("saved", self._saving):
                raise failure

    def wait(self) -> None:
        """Wait for the save in the background."""
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        self.check()

    def take_blocked_seconds(self) -> float:
        """For how long saving has held up the run since this was last asked."""
        seconds, self._blocked_seconds = self._blocked_seconds, 0.0
        return seconds

    def restore(
        self, step: int, abstract: TrainState, absent: Mapping[str, Any] | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """State with the shapes and shardings of `abstract`, and the data position.

        Fields that the checkpoint does not have are taken from `absent`. Raises InputError for a
        checkpoint of other arrays, naming them.
        """
        self.wait()
        wanted = _arrays(abstract)
        folder = self.directory / str(step)
        with self._storage("restored", step):
            missing = [name for name in wanted if not (folder / name).exists()]
            for name in missing:
                if absent is None or name not in absent:
                    raise InputError(f"checkpoint {folder} has no {name}")
            present = {name: tree for name, tree in wanted.items() if name not in missing}
            held = items.read_metadata(folder, list(present))
            items.check_same_arrays(folder, held, present)
            arguments: dict[str, Any] = {
                name: ocp.args.StandardRestore(arrays) for name, arrays in present.items()
            }
            arguments[items.POSITION] = ocp.args.JsonRestore()
            restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        arrays = {name: restored[name] for name in present}
        arrays |= {name: absent[name] for name in missing if absent is not None}
        empty: dict[str, Any] = {name: {} for name in ITEMS}
        step_array = jax.device_put(np.int32(step), abstract.step.sharding)
        return TrainState(step_array, **empty | arrays), restored[items.POSITION]

    def discard_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: the run goes another way from `step`."""
        self.wait()
        with self._storage("deleted"):
            for later in [number for number in self.steps() if number > step]:
                self._manager.delete(later)

    def _latest_whole(self, at_most: int | None) -> int | None:
        steps = available_steps(self.directory.parent)
        if at_most is not None:
            steps = [step for step in steps if step <= at_most]
        found = integrity.latest_whole(self.directory, steps)
        damaged = integrity.set_aside_in(self.directory)
        if found is None and damaged and at_most is None:
            raise InputError(
                f"{self.directory} has no checkpoint left that is whole (there are "
                f"{', '.join(damaged)}): bring one back, or start in another --workdir"
            )
        return found

    def _seal(self) -> None:
        """Called by Orbax on process 0 when all files are written, before the commit.

        Reads the checkpoint as a restore would: that its files were written does not make it one.
        """
        name = str(self._saving)
        unfinished = [path for path in self.directory.iterdir() if path.name.startswith(f"{name}.")]
        # Object storage has no rename: the folder has its final name from the beginning.
        folder = unfinished[0] if unfinished else self.directory / name
        if problem := items.unreadable(folder, self._expected):
            raise StorageError(
                f"checkpoint {name} was written to {self.directory}, but {problem}; earlier ones "
                "are as they were, and the same command continues from them"
            )
        integrity.seal(folder)

    def _watch(self) -> None:
        try:
            self._manager.wait_until_finished()
        except BaseException as error:  # kept for the run's own thread
            self._failure = error

    @contextlib.contextmanager
    def _storage(self, done: str, step: int | None = None) -> Iterator[None]:
        """Failures of storage as StorageError, saying what could not be `done`."""
        try:
            yield
        except (InputError, StorageError):
            raise
        except Exception as error:
            reason = failure_reason(error)
            if reason is None:
                raise
            what = "checkpoints" if step is None else f"checkpoint {step}"
            raise StorageError(
                f"{what} could not be {done}: {reason}: {self.directory}; earlier ones are as they "
                "were, and the same command continues from them"
            ) from error


def _arrays(state: TrainState) -> dict[str, Any]:
    """The state's trees by name, but for those without arrays (a twin that is not there)."""
    trees = {name: getattr(state, name) for name in ITEMS}
    return {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}


def has_twin(config: ConfigDict) -> bool:
    """Whether a run of this config keeps a momentum twin; an export has one set of weights."""
    return config.objective.key_source == "momentum" and "exported" not in config


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained (or, at step "init", untrained) model with the config it was made from."""

    config: ConfigDict
    model: PureModel
    parameters: Parameters
    step: int
    workdir: epath.PathLike
    weights: str = WEIGHTS[0]


def available_steps(workdir: epath.PathLike) -> list[int]:
    """Steps of finished checkpoints, ascending; an export has one."""
    if is_export(workdir):
        return [exported_step(workdir)]
    directory = absolute(workdir) / DIRECTORY
    if not directory.is_dir():
        return []
    return sorted(ocp.utils.checkpoint_steps(directory))


def load_run(workdir: epath.PathLike, step: str | int = "last", weights: str = "online") -> Run:
    """Load the model of a run, or of an export, for use, on one device.

    `step` is a number, "last", "best" (by the run's `checkpoint.best_metric`), or "init" for fresh
    weights from the run's seed. `weights` is "online" or "momentum" (the twin's backbone under the
    online heads). Raises InputError where there is no such run or checkpoint, naming what there is,
    and where the checkpoint is damaged.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights={weights!r}: give {' or '.join(map(repr, WEIGHTS))}")
    with reaching(workdir):
        return _load(workdir, step, weights)


def _load(workdir: epath.PathLike, step: str | int, weights: str) -> Run:
    config = read_config(workdir)
    try:
        model = PureModel(ModelSettings.from_config(config.model))
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{workdir}/config.json does not describe a run of this version ({first_line(error)})"
        ) from None
    if step == "init":
        return Run(config, model, jax.jit(model.init)(jax.random.key(config.seed)), 0, workdir)
    number = resolve_step(workdir, step)
    names = ["parameters"]
    if weights == "momentum" and not has_twin(config):
        raise InputError(f"{workdir} holds no momentum twin: use its online weights")
    if is_export(workdir):
        parameters = jax.device_put(exported_parameters(workdir, model), jax.local_devices()[0])
        return Run(config, model, parameters, number, workdir)
    if weights == "momentum":
        names.append("momentum")
    folder = absolute(workdir) / DIRECTORY / str(number)
    for name in names if (folder / integrity.CHECKSUMS).exists() else ():
        if problem := integrity.damage(folder, name):
            raise InputError(f"checkpoint {folder} is damaged: {problem}; take another step")
    trees = items.read_arrays(folder, names)
    items.check_same_arrays(folder, trees["parameters"], model.abstract_parameters)
    if weights == "momentum":
        trees["parameters"]["backbone"] = trees["momentum"]
    parameters = items.like(model.abstract_parameters, trees["parameters"])
    parameters = jax.device_put(parameters, jax.local_devices()[0])
    return Run(config, model, parameters, number, workdir, weights)


def read_config(workdir: epath.PathLike) -> ConfigDict:
    """The config that a run, or the run behind an export, was made from."""
    if is_export(workdir):
        return exported_config(workdir)
    try:
        text = (epath.Path(workdir) / "config.json").read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{workdir} holds no run (no config.json): give the --workdir of oner_jax.train"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{workdir}/config.json is damaged: {error}") from None
    except (OSError, ValueError) as error:  # a name that is too long, or cannot be one
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{workdir} cannot be read ({reason})") from None
    try:
        return configuration.from_json(text)
    except ValueError as error:
        raise InputError(f"{workdir}/config.json is damaged: {first_line(error)}") from None


def resolve_step(workdir: epath.PathLike, step: str | int) -> int:
    """The number of the finished checkpoint that `step` (a number, "last" or "best") names."""
    steps = available_steps(workdir)
    if not steps:
        raise InputError(f"{workdir} has no finished checkpoint yet")
    if step == "last" or (is_export(workdir) and step == "best"):
        return steps[-1]
    if step == "best":
        return _best_step(workdir, steps)
    if str(step).isdecimal() and int(step) in steps:
        return int(step)
    listed = ", ".join(map(str, steps))
    raise InputError(
        f'{workdir} has no checkpoint {step!r}: there are {listed}, "last", "best" and "init"'
    )


def _best_step(workdir: epath.PathLike, steps: list[int]) -> int:
    policy = CheckpointPolicy(**read_config(workdir).checkpoint)
    if not policy.best_metric:
        raise InputError(f"{workdir} was trained without checkpoint.best_metric: there is no best")
    goodness = {}
    for step in steps:
        path = epath.Path(workdir) / DIRECTORY / str(step) / "metrics" / "metrics"
        goodness[step] = policy.goodness(json.loads(path.read_text()) if path.exists() else {})
    best = max(steps, key=lambda step: goodness[step])
    if goodness[best] == -math.inf:
        raise InputError(f"no checkpoint of {workdir} has {policy.best_metric}: there is no best")
    return best
