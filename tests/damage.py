"""Damage to order, which nothing in oner_jax can be asked for."""

import jax.numpy as jnp

from oner_jax.objectives.batch import Batch
from oner_jax.objectives.objective import Objective


class Breakable(Objective):
    """Every term, and with it its gradient, is NaN for white pictures and huge for black ones."""

    def totals(self, batch):
        white, black = (batch.image == 255).all(), (batch.image == 0).all()
        factor = jnp.where(white, jnp.nan, jnp.where(black, 1e-3, 1.0))
        return {name: factor * total for name, total in super().totals(batch).items()}


def broken(batch: Batch) -> Batch:
    """A batch on which a `Breakable` gives no number."""
    return batch._replace(image=jnp.full_like(batch.image, 255))


def spiking(batch: Batch) -> Batch:
    """A batch on which the loss of a `Breakable`, and its gradient, is a thousand times itself."""
    return batch._replace(image=jnp.zeros_like(batch.image))
