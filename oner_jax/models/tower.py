"""The transformer, run once over the concatenation of all views.

Every per-token operation (normalisation, QKV, MLP) sees one long sequence [I | T | IT | ...];
only attention is done per segment, on static slices, so that no token is padded and no score is
computed only to be masked away. A segment is a length and the segment whose keys and values its
queries read: I, T and IT read themselves, CIC's two streams read each other.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from oner_jax.errors import InputError
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


def attention_implementation(settings: ModelSettings) -> Literal["xla", "cudnn"]:
    """What `model.attention` means on this machine's default backend.

    "auto" is cuDNN's fused kernel where that can be: on a GPU, in bfloat16, with heads of at most
    128 (a multiple of 8); else XLA. Raises InputError for "cudnn" where it cannot be.
    """
    head_width = settings.width // settings.heads
    fused = (
        jax.default_backend() == "gpu"
        and settings.dtype == "bfloat16"
        and head_width <= 128
        and head_width % 8 == 0
    )
    if settings.attention == "cudnn" and not fused:
        raise InputError(
            f"model.attention='cudnn' needs a GPU (here: {jax.default_backend()}), bfloat16 "
            f"(model.dtype={settings.dtype!r}) and heads of at most 128, a multiple of 8 (here: "
            f"{head_width}); 'auto' takes it where it can"
        )
    return "cudnn" if fused and settings.attention != "xla" else "xla"


class Attention(nnx.Module):
    """Multi-head attention within segments. Heads are an axis of the weights, to shard them."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        width, heads = settings.width, settings.heads
        self.implementation = attention_implementation(settings)
        general = functools.partial(
            nnx.LinearGeneral, dtype=settings.compute_dtype, kernel_init=_kernel_init, rngs=rngs
        )
        self.qkv = general(width, (3, heads, width // heads))
        self.project = general((heads, width // heads), width, axis=(-2, -1))

    def __call__(
        self,
        tokens: Float[Array, "b length width"],
        segments: tuple[Segment, ...],
        key_lengths: Sequence[Int[Array, "b"] | None],
    ) -> Float[Array, "b length width"]:
        qkv = checkpoint_name(self.qkv(tokens), "qkv")
        query, key, value = (qkv[:, :, i] for i in range(3))
        outputs = []
        for segment in segments:
            source = segments[segment.reads].span
            outputs.append(
                jax.nn.dot_product_attention(
                    query[:, segment.span],
                    key[:, source],
                    value[:, source],
                    key_value_seq_lengths=key_lengths[segment.reads],
                    implementation=self.implementation,
                )
            )
        mixed = checkpoint_name(jnp.concatenate(outputs, axis=1), "attention_output")
        return checkpoint_name(self.project(mixed), "attention_projection")


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
        segments: tuple[Segment, ...],
        key_lengths: Sequence[Int[Array, "b"] | None],
    ) -> Float[Array, "b length width"]:
        normed = self.attention_norm(tokens).astype(self.dtype)
        tokens = rows_stay_cut(tokens + self.attention(normed, segments, key_lengths))
        normed = self.mlp_norm(tokens).astype(self.dtype)
        return rows_stay_cut(tokens + self.mlp(normed))


class Tower(nnx.Module):
    """`depth` blocks whose parameters are stacked on a leading axis, scanned, then LayerNorm."""

    def __init__(self, settings: ModelSettings, depth: int, *, rngs: nnx.Rngs):
        self.remat = settings.remat
        self.unroll = settings.layers_per_scan_step

        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(settings, rngs=rngs)

        self.blocks = stack(rngs)
        self.final_norm = nnx.LayerNorm(settings.width, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "b length width"],
        segments: tuple[Segment, ...],
        key_masks: Sequence[Bool[Array, "b _"] | None],
    ) -> Float[Array, "b length width"]:
        """Last-layer states in float32.

        `key_masks[i]` is False where segment i is padding, which stands at its end: attention
        takes its length, a form that fused kernels know.
        """
        lengths = [None if mask is None else jnp.sum(mask, axis=1) for mask in key_masks]
        definition, stacked = nnx.split(self.blocks)

        def layer(hidden, parameters):
            block = nnx.merge(definition, parameters)
            return block(hidden, segments, lengths), None

        hidden, _ = jax.lax.scan(
            _rematerialized(layer, self.remat), rows_stay_cut(tokens), stacked, unroll=self.unroll
        )
        return self.final_norm(hidden.astype(jnp.float32))


def _rematerialized(layer: Callable[..., Any], remat: str) -> Callable[..., Any]:
    if remat == "none":
        return layer
    if remat == "full":
        policy = jax.checkpoint_policies.nothing_saveable
    else:
        policy = jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES[remat])
    return jax.checkpoint(layer, policy=policy, prevent_cse=False)
