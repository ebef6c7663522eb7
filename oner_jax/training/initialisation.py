"""The weights that a fresh run begins with, from elsewhere: `config.initialise`.

A source is a run of ours (its workdir, or one of its checkpoints), an export of one, or a ViT
(`vit_layouts`). Its arrays are found by name; position tables are resampled to the model's grid.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float
from ml_collections import ConfigDict

from oner_jax.configuration import nearest
from oner_jax.errors import InputError
from oner_jax.files import Access, absolute, reaching, usable
from oner_jax.models import inputs
from oner_jax.models.files import is_export
from oner_jax.models.pretraining import PureModel
from oner_jax.parallel.mesh import path_name
from oner_jax.training.checkpointing import schema as items
from oner_jax.training.checkpointing.checkpoints import DIRECTORY, load_run, resolve_step
from oner_jax.training.step import TrainState
from oner_jax.training.vit_layouts import Arrays, read_vit

POSITIONS = "backbone/inputs/image_positions"


class Initialised(NamedTuple):
    """Arrays for some of the model's parameters, by name, and a line on each that differs from the
    source or is not taken from it."""

    arrays: Arrays
    notes: list[str]
    fresh: list[str]


def initialise(state: TrainState, model: PureModel, config: ConfigDict) -> tuple[TrainState, str]:
    """`state` of step 0 with what `config` (`initialise`) names, and what was loaded and what not.

    The momentum twin, where there is one, is a copy again. Every process reads the source. Raises
    InputError where an array does not fit, unless it is skipped.
    """
    if not config.source:
        return state, ""
    found = find_weights(model, config)

    def place(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        array = found.arrays.get(path_name(path))
        if array is None:
            return leaf
        values = np.asarray(array, leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])

    parameters = jax.tree_util.tree_map_with_path(place, state.parameters)
    momentum = state.momentum
    if jax.tree.leaves(momentum):
        places = jax.tree.map(lambda leaf: leaf.sharding, momentum)
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places)
        momentum = copy(parameters["backbone"])
    sizes = {name: leaf.size for name, leaf in items.by_name(state.parameters).items()}
    loaded = sum(sizes[name] for name in found.arrays)
    lines = [
        f"initialised {len(found.arrays)} of {len(sizes)} arrays, "
        f"{loaded / sum(sizes.values()):.1%} of the parameters, from {config.source}",
        *(f"  {note}" for note in found.notes),
        *(f"  left fresh: {name}" for name in found.fresh),
    ]
    return state._replace(parameters=parameters, momentum=momentum), "\n".join(lines)


def find_weights(model: PureModel, config: ConfigDict) -> Initialised:
    """What the source has for `model`: renamed, skipped and resampled as `config` says."""
    wanted = items.by_name(model.abstract_parameters)
    source = usable(config.source, Access.STORE)
    with reaching(source):
        arrays, unused = _read_source(epath.Path(source), model)
    notes = [f"not used: {name}: a ViT's alone" for name in unused]
    rename = _renaming(config.rename, list(arrays))
    skip = _pattern(config.skip, "skip")
    for pattern in skip:
        _require_match(pattern, "skip", [*wanted, *map(rename, arrays)])
    taken: Arrays = {}
    problems = []
    for given, array in arrays.items():
        name = rename(given)
        shown = name if name == given else f"{given} as {name}"
        if name not in wanted:
            notes.append(f"not used: {shown}: the model has no such array")
        elif any(pattern.search(name) for pattern in skip):
            notes.append(f"not used: {shown}: initialise.skip")
        else:
            shape = tuple(wanted[name].shape)
            if name == POSITIONS and array.shape != shape and array.shape[1:] == shape[1:]:
                notes.append(f"resampled: {shown}: {len(array)} to {shape[0]} positions")
                array = resample_positions(array, shape[0], config.resampling)
            if array.shape != shape:
                problems.append(f"{shown} is {array.shape} there and {shape} here")
            taken[name] = array
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(
            f"initialise.source={config.source} does not fit: {problems[0]}{more}; choose the same "
            "model settings, or leave such arrays out by initialise.skip"
        )
    if not taken:
        raise InputError(
            f"initialise.source={config.source} has none of the model's arrays "
            f"({next(iter(wanted))}, ...) but {', '.join(list(arrays)[:3])}, ...: see "
            "initialise.rename"
        )
    fresh = [name for name in wanted if name not in taken]
    return Initialised(taken, notes, fresh)


def resample_positions(
    table: Float[np.ndarray, "before width"], number: int, method: str
) -> Float[np.ndarray, "{number} width"]:
    """Interpolate a square table of positions to `number` places ("bicubic" or "bilinear").

    Raises InputError for another method and for tables that are not squares.
    """
    if method not in ("bicubic", "bilinear"):
        raise InputError(f"initialise.resampling={method!r} must be 'bicubic' or 'bilinear'")
    before, after = round(len(table) ** 0.5), round(number**0.5)
    if before**2 != len(table) or after**2 != number:
        raise InputError(f"positions of {len(table)} and {number} patches: both must be squares")
    return np.asarray(inputs.resample_positions(jnp.asarray(table, jnp.float32), number, method))


def _read_source(source: epath.Path, model: PureModel) -> tuple[Arrays, list[str]]:
    """Arrays by names of ours, and names of what a ViT has and ours has not."""
    if source.suffix in (".npz", ".safetensors") and source.exists():
        return _read_vit(source, model)
    if is_export(source):
        parameters = jax.tree.map(np.asarray, load_run(source).parameters)
        return items.by_name(parameters), []
    if (source / "parameters").is_dir():
        folder = source
    elif (source / DIRECTORY).is_dir():
        folder = source / DIRECTORY / str(resolve_step(source, "last"))
    elif (source / "model.safetensors").exists():
        return _read_vit(source / "model.safetensors", model)
    else:
        raise InputError(
            f"initialise.source={source} is no workdir, no checkpoint (WORKDIR/checkpoints/STEP), "
            "no export, "
            "and no .npz or .safetensors file"
        )
    return items.by_name(items.read_arrays(absolute(folder), ["parameters"])["parameters"]), []


def _read_vit(path: epath.Path, model: PureModel) -> tuple[Arrays, list[str]]:
    arrays, unused = read_vit(path, model.settings.heads)
    towers = [
        name for name in ("tower", "image_tower") if name in model.abstract_parameters["backbone"]
    ]
    tower = f"backbone/{towers[0]}"
    named: Arrays = {}
    for name, array in arrays.items():
        if name.startswith("tower/blocks/"):
            rest = name.removeprefix("tower/blocks/")
            # The last layer stands apart; one layer alone is the last.
            if len(array) > 1:
                named[f"{tower}/blocks/{rest}"] = array[:-1]
            named[f"{tower}/last_block/{rest}"] = array[-1:]
        elif name.startswith("tower/"):
            named[f"{tower}/{name.removeprefix('tower/')}"] = array
        else:
            named[f"backbone/{name}"] = array
    return named, unused


def _renaming(rules: Any, names: list[str]) -> Callable[[str], str]:
    """The rules "REGEX=>REPLACEMENT", each applied to a name in turn.

    Raises InputError where one changes none of `names`, as those before it have left them.
    """
    parsed = []
    for rule in rules:
        pattern, arrow, replacement = rule.partition("=>")
        if not arrow:
            raise InputError(f"initialise.rename has {rule!r}: write 'REGEX=>REPLACEMENT'")
        compiled = _pattern([pattern], "rename")[0]
        _require_match(compiled, "rename", names)
        try:
            names = [compiled.sub(replacement, name) for name in names]
        except re.error as error:
            raise InputError(f"initialise.rename has {replacement!r}: {error}") from None
        parsed.append((compiled, replacement))

    def rename(name: str) -> str:
        for pattern, replacement in parsed:
            name = pattern.sub(replacement, name)
        return name

    return rename


def _require_match(pattern: re.Pattern[str], key: str, names: list[str]) -> None:
    if not any(map(pattern.search, names)):
        raise InputError(
            f"initialise.{key} has {pattern.pattern!r}, which matches no array"
            f"{nearest(pattern.pattern, names)}: there are {', '.join(names[:3])}, ..."
        )


def _pattern(patterns: Any, key: str) -> list[re.Pattern[str]]:
    try:
        return [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise InputError(f"initialise.{key} has {error.pattern!r}: {error}") from None
