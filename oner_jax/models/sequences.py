"""From a pair's inputs to token sequences, through a tower, and back to states by view."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from oner_jax.models.inputs import PAD_ID, Inputs
from oner_jax.models.segments import make_segments
from oner_jax.models.tower import Tower
from oner_jax.models.views import PairInputs, View, ViewStates, Wanted, WantedTokens


class TokenSequence(NamedTuple):
    """[CLS], `patches` patches and `words` words, and which may be read (None: all)."""

    tokens: Float[Array, "b length width"]
    readable: Bool[Array, "b length"] | None
    patches: int
    words: int


def encode_together(
    embed: Inputs,
    tower: Tower,
    inputs: PairInputs,
    views: Sequence[View],
    wanted: WantedTokens,
) -> dict[str, ViewStates]:
    """All `views` in one pass of `tower`; images are embedded once."""
    patches = None
    if any(view.image for view in views):
        assert inputs.images is not None, "a view with an image needs images"
        patches = embed.embed_images(inputs.images, inputs.patch_mask)
    sequences = {
        view.name: make_sequence(
            embed,
            patches if view.image else None,
            None if not view.text else inputs.joint_text if view.image else inputs.text,
        )
        for view in views
    }
    return run_tower(tower, sequences, {view.name: view.reads for view in views}, wanted)


def read_patches(
    embed: Inputs, tower: Tower, images: Float[Array, "b h w 3"]
) -> tuple[Float[Array, "b patches width"], Float[Array, "b patches width"]]:
    """Last-layer states and values (`Tower.with_values`) of the patches of view I."""
    sequence = make_sequence(embed, embed.embed_images(images), None)
    states, values = tower.with_values(sequence.tokens)
    return states[:, 1:], values[:, 1:]


def make_sequence(
    embed: Inputs,
    patches: Float[Array, "b patches width"] | None,
    ids: Int[Array, "b length"] | None,
) -> TokenSequence:
    """[CLS] + patches and/or words."""
    words = None if ids is None else embed.embed_text(ids)
    part = patches if words is None else words
    assert part is not None, "a view with a caption needs token ids"
    return join_sequence(embed.cls(part), patches, words, ids=ids)


def join_sequence(
    cls: Float[Array, "b 1 width"],
    patches: Float[Array, "b patches width"] | None,
    words: Float[Array, "b words width"] | None,
    *,
    ids: Int[Array, "b words"] | None,
) -> TokenSequence:
    """The sequence of these tokens, readable but for the words that are padding."""
    parts = [part for part in (cls, patches, words) if part is not None]
    tokens = jnp.concatenate(parts, axis=1)
    readable = None
    if ids is not None:
        before = jnp.ones((ids.shape[0], tokens.shape[1] - ids.shape[1]), bool)
        readable = jnp.concatenate([before, ids != PAD_ID], axis=1)
    patch_count, word_count = (0 if x is None else x.shape[1] for x in (patches, words))
    return TokenSequence(tokens, readable, patch_count, word_count)


def run_tower(
    tower: Tower,
    sequences: Mapping[str, TokenSequence],
    reads: Mapping[str, str] | None = None,
    wanted: WantedTokens = None,
) -> dict[str, ViewStates]:
    """One pass of `tower` over sequences laid end to end.

    `reads` names the sequence whose keys and values each one reads (default: its own); of
    sequences that `wanted` names with None, all tokens are wanted.
    """
    names = list(sequences)
    segments = make_segments(
        [part.tokens.shape[1] for part in sequences.values()],
        [names.index(name if reads is None else reads[name]) for name in names],
    )
    chosen = {name: None if wanted is None else wanted.get(name, Wanted()) for name in names}
    states = tower(
        jnp.concatenate([part.tokens for part in sequences.values()], axis=1),
        segments,
        [part.readable for part in sequences.values()],
        [_positions(sequences[name], chosen[name]) for name in names],
    )
    return {
        name: _split_states(own, sequences[name], chosen[name])
        for name, own in zip(names, states, strict=True)
    }


def choose_states(states: ViewStates, wanted: Wanted | None) -> ViewStates:
    """The wanted ones of a view that has the states of all its tokens."""
    if wanted is None:
        return states
    return ViewStates(
        states.cls, _choose(states.image, wanted.patches), _choose(states.text, wanted.words)
    )


def _choose(
    states: Float[Array, "b tokens width"] | None, positions: Int[Array, "b _"] | None
) -> Float[Array, "b _ width"] | None:
    if positions is None or states is None:
        return None
    return jnp.take_along_axis(states, positions[:, :, None], axis=1)


def _positions(sequence: TokenSequence, wanted: Wanted | None) -> Int[Array, "b _"] | None:
    """Of the wanted tokens in their sequence; None for all."""
    if wanted is None:
        return None
    parts = [jnp.zeros((sequence.tokens.shape[0], 0), jnp.int32)]
    if wanted.patches is not None:
        parts.append(1 + wanted.patches)
    if wanted.words is not None:
        parts.append(1 + sequence.patches + wanted.words)
    return jnp.concatenate(parts, axis=1)


def _split_states(states: jax.Array, sequence: TokenSequence, wanted: Wanted | None) -> ViewStates:
    patches, words = sequence.patches, sequence.words
    if wanted is not None:
        patches, words = (0 if x is None else x.shape[1] for x in wanted)
    first_word = 1 + patches
    return ViewStates(
        cls=states[:, 0],
        image=states[:, 1:first_word] if patches else None,
        text=states[:, first_word : first_word + words] if words else None,
    )
