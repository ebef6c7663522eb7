"""A run of the `tiny` recipe as training would have left it, without training."""

from pathlib import Path

import jax

from oner_jax import configuration
from oner_jax.training.checkpointing.checkpoints import Checkpoints
from oner_jax.training.checkpointing.policy import CheckpointPolicy
from oner_jax.training.step import TrainState
from tests.data.samples import record, write_split
from tests.evals.runs import recipe_of, tiny_config

PICTURES = 12


def write_run(folder: Path, *, argument: str = "tiny", steps: tuple[int, ...] = (10, 20)) -> Path:
    """Checkpoints of random weights, different ones at every step and in the momentum twin.

    Evaluation is of `PICTURES` small pictures beside the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    split = write_split(folder / "pictures", [record(number) for number in range(PICTURES)])
    config = tiny_config(split, argument, depth=2)
    recipe = recipe_of(config)
    (folder / "config.json").write_text(configuration.to_json(config))
    start = recipe.init_state()
    with Checkpoints(folder, CheckpointPolicy(**config.checkpoint)) as checkpoints:
        for step in steps:
            checkpoints.save(step, _moved(start, step), {"step": step})
    return folder


def _moved(state: TrainState, step: int) -> TrainState:
    """Random everywhere, also where training starts from zeros and ones."""

    def noisy(tree, seed: int):
        leaves, structure = jax.tree.flatten(tree)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        moved = [
            leaf + 0.1 * jax.random.normal(key, leaf.shape)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, moved)

    return state._replace(
        parameters=noisy(state.parameters, step), momentum=noisy(state.momentum, step + 1)
    )
