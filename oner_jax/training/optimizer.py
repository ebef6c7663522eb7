"""AdamW with weight decay by parameter path."""

import re
from typing import Any

import jax
import optax
from jaxtyping import Array, Int

from oner_jax.parallel.mesh import path_name

# docs/method.md: no decay on 1-D parameters, tokens and positions. The stacked tower gives its 1-D
# parameters a leading layer axis, so the names tell, not the rank.
NO_DECAY = r"(bias|scale|_token|_positions|type_embedding)$"


def decay_mask(parameters: Any) -> Any:
    """True where weight decay applies."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: re.search(NO_DECAY, path_name(path)) is None, parameters
    )


def applied_updates(optimizer_state: Any) -> Int[Array, ""]:
    """How many updates were made: where in its schedule the learning rate stands."""
    # Adam's bias correction and the schedule count the same updates.
    return optax.tree.get_all_with_path(optimizer_state, "count")[0][1]


def make_optimizer(
    learning_rate: optax.Schedule,
    *,
    beta_1: float,
    beta_2: float,
    weight_decay: float,
    clip_norm: float,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """AdamW after clipping the gradient's global norm (docs/method.md, Objectives)."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(
            learning_rate,
            b1=beta_1,
            b2=beta_2,
            eps=epsilon,
            weight_decay=weight_decay,
            mask=decay_mask,
        ),
    )
