"""An export as a run: what `oner_jax.export` wrote, read back for evaluation, use and training."""

import copy
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from oner_jax.errors import InputError
from oner_jax.files import absolute
from oner_jax.models.files import (
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    parameters_from,
    read_description,
    read_weights,
)
from oner_jax.models.pretraining import Parameters, PureModel
from oner_jax.training.checkpointing import schema as items
from oner_jax.training.storage import orbax_path

ORBAX = "orbax"


def exported_config(workdir: epath.PathLike) -> ConfigDict:
    """The config of the run that the export was made from, with the export's model and tokenizer.

    `exported` in it says which weights the export holds.
    """
    folder = epath.Path(workdir)
    description = read_description(folder)
    config: dict[str, Any] = copy.deepcopy(description["training"])
    config["model"] = description["model"]
    config["data"]["tokenizer"] = str(folder / TOKENIZER_FILE)
    config["exported"] = description["weights"]
    return ConfigDict(config).lock()


def exported_step(folder: epath.PathLike) -> int:
    """The step of the exported weights; the last one of an average."""
    return max(read_description(epath.Path(folder))["weights"]["steps"])


def exported_parameters(workdir: epath.PathLike, model: PureModel) -> Parameters:
    """Float32 parameters from `model.safetensors` or `orbax/`, whichever is there.

    Raises InputError if neither is, or if it does not fit `model`.
    """
    folder = epath.Path(workdir)
    if (folder / WEIGHTS_FILE).exists():
        return parameters_from(
            read_weights(folder / WEIGHTS_FILE), model, str(folder / WEIGHTS_FILE)
        )
    if (folder / ORBAX).is_dir():
        return read_orbax(folder / ORBAX, model)
    raise InputError(
        f"{folder} holds an export without weights of its own: add safetensors or orbax to the "
        "--format of oner_jax.export, or use what it holds as its README.md says"
    )


def write_orbax(folder: epath.PathLike, parameters: Parameters) -> None:
    """Parameters alone, as an Orbax checkpoint."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(orbax_path(folder), parameters)


def read_orbax(folder: epath.PathLike, model: PureModel) -> Parameters:
    """The inverse, as float32. Raises InputError if it is damaged or of another model."""
    path = absolute(folder)
    try:
        tree = items.read_arrays(path.parent, [path.name])[path.name]
    except Exception as error:  # whatever the libraries make of damaged files
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder} cannot be read ({reason}): copy or export it again") from None
    items.check_same_arrays(path, tree, model.abstract_parameters)
    whole = items.like(model.abstract_parameters, tree)
    return jax.tree.map(lambda x: np.asarray(x, np.float32), whole)
