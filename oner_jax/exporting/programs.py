"""The encoders as functions of arrays alone, which the program formats compile."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oner_jax.exporting.source import Source
from oner_jax.models.embedding import embed_view
from oner_jax.parallel.mesh import path_name

# Of the program for each view, in files and signatures.
NAMES = {"I": "image", "T": "text", "IT": "joint"}
INPUTS = {"I": ("images",), "T": ("ids",), "IT": ("images", "ids")}
OUTPUT = "embedding"
PLATFORMS = ("cpu", "cuda", "tpu")


def given(images: np.ndarray | None, ids: np.ndarray | None) -> tuple[str, dict[str, np.ndarray]]:
    """The view of what is there, and that by its names in `INPUTS`."""
    pair = zip(INPUTS["IT"], (images, ids), strict=True)
    named = {name: array for name, array in pair if array is not None}
    return next(view for view, names in INPUTS.items() if names == tuple(named)), named


def named_weights(source: Source) -> dict[str, np.ndarray]:
    """The backbone's arrays in the export's type, by their paths in the parameter tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(source.parameters["backbone"])
    return {path_name(path): np.asarray(leaf, jnp.dtype(source.dtype)) for path, leaf in leaves}


def encoder(source: Source, view: str) -> Callable[..., jax.Array]:
    """f(`named_weights`, images and/or ids) -> embeddings at unit length, float32.

    Images are bytes, uint8 [n size size 3]; ids are int32 [n text_tokens], padded with 0. The
    backbone's pixel normalisation is part of it; decoding, cropping and resizing are not.
    """
    model = source.model
    names, tree = list(named_weights(source)), jax.tree.structure(source.parameters["backbone"])

    def encode(weights: Mapping[str, Any], *inputs: jax.Array) -> jax.Array:
        parameters = jax.tree.unflatten(tree, [weights[name] for name in names])
        named = dict(zip(INPUTS[view], inputs, strict=True))
        return embed_view(model, view, parameters, named.get("images"), named.get("ids"))[0]

    return encode


def input_shapes(source: Source, view: str, batch: Any) -> list[jax.ShapeDtypeStruct]:
    """What `encoder` takes after the parameters; `batch` may be a symbol."""
    size, tokens = source.settings.image_size, source.settings.text_tokens
    shapes = {
        "images": jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8),
        "ids": jax.ShapeDtypeStruct((batch, tokens), jnp.int32),
    }
    return [shapes[name] for name in INPUTS[view]]
