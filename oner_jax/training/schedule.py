"""Learning rate and momentum over steps, as functions of the step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

Schedule = Callable[[jax.Array], jax.Array]


def learning_rate(
    *, peak: float, end: float, total_steps: int, warmup_fraction: float
) -> optax.Schedule:
    """Linear warm-up over `warmup_fraction` of the steps, then cosine from `peak` to `end`.

    A fraction of 1 warms up to the end.
    """
    warmup_steps = max(1, round(warmup_fraction * total_steps))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=max(warmup_steps + 1, total_steps),
        end_value=end,
    )


def learning_rate_of(config: ConfigDict) -> optax.Schedule:
    """Return the schedule of a resolved config."""
    optimizer = config.optimizer
    return learning_rate(
        peak=optimizer.learning_rate_per_256_examples * config.batch_size / 256,
        end=optimizer.end_learning_rate,
        total_steps=config.total_steps,
        warmup_fraction=optimizer.warmup_fraction,
    )


def momentum(*, start: float, end: float, total_steps: int) -> Schedule:
    """Cosine from `start` to `end` over the run; constant where both are equal (docs/method.md)."""

    def value(step: jax.Array) -> jax.Array:
        progress = jnp.clip(step / max(1, total_steps), 0.0, 1.0)
        return end - (end - start) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))

    return value
