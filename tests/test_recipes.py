"""Every recipe of `configs/` builds, with each size and each value of each option, and trains."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath

from oner_jax.configuration import RecipeArgument, resolve_without_data
from oner_jax.models.settings import ARCHITECTURES
from oner_jax.objectives.batch import TextFormat
from oner_jax.objectives.terms import TERMS
from oner_jax.parallel.preemption import StopRequest
from oner_jax.train import train
from oner_jax.training.checkpointing.checkpoints import available_steps
from oner_jax.training.recipe import Recipe

MODULES = {
    path.stem: importlib.import_module(f"configs.{path.stem}")
    for path in sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
    if path.stem != "__init__"
}
# Values of options that take a text. An option `arm` of a recipe with ARMS takes each of them.
VALUES: dict[str, Sequence[str]] = {
    # Two towers have no view for the other terms.
    "architecture": [f"{name},terms=itc" for name in ARCHITECTURES],
    "data": ["runs/data"],
    "image_size": ["672"],
    "source": ["runs/pretrained"],
    "terms": [*TERMS, "+".join(TERMS)],
}


class _Asked(Exception):
    """What a recipe takes, in the place of a config."""

    def __init__(self, sizes: Sequence[str], options: Mapping[str, bool | str]) -> None:
        self.sizes, self.options = sizes, options


def _sizes_and_options(module: ModuleType) -> tuple[Sequence[str], Mapping[str, bool | str]]:
    def ask(argument: str, *, sizes, options) -> RecipeArgument:
        raise _Asked(sizes, options)

    with mock.patch.object(module, "parse_recipe_argument", ask), pytest.raises(_Asked) as asked:
        module.get_config()
    return asked.value.sizes, asked.value.options


def _values(module: ModuleType, option: str, default: bool | str) -> Sequence[str]:
    if isinstance(default, bool):
        return ["True", "False"]
    named = getattr(module, f"{option.upper()}S", None)
    return list(named) if named else VALUES[option]


def _arguments(module: ModuleType) -> Iterator[tuple[str, bool]]:
    """Each argument, and whether it is the first of its recipe: the smallest without options."""
    sizes, options = _sizes_and_options(module)
    yield sizes[0], True
    for size in sizes[1:]:
        yield size, False
    for option, default in options.items():
        for value in _values(module, option, default):
            # A switch may be for the second size, as oner.py's `long` is for `demo`.
            for size in sizes[: 2 if isinstance(default, bool) else 1]:
                yield f"{size},{option}={value}", False


CASES = [
    pytest.param(
        name, argument, id=f"{name}-{argument}", marks=() if first else (pytest.mark.slow,)
    )
    for name, module in MODULES.items()
    for argument, first in _arguments(module)
]


def _build(name: str, argument: str) -> Recipe:
    config = MODULES[name].get_config(argument)
    config.mesh.fsdp = 1  # a pod has more devices than there are here
    config = resolve_without_data(config)
    return Recipe.from_config(config, TextFormat.synthetic(config.model.vocabulary_size))


@pytest.mark.parametrize(("name", "argument"), [(*case.values,) for case in CASES])
def test_every_recipe_builds(name, argument):
    _build(name, argument)


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_the_step_of_every_recipe_can_be_traced(name, argument):
    recipe = _build(name, argument)
    state, metrics = jax.eval_shape(recipe.step, recipe.abstract, recipe.abstract_batch())
    assert "loss" in metrics
    before, after = (
        jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (recipe.abstract, state)
    )
    assert before == after


def _trained() -> Iterator[object]:
    """`tiny` of each recipe, and with each of its switches on."""
    for name, module in MODULES.items():
        sizes, options = _sizes_and_options(module)
        switches = [f",{option}" for option, default in options.items() if default is False]
        for argument in (f"tiny{switch}" for switch in ("", *switches) if "tiny" in sizes):
            yield pytest.param(name, argument, id=f"{name}-{argument}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "argument"), _trained())
def test_the_smallest_size_of_every_recipe_trains(name, argument, tmp_path):
    config = MODULES[name].get_config(argument)
    config.total_steps, config.log_interval_steps = 2, 1
    config.checkpoint.interval_steps = 2
    config.evaluation.interval_steps = 0
    config.checkpoint.best_metric = ""
    config.compilation_cache = ""
    state = train(config, epath.Path(tmp_path), StopRequest())
    assert int(state.step) == 2
    assert available_steps(tmp_path) == [2]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
