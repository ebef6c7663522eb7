"""Recipes: reading `--config`, saying clearly what is wrong with it, saving it.

A recipe is an ml_collections file with `get_config(argument)`. The config is locked: an unknown
key is an error that names the nearest valid one.
"""

import dataclasses
import difflib
import fnmatch
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from oner_jax.errors import InputError
from oner_jax.files import is_remote


@dataclasses.dataclass(frozen=True)
class RecipeArgument:
    """`SIZE[,option[=value]...]` after the colon of `--config=FILE:...`, parsed."""

    size: str
    options: dict[str, bool | str]


def parse_recipe_argument(
    argument: str, *, sizes: Sequence[str], options: Mapping[str, bool | str]
) -> RecipeArgument:
    """Read a recipe's argument; `options` gives the known options and their defaults.

    An option whose default is a bool is a switch, any other takes a text.

    Raises InputError for an unknown size or option, naming the valid ones.
    """
    size, *switches = [part.strip() for part in argument.split(",")]
    if size not in sizes:
        raise InputError(
            f"unknown size {size!r}{nearest(size, sizes)}: sizes are {', '.join(sizes)}"
        )
    chosen = dict(options)
    for switch in switches:
        name, _, value = switch.partition("=")
        if name not in options:
            raise InputError(
                f"unknown recipe option {name!r}{nearest(name, options)}: "
                f"options are {', '.join(options)}"
            )
        if not isinstance(options[name], bool):
            chosen[name] = value
        elif value.lower() in ("", "true", "false"):
            chosen[name] = value.lower() != "false"
        else:
            raise InputError(f"recipe option {name}={value!r} must be True or False")
    return RecipeArgument(size, chosen)


def nearest(name: str, valid: Sequence[str] | Mapping[str, Any]) -> str:
    """` (did you mean X?)` for the closest valid name, or nothing."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(`model.width`, value) for every leaf."""
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and len(value):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_json(config: ConfigDict) -> str:
    """The resolved config, as saved in a workdir."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """Inverse of `to_json`. Raises ValueError for anything else."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return ConfigDict(found).lock()


def use_compilation_cache(folder: str) -> None:
    """Keep compiled programs in `folder`, so that continuing or evaluating compiles once.

    JAX_COMPILATION_CACHE_DIR, where it is set, comes first: it speaks of this machine.
    """
    if not folder or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        place = folder if is_remote(folder) else str(Path(folder).expanduser())
    except RuntimeError:
        print(
            f"compilation_cache={folder}: there is no home folder here, so nothing is kept; give "
            "another folder, or none",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", place)


# From where to where numbers make sense, both included. Settings that belong together are checked
# where they are used.
RANGES = {
    "accumulation_steps": (1, math.inf),
    "batch_size": (1, math.inf),
    "data.augment.colour_*": (0, 1),
    "data.augment.grey_fraction": (0, 1),
    "data.augment.rotation_degrees": (0, 180),
    "data.augment.scale": (0, 1),
    "data.augment.shift": (0, 1),
    "data.crop_min_fraction": (1e-3, 1),
    "data.maximum_damaged_fraction": (0, 1),
    "data.mosaic_fraction": (0, 1),
    "data.threads": (0, 4096),
    "evaluation.interval_steps": (0, math.inf),
    "log_interval_steps": (1, math.inf),
    "momentum.*": (0, 1),
    "objective.weights.*": (0, 1e9),
    "optimizer.beta_?": (0, 0.99999),
    "optimizer.clip_norm": (1e-9, math.inf),
    "optimizer.*learning_rate*": (0, 1e9),
    "optimizer.warmup_fraction": (0, 1),
    "optimizer.weight_decay": (0, 1e9),
    "seed": (0, 2**32 - 1),  # random keys take no more
    "total_epochs": (0, 1e9),
    "total_steps": (0, 1e12),
}


def check_ranges(config: ConfigDict) -> None:
    """Raise InputError at the first number that is outside of `RANGES`; nan is outside of all."""
    for name, value in flatten(config):
        for pattern, (least, most) in RANGES.items():
            if fnmatch.fnmatch(name, pattern) and not least <= value <= most:
                bounds = f"from {least:g} to {most:g}" if most < math.inf else f"at least {least:g}"
                raise InputError(f"{name}={value} must be {bounds}")


def resolve(config: ConfigDict, *, training_records: int, vocabulary_size: int) -> ConfigDict:
    """Fill in what depends on the data: the number of steps and of sub-words.

    Raises InputError where the config contradicts the data or itself.
    """
    check_ranges(config)
    if (config.total_steps > 0) == (config.total_epochs > 0):
        raise InputError(
            f"total_steps={config.total_steps} and total_epochs={config.total_epochs}: "
            "set one of them above 0 and the other to 0"
        )
    if config.model.vocabulary_size not in (0, vocabulary_size):
        raise InputError(
            f"model.vocabulary_size={config.model.vocabulary_size} but the tokenizer "
            f"{config.data.tokenizer} has {vocabulary_size}: set it to 0 to take the tokenizer's"
        )
    resolved = config.copy_and_resolve_references()
    with resolved.unlocked():
        if config.total_epochs > 0:
            steps = config.total_epochs * training_records / config.batch_size
            resolved.total_steps = max(1, round(steps))
        resolved.model.vocabulary_size = vocabulary_size
    return resolved.lock()


# Sub-words of a planned or benchmarked model whose recipe leaves them to its tokenizer.
SYNTHETIC_VOCABULARY = 32_000


def resolve_without_data(config: ConfigDict) -> ConfigDict:
    """As `resolve` for benchmarks and plans, which have neither data nor a tokenizer.

    A vocabulary of 0 becomes SYNTHETIC_VOCABULARY; the run's length is any, it costs nothing.
    Raises InputError where a number makes no sense.
    """
    check_ranges(config)
    resolved = config.copy_and_resolve_references()
    with resolved.unlocked():
        resolved.model.vocabulary_size = config.model.vocabulary_size or SYNTHETIC_VOCABULARY
        resolved.total_steps = config.total_steps or 1_000_000
        resolved.total_epochs = 0.0
    return resolved.lock()
