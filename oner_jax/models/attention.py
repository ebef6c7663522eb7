"""Multi-head attention within segments, and which kernel it runs on."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from oner_jax.errors import InputError
from oner_jax.models.segments import Segment
from oner_jax.models.settings import ModelSettings

_kernel_init = nnx.initializers.xavier_uniform()


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
        self.fused = attention_implementation(settings) == "cudnn"
        general = functools.partial(
            nnx.LinearGeneral, dtype=settings.compute_dtype, kernel_init=_kernel_init, rngs=rngs
        )
        self.qkv = general(width, (3, heads, width // heads))
        self.project = general((heads, width // heads), width, axis=(-2, -1))

    def __call__(
        self,
        asking: Float[Array, "b asking width"],
        tokens: Float[Array, "b length width"],
        asking_segments: Sequence[Segment],
        segments: Sequence[Segment],
        key_lengths: Sequence[Int[Array, "b"] | None],
    ) -> Float[Array, "b asking width"]:
        """What each asking token gathers from the tokens of the segment that its own reads.

        `asking` are `tokens` themselves in all layers but the last.
        """
        if asking is tokens:
            qkv = checkpoint_name(self.qkv(tokens), "qkv")
            query, key, value = (qkv[:, :, i] for i in range(3))
        else:
            query = checkpoint_name(self._heads(asking, slice(0, 1)), "qkv")[:, :, 0]
            key_value = checkpoint_name(self._heads(tokens, slice(1, 3)), "qkv")
            key, value = key_value[:, :, 0], key_value[:, :, 1]
        outputs = [
            self._attend(
                query[:, own.span],
                key[:, segments[own.reads].span],
                value[:, segments[own.reads].span],
                key_lengths[own.reads],
            )
            for own in asking_segments
        ]
        mixed = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=1)
        return checkpoint_name(self.project(mixed), "attention_projection")

    def values(self, tokens: Float[Array, "b length width"]) -> Float[Array, "b length width"]:
        """What a token gathers that attends, in every head, to one token only: for each token."""
        return self.project(self._heads(tokens, slice(2, 3))[:, :, 0])

    def _heads(
        self, tokens: Float[Array, "b length width"], which: slice
    ) -> Float[Array, "b length _ heads head_width"]:
        """Some of queries, keys and values alone, in that order."""
        assert self.qkv.bias is not None
        kernel, bias = self.qkv.kernel[...][:, which], self.qkv.bias[...][which]
        dtype = tokens.dtype
        return jnp.einsum("btw,wihd->btihd", tokens, kernel.astype(dtype)) + bias.astype(dtype)

    def _attend(
        self,
        query: Float[Array, "b asking heads d"],
        key: Float[Array, "b keys heads d"],
        value: Float[Array, "b keys heads d"],
        key_lengths: Int[Array, "b"] | None,
    ) -> Float[Array, "b asking heads d"]:
        if self.fused:
            output = jax.nn.dot_product_attention(
                query, key, value, key_value_seq_lengths=key_lengths, implementation="cudnn"
            )
            return checkpoint_name(output, "attention_output")
        readable = None
        if key_lengths is not None:
            readable = jnp.arange(key.shape[1]) < key_lengths[:, None]
        by_head = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
        return _attention(*by_head, readable).swapaxes(1, 2)


@jax.custom_vjp
def _attention(
    query: Float[Array, "b heads q d"],
    key: Float[Array, "b heads k d"],
    value: Float[Array, "b heads k d"],
    readable: Bool[Array, "b k"] | None,
) -> Float[Array, "b heads q d"]:
    """softmax(query key') value, for queries that are scaled already.

    In whole and not in blocks: segments are short, and XLA fuses what touches a score. The gradient
    is written out because JAX's own passes over the scores twice as often: weights stay
    unnormalised, their sum divides the output instead, and what softmax subtracts in its gradient
    comes from the output (as in FlashAttention, Dao et al. 2022, appendix B).
    """
    return _attention_forward(query, key, value, readable)[0]


def _attention_forward(query, key, value, readable):
    accumulated = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=accumulated)
    if readable is not None:
        scores = jnp.where(readable[:, None, None, :], scores, -jnp.inf)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(value.dtype)
    summed = jnp.einsum("bhqk,bhkd->bhqd", weights, value, preferred_element_type=accumulated)
    output = checkpoint_name((summed / total).astype(value.dtype), "attention_output")
    return output, (query, key, value, weights, total, output)


def _attention_backward(residuals, cotangent):
    query, key, value, weights, total, output = residuals
    cotangent = cotangent / total
    expected = jnp.sum(cotangent * output, axis=-1, keepdims=True)
    cotangent = cotangent.astype(value.dtype)
    to_value = jnp.einsum("bhqk,bhqd->bhkd", weights, cotangent)
    slopes = jnp.einsum("bhqd,bhkd->bhqk", cotangent, value, preferred_element_type=total.dtype)
    to_scores = (weights * (slopes - expected)).astype(value.dtype)
    to_query = jnp.einsum("bhqk,bhkd->bhqd", to_scores, key)
    to_key = jnp.einsum("bhqk,bhqd->bhkd", to_scores, query)
    return to_query, to_key, to_value, None


_attention.defvjp(_attention_forward, _attention_backward)
