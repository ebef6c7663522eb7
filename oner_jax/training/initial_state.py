"""The state that a run begins with, continues from or goes back to."""

from typing import Any

from oner_jax.parallel import distributed
from oner_jax.training.checkpointing.checkpoints import Checkpoints
from oner_jax.training.initialisation import initialise
from oner_jax.training.recipe import Recipe
from oner_jax.training.step import TrainState


def state_at(
    step: int | None, recipe: Recipe, checkpoints: Checkpoints
) -> tuple[TrainState, dict[str, Any]]:
    """The state of the checkpoint of `step`, and where its run stood in the data.

    None stands for the beginning: fresh weights, or what `config.initialise` names, and no
    position. A checkpoint of a revision without guards gets a guard that has seen nothing.
    """
    if step is not None:
        return checkpoints.restore(step, recipe.abstract, {"guard": recipe.init_guard()})
    state, said = initialise(recipe.init_state(), recipe.model, recipe.config.initialise)
    if said and distributed.is_main():
        print(said, flush=True)
    return state, {}
