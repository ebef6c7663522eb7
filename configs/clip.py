"""The plain baseline: CLIP or SigLIP. Two towers, no momentum twin, learned logit scale.

Use as `--config=configs/clip.py:SIZE[,option...]` with the sizes of `configs/oner.py` and

    sigmoid           SigLIP's loss (Zhai et al. 2023) for CLIP's softmax (Radford et al. 2021)
    data=DIR          as in configs/oner.py

Everything else (data, sizes, optimizer, schedule) is that of `configs/oner.py`.
"""

from ml_collections import ConfigDict

from configs import oner
from oner_jax.configuration import parse_recipe_argument


def get_config(argument: str = "b16") -> ConfigDict:
    """CLIP at a size of `configs/oner.py`."""
    recipe = parse_recipe_argument(
        argument, sizes=oner.SIZES, options={"data": "", "sigmoid": False}
    )
    data = f",data={recipe.options['data']}" if recipe.options["data"] else ""
    config = oner.get_config(f"{recipe.size},architecture=two_towers,terms=itc{data}")
    make_clip(config)
    if recipe.options["sigmoid"]:
        config.objective.form = "sigmoid"
        # SigLIP starts at scale 10 and bias -10: nearly every pair is a negative.
        config.objective.temperature, config.objective.logit_bias = 0.1, -10.0
    return config


def make_clip(config: ConfigDict) -> None:
    """Turn a recipe of two towers with ITC into CLIP's: what differs is set in place."""
    model, objective = config.model, config.objective
    # One linear layer to the shared space and nothing after it; the hidden width is unused.
    model.projection_layers = 1
    model.predictor_hidden_width = 0
    model.learned_logits = True
    objective.key_source = "online"
    objective.temperature = 0.07
