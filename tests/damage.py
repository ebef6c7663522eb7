"""Damage to order, which nothing in oner_jax can be asked for."""

import jax.numpy as jnp

from oner_jax.objectives.batch import Batch
from oner_jax.objectives.objective import Objective


class Breakable(Objective):
    """Every term is NaN, and so is its gradient, for a batch of white pictures."""

    def totals(self, batch):
        poison = jnp.where((batch.image == 255).all(), jnp.nan, 1.0)
        return {name: poison * total for name, total in super().totals(batch).items()}


def broken(batch: Batch) -> Batch:
    """The batch on which a `Breakable` breaks."""
    return batch._replace(image=jnp.full_like(batch.image, 255))


def mismatched(batch: Batch) -> Batch:
    """Every picture with another one's caption."""
    return batch._replace(image=jnp.roll(batch.image, 1, axis=0))
