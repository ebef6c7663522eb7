"""Checkpoints: Orbax, asynchronous, atomic; parameters, twin, optimizer and data position apart.

Items are saved side by side, so that evaluation and export read the parameters alone.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from oner_jax import configuration
from oner_jax.errors import InputError
from oner_jax.models.pretraining import Parameters, PureModel
from oner_jax.models.settings import ModelSettings
from oner_jax.training.step import TrainState

ARRAYS = ("parameters", "momentum", "optimizer")
POSITION = "position"
DIRECTORY = "checkpoints"


class Checkpoints:
    """The checkpoints of one run. Use as a context manager: leaving it waits for the last save."""

    def __init__(self, workdir: str | Path, *, interval_steps: int, keep: int):
        self._interval_steps = interval_steps
        self._manager = ocp.CheckpointManager(
            Path(workdir).resolve() / DIRECTORY,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                enable_async_checkpointing=True,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether the interval asks for a checkpoint at `step`."""
        return step % self._interval_steps == 0

    def save(self, step: int, state: TrainState, position: Mapping[str, Any]) -> None:
        """Save `state` and the data position in the background, unless `step` is there already."""
        if self._manager.latest_step() == step:
            return
        items: dict[str, Any] = {
            name: ocp.args.StandardSave(arrays) for name, arrays in _arrays(state).items()
        }
        items[POSITION] = ocp.args.JsonSave(dict(position))
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State with the shapes and shardings of `abstract`, and the data position."""
        items: dict[str, Any] = {
            name: ocp.args.StandardRestore(arrays) for name, arrays in _arrays(abstract).items()
        }
        items[POSITION] = ocp.args.JsonRestore()
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        step_array = jax.device_put(np.int32(step), abstract.step.sharding)
        arrays = {name: restored.get(name, {}) for name in ARRAYS}
        return TrainState(step_array, **arrays), restored[POSITION]


def _arrays(state: TrainState) -> dict[str, Any]:
    """The state's trees by name; a momentum twin that is not there is left out."""
    trees = {name: getattr(state, name) for name in ARRAYS}
    return {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}


def has_twin(config: ConfigDict) -> bool:
    """Whether a run of this config keeps a momentum twin."""
    return config.objective.key_source == "momentum"


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained (or, at step "init", untrained) model with the config it was made from."""

    config: ConfigDict
    model: PureModel
    parameters: Parameters
    step: int
    workdir: Path


def available_steps(workdir: str | Path) -> list[int]:
    """Steps of finished checkpoints, ascending."""
    directory = Path(workdir) / DIRECTORY
    if not directory.is_dir():
        return []
    return sorted(ocp.utils.checkpoint_steps(directory.resolve()))


def load_run(workdir: str | Path, step: str | int = "last", weights: str = "online") -> Run:
    """Load the model of a run for use.

    `step` is a number, "last", or "init" for fresh weights from the run's seed. `weights` is
    "online" or "momentum" (the twin's backbone under the online heads). Raises InputError where
    there is no such run or checkpoint, naming what there is.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    model = PureModel(ModelSettings.from_config(config.model))
    if step == "init":
        return Run(config, model, jax.jit(model.init)(jax.random.key(config.seed)), 0, workdir)
    number = _resolve_step(workdir, step)
    items = {"parameters": model.abstract_parameters}
    if weights == "momentum" and not has_twin(config):
        raise InputError(f"{workdir} was trained without a momentum twin: use its online weights")
    if weights == "momentum":
        items["momentum"] = model.abstract_parameters["backbone"]
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), items
    )
    # One process of several may load a run, without the others.
    process = jax.process_index()
    options = ocp.CheckpointManagerOptions(
        create=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=process,
            active_processes={process},
            barrier_sync_key_prefix=f"load_{process}",
        ),
    )
    with ocp.CheckpointManager(workdir.resolve() / DIRECTORY, options=options) as manager:
        restored = manager.restore(
            number,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
            ),
        )
    parameters = dict(restored["parameters"])
    if weights == "momentum":
        parameters["backbone"] = restored["momentum"]
    return Run(config, model, parameters, number, workdir)


def read_config(workdir: Path) -> ConfigDict:
    """The config that a run was made from."""
    try:
        return configuration.from_json((workdir / "config.json").read_text())
    except FileNotFoundError:
        raise InputError(
            f"{workdir} holds no run (no config.json): give the --workdir of oner_jax.train"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{workdir}/config.json is damaged: {error}") from None


def _resolve_step(workdir: Path, step: str | int) -> int:
    steps = available_steps(workdir)
    if not steps:
        raise InputError(f"{workdir} has no finished checkpoint yet")
    if step == "last":
        return steps[-1]
    if str(step).isdigit() and int(step) in steps:
        return int(step)
    raise InputError(f"{workdir} has no checkpoint {step!r}: there are {_listed(steps)}")


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) + ', and "last" and "init"'
