"""Pixels and sub-words to tokens: the only modality-specific weights of a single tower.

docs/method.md: one linear patch embedding, one word table, one learned position table each, and one
[CLS] vector that is the same for every input. The convolutional stem (Xiao et al. 2021, "Early
convolutions help transformers see better") is our option for small budgets.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from oner_jax.models.settings import ModelSettings

PAD_ID = 0

_token_init = nnx.initializers.normal(stddev=0.02)
_kernel_init = nnx.initializers.xavier_uniform()


def normalize_pixels(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Bytes to float32 in [-1, 1], on the device: a quarter of the transfer of float images."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_patches(
    images: Float[Array, "b h w c"], patch_size: int
) -> Float[Array, "b patches pixels"]:
    """Cut into non-overlapping squares, row by row; `pixels` = patch_size² · c."""
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    grid = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return grid.swapaxes(2, 3).reshape(batch, rows * columns, patch_size**2 * channels)


def from_patches(
    patches: Float[Array, "b patches pixels"], patch_size: int
) -> Float[Array, "b h w c"]:
    """Inverse of `to_patches` for square images."""
    batch, count, pixels = patches.shape
    side = round(count**0.5)
    channels = pixels // patch_size**2
    grid = patches.reshape(batch, side, side, patch_size, patch_size, channels)
    return grid.swapaxes(2, 3).reshape(batch, side * patch_size, side * patch_size, channels)


class PatchStem(nnx.Module):
    """One linear layer per patch (ViT)."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        self.patch_size = settings.patch_size
        self.project = nnx.Linear(
            3 * settings.patch_size**2,
            settings.width,
            dtype=settings.compute_dtype,
            kernel_init=_kernel_init,
            rngs=rngs,
        )

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b patches width"]:
        return self.project(to_patches(images, self.patch_size))


class ConvolutionShape(NamedTuple):
    """One convolution of the stem: channels in and out, side of its window and its stride."""

    inputs: int
    outputs: int
    window: int
    stride: int


