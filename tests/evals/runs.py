"""A run of the smallest recipe with two checkpoints, as training would leave it."""

from collections.abc import Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from configs.oner import get_config
from oner_jax import configuration
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.objectives.batch import TextFormat
from oner_jax.training.checkpointing.checkpoints import Checkpoints
from oner_jax.training.checkpointing.policy import CheckpointPolicy
from oner_jax.training.recipe import Recipe
from tests.data.samples import record, write_split

# ConfigDict is a mapping in all but name; signatures that ask for one are checked in tests.
Mapping.register(ConfigDict)


def tiny_run(folder: Path) -> Path:
    """The `tiny` recipe on twelve pictures: at step 3 as it started, at step 5 moved from there."""
    split = write_split(folder / "pictures", [record(number) for number in range(12)])
    config = tiny_config(split)
    recipe = recipe_of(config)
    (folder / "config.json").write_text(configuration.to_json(config))
    with Checkpoints(folder, CheckpointPolicy(**config.checkpoint)) as saved:
        state = recipe.init_state()
        saved.save(3, state, {"step": 3})
        moved = jax.tree.map(lambda x: x + 0.05 * jax.numpy.sin(17 * x), state.parameters)
        saved.save(5, state._replace(parameters=moved), {"step": 5})
    return folder


def recipe_of(config: ConfigDict) -> Recipe:
    tokenizer = Tokenizer.load(config.data.tokenizer)
    return Recipe.from_config(config, TextFormat(tokenizer.mask_id, tokenizer.word_start))


def tiny_config(split: str, argument: str = "tiny", depth: int = 1) -> ConfigDict:
    """The config of that run on a split."""
    config = get_config(argument)
    with config.unlocked():
        config.model.depth = depth
        config.data.train = split
        config.data.evaluation = {"toys": split}
        config.compilation_cache = ""
    vocabulary_size = Tokenizer.load(config.data.tokenizer).vocabulary_size
    return configuration.resolve(config, training_records=12, vocabulary_size=vocabulary_size)
