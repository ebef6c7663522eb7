"""Projection, prediction and reconstruction heads.

LayerNorm throughout, never BatchNorm: normalising each view by its own batch statistics would
centre each modality separately, hide the modality gap in training and be gone at evaluation.
"""

import itertools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from oner_jax.models.settings import ModelSettings

_kernel_init = nnx.initializers.xavier_uniform()


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
    """g: three layers to the shared space (METHOD section 1)."""
    hidden = settings.projection_hidden_width
    widths = (settings.width, hidden, hidden, settings.projection_width)
    return MultiLayerHead(widths, settings.compute_dtype, rngs=rngs)


def make_predictor(settings: ModelSettings, rngs: nnx.Rngs) -> MultiLayerHead:
    """p: two layers, online side only (METHOD section 1)."""
    outputs = settings.projection_width
    widths = (outputs, settings.predictor_hidden_width, outputs)
    return MultiLayerHead(widths, settings.compute_dtype, rngs=rngs)


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
