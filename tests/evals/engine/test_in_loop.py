"""Evaluation between two steps: what the program measures of a checkpoint of that step."""

from pathlib import Path

import pytest
from etils import epath

from oner_jax.errors import InputError
from oner_jax.evals.engine import checkpoints
from oner_jax.evals.engine.evaluation import Request, measure
from oner_jax.evals.engine.in_loop import InLoop
from oner_jax.evals.engine.suite import Origin
from oner_jax.training.checkpointing.checkpoints import Checkpoints, read_config
from oner_jax.training.checkpointing.policy import CheckpointPolicy
from oner_jax.training.recipe import Recipe
from tests.evals.runs import recipe_of, tiny_config, tiny_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("run"))


def evaluated(workdir: Path, **evaluation: object) -> Recipe:
    """The run's recipe with this evaluation asked for."""
    config = tiny_config(read_config(workdir).data.train).unlock()
    config.evaluation = {"interval_steps": 2, "tasks": ("retrieval", "zeroshot"), **evaluation}
    return recipe_of(config)


def test_its_cells_are_those_of_the_checkpoint(workdir, tmp_path, monkeypatch):
    recipe = evaluated(workdir)
    evaluates = InLoop(recipe, epath.Path(workdir), Origin("train"))
    due = [step for step in range(1, recipe.config.total_steps + 1) if evaluates.due(step)]
    assert due == list(range(2, recipe.config.total_steps + 1, 2))
    request = Request([workdir], steps=["5"], tasks=["retrieval", "zeroshot"], untrained=False)
    (apart,) = measure(Request(**{**vars(request), "out": tmp_path / "apart"})).own
    with Checkpoints(workdir, CheckpointPolicy(interval_steps=1, keep=9)) as saved:
        state, _ = saved.restore(5, recipe.abstract)
    beats: list[None] = []
    logged = evaluates(5, state, lambda: beats.append(None))
    assert len(beats) >= 4  # texts and pictures of both weights

    def refuse(*arguments, **options):
        raise AssertionError("loaded a model although every cell is there")

    monkeypatch.setattr(checkpoints, "load_run", refuse)
    (column,) = measure(request).own
    for task, cell in column.cells["toys"].items():
        for space in ("projected", "backbone", "momentum"):
            beside = apart.cells["toys"][task].measurements(space)
            own = cell.measurements(space)
            assert own.keys() == beside.keys()
            for name, measurement in own.items():
                assert measurement.value == pytest.approx(beside[name].value, abs=1e-5)
        for name, measurement in cell.measurements("projected").items():
            assert logged[f"eval/{task}/toys/{name}"] == measurement.value


def test_an_unknown_task_is_refused_before_training(workdir):
    with pytest.raises(InputError, match=r"evaluation.tasks: there is no 'retreival'"):
        InLoop(evaluated(workdir, tasks=("retreival",)), epath.Path(workdir), Origin())
