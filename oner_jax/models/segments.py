"""Where each view stands in the one sequence that a tower runs over."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Segment:
    """One view's span of the concatenated sequence; `reads` is the index of a segment."""

    start: int
    length: int
    reads: int

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + self.length)


def make_segments(lengths: Sequence[int], reads: Sequence[int]) -> tuple[Segment, ...]:
    """Lay segments of `lengths` tokens end to end."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return tuple(Segment(*fields) for fields in zip(starts, lengths, reads, strict=True))


def choose(
    tokens: Float[Array, "b length width"],
    segments: Sequence[Segment],
    wanted: Sequence[Int[Array, "b _"] | None],
) -> Float[Array, "b chosen width"]:
    """Of each segment its first token, [CLS], and those at `wanted` positions (None: all)."""
    parts = []
    for segment, positions in zip(segments, wanted, strict=True):
        own = tokens[:, segment.span]
        if positions is None:
            parts.append(own)
            continue
        parts.append(own[:, :1])
        if positions.shape[1]:
            parts.append(jnp.take_along_axis(own, positions[:, :, None], axis=1))
    return jnp.concatenate(parts, axis=1)


def chosen_segments(
    segments: Sequence[Segment], wanted: Sequence[Int[Array, "b _"] | None]
) -> tuple[Segment, ...]:
    """Where the tokens that `choose` returns stand."""
    lengths = [
        segment.length if positions is None else 1 + positions.shape[1]
        for segment, positions in zip(segments, wanted, strict=True)
    ]
    return make_segments(lengths, [segment.reads for segment in segments])
