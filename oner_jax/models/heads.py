"""Projection, prediction and reconstruction heads.

LayerNorm throughout, never BatchNorm: normalising each view by its own batch statistics would
centre each modality separately, hide the modality gap in training and be gone at evaluation.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from oner_jax.models.settings import ModelSettings

_kernel_init = nnx.initializers.xavier_uniform()


def unit(vectors: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """L2-normalise the last axis; a zero vector stays zero instead of becoming NaN."""
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


class MultiLayerHead(nnx.Module):
    """Linear layers with LayerNorm and GELU between (MoCo v3's shape, BatchNorm replaced)."""

    def __init__(self, widths: tuple[int, ...], dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.dtype = dtype
        self.layers = nnx.List(
            nnx.Linear(a, b, use_bias=False, dtype=dtype, kernel_init=_kernel_init, rngs=rngs)
            for a, b in itertools.pairwise(widths)
        )
        self.norms = nnx.List(nnx.LayerNorm(width, rngs=rngs) for width in widths[1:-1])

    def __call__(self, states: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        hidden = states.astype(self.dtype)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            hidden = nnx.gelu(norm(layer(hidden))).astype(self.dtype)
        return self.layers[-1](hidden).astype(jnp.float32)


def make_projector(settings: ModelSettings, rngs: nnx.Rngs) -> MultiLayerHead:
    """g: `projection_layers` layers to the shared space, three in OneR (docs/method.md)."""
    hidden = [settings.projection_hidden_width] * (settings.projection_layers - 1)
    widths = (settings.width, *hidden, settings.projection_width)
    return MultiLayerHead(widths, settings.compute_dtype, rngs=rngs)


def make_predictor(settings: ModelSettings, rngs: nnx.Rngs) -> MultiLayerHead:
    """p: two layers, online side only (docs/method.md, Architecture)."""
    outputs = settings.projection_width
    widths = (outputs, settings.predictor_hidden_width, outputs)
    return MultiLayerHead(widths, settings.compute_dtype, rngs=rngs)


class Logits(nnx.Module):
    """What training changes of the contrast's scale and bias, from the objective's start values.

    scale = exp(log_scale) / temperature and bias = logit_bias + bias (CLIP, Radford et al. 2021;
    SigLIP, Zhai et al. 2023). As differences from the start, both begin at 0.
    """

    def __init__(self) -> None:
        self.log_scale = nnx.Param(jnp.zeros((), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((), jnp.float32))


class PixelHead(nnx.Module):
    """One linear layer from a patch state to its pixels (SimMIM)."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.project = nnx.Linear(
            settings.width,
            3 * settings.patch_size**2,
            dtype=settings.compute_dtype,
            kernel_init=_kernel_init,
            rngs=rngs,
        )

    def __call__(self, states: Float[Array, "*batch width"]) -> Float[Array, "*batch pixels"]:
        return self.project(states.astype(self.project.dtype)).astype(jnp.float32)


class WordHead(nnx.Module):
    """Dense, GELU, LayerNorm, then the word table transposed (BERT); logits in float32."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.dtype = settings.compute_dtype
        self.dense = nnx.Linear(
            settings.width, settings.width, dtype=self.dtype, kernel_init=_kernel_init, rngs=rngs
        )
        self.norm = nnx.LayerNorm(settings.width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((settings.vocabulary_size,), jnp.float32))

    def __call__(
        self,
        states: Float[Array, "*batch width"],
        word_table: Float[Array, "vocabulary width"],
    ) -> Float[Array, "*batch vocabulary"]:
        hidden = self.norm(nnx.gelu(self.dense(states.astype(self.dtype)))).astype(self.dtype)
        logits = jnp.einsum(
            "...w,vw->...v",
            hidden,
            word_table.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        return logits + self.bias[...]
