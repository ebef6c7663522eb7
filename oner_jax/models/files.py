"""A model as files that anyone can read: `model.safetensors` and `config.json`.

Names of arrays are the parameter tree's, joined by dots, with a tower's layers numbered from 0
wherever the program keeps them: `backbone.tower.layers.3.mlp.expand.kernel`. The model card that an
export holds (`exporting/model_card.md`) says what to compute with them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from oner_jax.errors import InputError
from oner_jax.models.pretraining import Parameters, PureModel
from oner_jax.parallel.mesh import path_name

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.model"

FORMAT = "oner_jax"
FORMAT_VERSION = 1

# Where a tower keeps its layers, stacked on a leading axis: all but the last, and the last.
_STACKED = re.compile(r"(.*)/(blocks|last_block)/(.*)")
_SHOWN_NAMES = 3
# By the name in a file. The library's own reader for NumPy does not know the second.
_DTYPES = {"F32": np.dtype(np.float32), "BF16": jnp.dtype("bfloat16")}


def named_arrays(parameters: Parameters) -> dict[str, np.ndarray]:
    """Every array by its name in a file; a tower's layers apart."""
    leaves = jax.tree.leaves(parameters)
    named: dict[str, np.ndarray] = {}
    for (names, stacked), leaf in zip(_names(parameters), leaves, strict=True):
        array = np.asarray(leaf)
        named |= zip(names, array if stacked else [array], strict=True)
    return named


def parameters_from(named: Mapping[str, np.ndarray], model: PureModel, source: str) -> Parameters:
    """The inverse of `named_arrays`, for a model of these shapes; arrays become float32.

    Raises InputError, naming `source`, if an array is missing, is of another shape or belongs to no
    part of the model.
    """
    abstract = model.abstract_parameters
    leaves, tree = jax.tree.flatten(abstract)
    places = list(_names(abstract))
    known = [name for names, _ in places for name in names]
    for problem, wrong in (
        ("lacks", sorted(set(known) - named.keys())),
        ("has, for no part of the model,", sorted(named.keys() - set(known))),
    ):
        if wrong:
            more = f" and {len(wrong) - _SHOWN_NAMES} more" if len(wrong) > _SHOWN_NAMES else ""
            raise InputError(
                f"{source} {problem} {', '.join(wrong[:_SHOWN_NAMES])}{more}: it does not belong "
                f"to its {CONFIG_FILE}; export the model again"
            )
    arrays = []
    for (names, stacked), leaf in zip(places, leaves, strict=True):
        expected = leaf.shape[1:] if stacked else leaf.shape
        for name in names:
            if named[name].shape != expected:
                raise InputError(
                    f"{source}: {name} is of shape {named[name].shape}, but {CONFIG_FILE} "
                    f"describes {expected}; export the model again"
                )
        parts = [np.asarray(named[name], leaf.dtype) for name in names]
        arrays.append(np.stack(parts) if stacked else parts[0])
    return jax.tree.unflatten(tree, arrays)


def _names(parameters: Parameters) -> Iterator[tuple[list[str], bool]]:
    """Of each leaf, in order: the names of its rows (one for each layer) or its own, and which."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parameters)
    paths = [(path_name(path), leaf) for path, leaf in leaves]
    before_last = {
        match[1]: leaf.shape[0]
        for path, leaf in paths
        if (match := _STACKED.fullmatch(path)) and match[2] == "blocks"
    }
    for path, leaf in paths:
        match = _STACKED.fullmatch(path)
        if match is None:
            yield [_dotted(path)], False
            continue
        tower, kind, rest = match.groups()
        first = before_last.get(tower, 0) if kind == "last_block" else 0
        layers = range(first, first + leaf.shape[0])
        yield [_dotted(f"{tower}/layers/{layer}/{rest}") for layer in layers], True


def _dotted(path: str) -> str:
    return path.replace("/", ".")


def write_weights(path: epath.PathLike, named: Mapping[str, np.ndarray], dtype: str) -> None:
    """A safetensors file of these arrays, rounded to `dtype`."""
    rounded = {
        name: np.array(array, jnp.dtype(dtype), order="C") for name, array in sorted(named.items())
    }
    # Not `save_file`, whose files nobody but their owner may read.
    epath.Path(path).write_bytes(save(rounded, metadata={"format": "np"}))


def read_weights(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises InputError if it is none, or not whole."""
    try:
        entries = deserialize(epath.Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): copy or export it again") from None
    if other := {entry["dtype"] for _, entry in entries} - _DTYPES.keys():
        raise InputError(f"{path} holds {', '.join(sorted(other))}: give {' or '.join(_DTYPES)}")
    return {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries
    }


def is_export(folder: epath.PathLike) -> bool:
    """Whether `folder` holds what `oner_jax.export` wrote."""
    try:
        return json.loads((epath.Path(folder) / CONFIG_FILE).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def read_description(folder: epath.PathLike) -> dict[str, Any]:
    """The `config.json` of an export. Raises InputError if this program cannot read its version."""
    description = json.loads((epath.Path(folder) / CONFIG_FILE).read_text())
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{folder} is of format version {version}, but this program reads {FORMAT_VERSION}: "
            "export the model again"
        )
    return description
