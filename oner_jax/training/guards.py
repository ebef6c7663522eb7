"""Guards against divergence: a bad step is skipped, and many in a row are noticed.

A step is bad when its loss or its gradient's norm is not finite, or when its loss is a spike: far
above the recent ones, by a z-score from their median and median absolute deviation, which spikes
themselves hardly move (Iglewicz and Hoaglin 1993). All of it is decided inside the compiled step,
from values that every device has, so the host waits for nothing and all hosts agree. What a skipped
step would have changed stays as it was, but for the step's number: data and randomness go on.

Norms that are merely large are no reason to skip: the optimizer clips them.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32
from ml_collections import ConfigDict

from oner_jax.errors import InputError

# Of a normal distribution, its standard deviation over its median absolute deviation.
_DEVIATIONS = 1.4826
# The least spread that losses are taken to have, relative to their median (our choice): where they
# hardly vary, a small step up is no spike.
_LEAST_SPREAD = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """`config.guards`.

    A loss is a spike above `spike_z_score` (0: none is), judged by the losses of the last
    `spike_window_steps` steps that were not skipped, as soon as there are so many.
    `maximum_consecutive_skips` in a row roll the run back; it stops where that would have to happen
    more than `maximum_rollbacks` times.
    """

    spike_z_score: float
    spike_window_steps: int
    maximum_consecutive_skips: int
    maximum_rollbacks: int

    def __post_init__(self) -> None:
        for name, least in (
            ("spike_z_score", 0),
            ("spike_window_steps", 2),
            ("maximum_consecutive_skips", 1),
            ("maximum_rollbacks", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"guards.{name}={getattr(self, name)} must be {least} or more")

    @classmethod
    def from_config(cls, guards_config: ConfigDict) -> "GuardSettings":
        """Read `config.guards`; every key of it must be a field here and the reverse."""
        return cls(**guards_config)


class GuardState(NamedTuple):
    """What the guards remember.

    `recent_losses` is a ring: the loss of the n-th step that was not skipped is at n modulo its
    length. The totals are the run's, also over what it has rolled back.
    """

    recent_losses: Float32[Array, "window"]
    accepted_steps: Int32[Array, ""]
    consecutive_skips: Int32[Array, ""]
    skipped_nonfinite: Int32[Array, ""]
    skipped_spikes: Int32[Array, ""]


def init_guard(settings: GuardSettings) -> GuardState:
    """Before the first step, or where a checkpoint has none: the window is empty."""
    zero = jnp.int32(0)
    window = jnp.zeros(settings.spike_window_steps, jnp.float32)
    return GuardState(window, zero, zero, zero, zero)


def judge(
    settings: GuardSettings,
    state: GuardState,
    loss: Float[Array, ""],
    gradient_norm: Float[Array, ""],
) -> tuple[Bool[Array, ""], GuardState, dict[str, Float[Array, ""]]]:
    """Whether a step's update is to be made, the state after it, and metrics."""
    loss = loss.astype(jnp.float32)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    window = len(state.recent_losses)
    z_score = jnp.where(state.accepted_steps >= window, _z_score(state.recent_losses, loss), 0.0)
    spike = finite & (z_score > (settings.spike_z_score or jnp.inf))
    accepted = finite & ~spike
    place = state.accepted_steps % window
    after = GuardState(
        jnp.where(accepted, state.recent_losses.at[place].set(loss), state.recent_losses),
        state.accepted_steps + accepted,
        jnp.where(accepted, 0, state.consecutive_skips + 1),
        state.skipped_nonfinite + ~finite,
        state.skipped_spikes + spike,
    )
    metrics = {"guard/z_score": jnp.where(finite, z_score, 0.0), **counts(after)}
    return accepted, after, metrics


def counts(state: GuardState) -> dict[str, Float[Array, ""]]:
    """The counts of `state` as metrics."""
    names = ("consecutive_skips", "skipped_nonfinite", "skipped_spikes")
    return {f"guard/{name}": getattr(state, name).astype(jnp.float32) for name in names}


def choose(accepted: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The arrays of `new` where the update is made, else those of `old`."""
    return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)


def _z_score(losses: Float32[Array, "window"], loss: Float32[Array, ""]) -> Float32[Array, ""]:
    median = jnp.median(losses)
    spread = _DEVIATIONS * jnp.median(jnp.abs(losses - median))
    least = jnp.maximum(_LEAST_SPREAD * jnp.abs(median), jnp.finfo(jnp.float32).tiny)
    return (loss - median) / jnp.maximum(spread, least)
