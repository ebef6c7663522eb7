"""The transformer, run once over the concatenation of all views.

Every per-token operation (normalisation, QKV, MLP) sees one long sequence [I | T | IT | ...];
only attention is done per segment, on static slices, so that no token is padded and no score is
computed only to be masked away. A segment is a length and the segment whose keys and values its
queries read: I, T and IT read themselves, CIC's two streams read each other.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from oner_jax.models.attention import Attention
from oner_jax.models.segments import Segment, choose, chosen_segments, make_segments
from oner_jax.models.settings import ModelSettings
from oner_jax.parallel.mesh import rows_stay_cut

_kernel_init = nnx.initializers.xavier_uniform()

# What a layer keeps for its backward pass besides its input, by policy; the rest is computed again.
# In multiples of the width that is 8 a token for "cheap", 5 for "mlp", 3 for "qkv", 2 for
# "attention" and nothing for "full". A product between width and width costs the same FLOPs for
# each value that it makes, wherever it stands; only the scores and the attention output are far
# cheaper, so that "cheap" keeps all but them. BENCHMARKS.md has what each costs and saves.
SAVED_NAMES = {
    "cheap": ("qkv", "attention_projection", "mlp_hidden"),
    "mlp": ("attention_projection", "mlp_hidden"),
    "qkv": ("qkv",),
    "attention": ("attention_output", "attention_projection"),
}


class Mlp(nnx.Module):
    """Two linear layers around a GELU."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        linear = functools.partial(
            nnx.Linear, dtype=settings.compute_dtype, kernel_init=_kernel_init, rngs=rngs
        )
        self.expand = linear(settings.width, settings.mlp_width)
        self.contract = linear(settings.mlp_width, settings.width)

    def __call__(self, tokens: Float[Array, "b length width"]) -> Float[Array, "b length width"]:
        hidden = checkpoint_name(self.expand(tokens), "mlp_hidden")
        return self.contract(nnx.gelu(hidden))


class Block(nnx.Module):
    """Pre-norm transformer layer; normalisation in float32."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.dtype = settings.compute_dtype
        self.attention_norm = nnx.LayerNorm(settings.width, rngs=rngs)
        self.attention = Attention(settings, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(settings.width, rngs=rngs)
        self.mlp = Mlp(settings, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "b length width"],
        segments: Sequence[Segment],
        key_lengths: Sequence[Int[Array, "b"] | None],
        wanted: Sequence[Int[Array, "b _"] | None] | None = None,
    ) -> Float[Array, "b answered width"]:
        """The states of all tokens, or of those of each segment that are `wanted` (`choose`)."""
        normed = asking = self.attention_norm(tokens).astype(self.dtype)
        asking_segments = segments
        if wanted is not None:
            asking, tokens = (choose(x, segments, wanted) for x in (normed, tokens))
            asking_segments = chosen_segments(segments, wanted)
        gathered = self.attention(asking, normed, asking_segments, segments, key_lengths)
        tokens = rows_stay_cut(tokens + gathered)
        normed = self.mlp_norm(tokens).astype(self.dtype)
        return rows_stay_cut(tokens + self.mlp(normed))

    def first_attending_to_each(
        self, tokens: Float[Array, "b length width"]
    ) -> Float[Array, "b length width"]:
        """For each token, the state of the first one if it attended in this layer to it only."""
        values = self.attention.values(self.attention_norm(tokens).astype(self.dtype))
        first = tokens[:, :1] + values
        return first + self.mlp(self.mlp_norm(first).astype(self.dtype))


class Tower(nnx.Module):
    """`depth` blocks and a LayerNorm.

    All blocks but the last are scanned, with their parameters stacked on a leading axis. The last
    one, stacked like them, answers only for tokens whose states somebody reads: that is [CLS] for
    contrast, and what is hidden for masked modelling. The others cost it a key and a value.
    """

    def __init__(self, settings: ModelSettings, depth: int, *, rngs: nnx.Rngs):
        self.remat = settings.remat
        self.unroll = settings.layers_per_scan_step

        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(settings, rngs=rngs)

        definition, stacked = nnx.split(stack(rngs))
        # Arrays without elements, which checkpoints may not hold, if there is no other block.
        self.blocks = nnx.merge(definition, _layers(stacked, slice(-1))) if depth > 1 else None
        self.last_block = nnx.merge(definition, _layers(stacked, slice(-1, None)))
        self.final_norm = nnx.LayerNorm(settings.width, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "b length width"],
        segments: Sequence[Segment],
        key_masks: Sequence[Bool[Array, "b _"] | None],
        wanted: Sequence[Int[Array, "b _"] | None],
    ) -> list[Float[Array, "b _ width"]]:
        """Last-layer states by segment, float32: [CLS], then tokens at `wanted` (None: all).

        `key_masks[i]` is False where segment i is padding, which stands at its end: attention
        takes its length, a form that fused kernels know.
        """
        lengths = [None if mask is None else jnp.sum(mask, axis=1) for mask in key_masks]
        tokens = self._below_last(tokens, segments, lengths)
        # Its backward pass comes first: keeping what it needs costs no memory.
        states = self._last()(tokens, segments, lengths, wanted)
        states = self.final_norm(states.astype(jnp.float32))
        return [states[:, part.span] for part in chosen_segments(segments, wanted)]

    def with_values(
        self, tokens: Float[Array, "b length width"]
    ) -> tuple[Float[Array, "b length width"], Float[Array, "b length width"]]:
        """Last-layer states of one sequence without padding, and the values of its tokens.

        A token's value is the last-layer state that [CLS] would have if the last layer's attention
        of [CLS] were on that token only. Both are float32.
        """
        segments = make_segments([tokens.shape[1]], [0])
        tokens = self._below_last(tokens, segments, [None])
        last = self._last()
        outputs = last(tokens, segments, [None]), last.first_attending_to_each(tokens)
        states, values = (self.final_norm(output.astype(jnp.float32)) for output in outputs)
        return states, values

    def _below_last(
        self,
        tokens: Float[Array, "b length width"],
        segments: Sequence[Segment],
        lengths: Sequence[Int[Array, "b"] | None],
    ) -> Float[Array, "b length width"]:
        """What the last block reads."""
        tokens = rows_stay_cut(tokens)
        if self.blocks is None:
            return tokens
        definition, stacked = nnx.split(self.blocks)

        def layer(hidden, parameters):
            return nnx.merge(definition, parameters)(hidden, segments, lengths), None

        scanned = _rematerialized(layer, self.remat)
        return jax.lax.scan(scanned, tokens, stacked, unroll=self.unroll)[0]

    def _last(self) -> Block:
        definition, stacked = nnx.split(self.last_block)
        return nnx.merge(definition, _layers(stacked, 0))


def _layers(stacked: nnx.State, which: slice | int) -> nnx.State:
    return jax.tree.map(lambda x: x[which], stacked)


def _rematerialized(layer: Callable[..., Any], remat: str) -> Callable[..., Any]:
    if remat == "none":
        return layer
    if remat == "full":
        policy = jax.checkpoint_policies.nothing_saveable
    else:
        policy = jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES[remat])
    return jax.checkpoint(layer, policy=policy, prevent_cse=False)