def convolution_shapes(settings: ModelSettings) -> list[ConvolutionShape]:
    """Stages of a strided convolution and `stem_residual_layers` 3x3 ones, in order.

    The first stage divides the side by `stem_first_stride`, with a window of twice that less one;
    every other one halves it, down to one position a patch. Channels double from `stem_width`,
    capped at `width`.
    """
    first = settings.stem_first_stride
    strides = [first] + [2] * ((settings.patch_size // first).bit_length() - 1)
    channels = [min(settings.stem_width * 2**i, settings.width) for i in range(len(strides))]
    shapes = []
    for stride, (inputs, outputs) in zip(strides, itertools.pairwise([3, *channels]), strict=True):
        shapes.append(ConvolutionShape(inputs, outputs, 2 * stride - 1, stride))
        shapes += [ConvolutionShape(outputs, outputs, 3, 1)] * settings.stem_residual_layers
    return shapes


class ConvolutionStem(nnx.Module):
    """The convolutions of `convolution_shapes`, those of stride 1 residual, then a linear layer.

    Normalised over channels, so an image's tokens never depend on the rest of the batch.
    """

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        shapes = convolution_shapes(settings)
        self.residual_layers = settings.stem_residual_layers
        self.convolutions = nnx.List(
            nnx.Conv(
                shape.inputs,
                shape.outputs,
                kernel_size=(shape.window, shape.window),
                strides=shape.stride,
                use_bias=False,
                dtype=settings.compute_dtype,
                rngs=rngs,
            )
            for shape in shapes
        )
        self.norms = nnx.List(nnx.LayerNorm(shape.outputs, rngs=rngs) for shape in shapes)
        self.project = nnx.Linear(
            shapes[-1].outputs,
            settings.width,
            dtype=settings.compute_dtype,
            kernel_init=_kernel_init,
            rngs=rngs,
        )

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b patches width"]:
        hidden = images
        layers = zip(self.convolutions, self.norms, strict=True)
        for index, (convolution, norm) in enumerate(layers):
            output = nnx.gelu(norm(convolution(hidden)))
            hidden = output if index % (1 + self.residual_layers) == 0 else hidden + output
        batch, rows, columns, channels = hidden.shape
        return self.project(hidden.reshape(batch, rows * columns, channels))


class Inputs(nnx.Module):
    """[CLS], patch and word tokens with their positions."""

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs):
        width = settings.width
        stem = PatchStem if settings.stem == "patch" else ConvolutionStem
        self.patch_size = settings.patch_size
        self.dtype = settings.compute_dtype
        self.stem = stem(settings, rngs=rngs)

        def table(*shape: int) -> nnx.Param:
            return nnx.Param(_token_init(rngs.params(), shape, jnp.float32))

        self.cls_token = table(width)
        self.mask_token = table(width)
        self.word_table = table(settings.vocabulary_size, width)
        self.image_positions = table(settings.patches, width)
        self.text_positions = table(settings.text_tokens, width)
        # Off in our reading of the paper: nothing tells the tower which modality a token has.
        self.type_embedding = table(2, width) if settings.view_type_embedding else None

    def embed_images(
        self,
        images: Float[Array, "b h w 3"],
        patch_mask: Bool[Array, "b patches"] | None = None,
    ) -> Float[Array, "b patches width"]:
        """Patch tokens with positions; masked ones are the learned mask token (SimMIM).

        Masked pixels are also blanked before the stem, so that a convolution cannot carry them
        into a visible neighbour. With the linear stem that changes nothing. Square images of
        another size than the model's are taken with their positions interpolated (as ViT does).
        Raises ValueError for images that are not squares of whole patches.
        """
        height, width = images.shape[1:3]
        if height != width or height % self.patch_size:
            raise ValueError(
                f"images of {height} x {width} pixels: give squares whose side is a multiple of "
                f"{self.patch_size}, the patch size"
            )
        if patch_mask is not None:
            pixels = jnp.broadcast_to(
                ~patch_mask[:, :, None], (*patch_mask.shape, 3 * self.patch_size**2)
            )
            images = images * from_patches(pixels.astype(images.dtype), self.patch_size)
        tokens = self.stem(images)
        if patch_mask is not None:
            tokens = jnp.where(
                patch_mask[:, :, None], self.mask_token[...].astype(self.dtype), tokens
            )
        return tokens + self._positions(self.image_positions, 0, tokens.shape[1])

    def embed_text(self, ids: Int[Array, "b length"]) -> Float[Array, "b length width"]:
        """Word tokens with positions; `length` may be shorter than the position table."""
        words = jnp.take(self.word_table[...], ids, axis=0).astype(self.dtype)
        return words + self._positions(self.text_positions, 1)[: ids.shape[1]]

    def cls(self, tokens: Float[Array, "b _ width"]) -> Float[Array, "b 1 width"]:
        """The one [CLS] vector of every view, for each example that has `tokens`."""
        token = self.cls_token[...].astype(self.dtype)
        return jnp.broadcast_to(token, (tokens.shape[0], 1, token.shape[-1]))

    def _positions(
        self, positions: nnx.Param, modality: int, number: int | None = None
    ) -> Float[Array, "length width"]:
        """The table in the compute type; interpolated to `number` places where it has others."""
        table: jax.Array = positions[...]
        if number not in (None, len(table)):
            table = resample_positions(table, number)
        if self.type_embedding is not None:
            table = table + self.type_embedding[...][modality]
        return table.astype(self.dtype)


def resample_positions(
    positions: Float[Array, "before width"], number: int, method: str = "bicubic"
) -> Float[Array, "{number} width"]:
    """Interpolate a square table of positions to `number` places, another square.

    `method` is "bicubic" or "bilinear", antialiased where the table shrinks, as in ViT's own
    fine-tuning (Dosovitskiy et al. 2021, 3.2).
    """
    before, after = round(len(positions) ** 0.5), round(number**0.5)
    grid = positions.reshape(before, before, -1)
    resized = jax.image.resize(grid, (after, after, grid.shape[2]), method, antialias=True)
    return resized.reshape(number, -1)
