"""What a sweep is: named runs, each over several seeds. `launch/sweep.py` runs it.

A sweep file is a Python file with `get_sweep(argument) -> Sweep`. The ladder of `configs/ladder.py`
is one; a plain grid is

    def get_sweep(argument: str) -> Sweep:
        return grid("configs/oner.py:demo", {"objective.temperature": (0.07, 0.1, 0.2)})
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from oner_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Trial:
    """One arm: a recipe as `--config` takes it and the keys that are set on top of it.

    `name` is its folder, `label` what tables call it (default: the name).
    """

    name: str
    recipe: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.=,-]+", self.name) or self.name.startswith("."):
            raise InputError(f"a trial is called {self.name!r}: its name must do for a folder")

    def arguments(self, seed: int | str) -> list[str]:
        """The arguments of `oner_jax.train` for one seed."""
        overrides = {**self.overrides, "seed": seed}
        return [
            f"--config={self.recipe}",
            *(f"--config.{key}={value}" for key, value in overrides.items()),
        ]


@dataclasses.dataclass(frozen=True)
class Look:
    """One more evaluation of a trial: `tasks` on `dataset` at a checkpoint, of the first seed."""

    trial: str
    tasks: tuple[str, ...]
    dataset: str
    step: int | str = "last"
    every_seed: bool = False


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Trials, the seeds that each is run with, and how they are measured.

    `tasks` are those of `oner_jax.evaluate`, at the last checkpoint; `looks` come on top. `report`
    names what is written when runs end: "table" for means and spreads of every metric, "ladder"
    for these and the verdicts and figures of the ladder.
    """

    trials: tuple[Trial, ...]
    seeds: tuple[int, ...] = (0,)
    tasks: tuple[str, ...] = ("retrieval", "zeroshot", "geometry")
    looks: tuple[Look, ...] = ()
    report: str = "table"

    def __post_init__(self) -> None:
        names = [trial.name for trial in self.trials]
        if not names or len(set(names)) < len(names) or not self.seeds:
            raise InputError("a sweep needs trials of different names and at least one seed")


def grid(recipe: str, values: Mapping[str, Sequence[Any]], *, seeds: Sequence[int] = (0,)) -> Sweep:
    """Every combination of `values` (config keys) on top of one recipe."""
    trials = []
    for combination in itertools.product(*values.values()):
        overrides = dict(zip(values, combination, strict=True))
        name = ",".join(f"{key.split('.')[-1]}={value}" for key, value in overrides.items())
        trials.append(Trial(name, recipe, overrides))
    return Sweep(tuple(trials), tuple(seeds))
