"""Use of a trained encoder: arrays in, embeddings out."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int32, UInt8

from oner_jax.models.heads import unit
from oner_jax.models.inputs import PAD_ID, normalize_pixels
from oner_jax.models.pretraining import Parameters, PureModel
from oner_jax.models.views import CLS_ALONE, VIEWS, PairInputs
from oner_jax.parallel.mesh import batch_sharding, make_mesh, replicated


class Embeddings(NamedTuple):
    """Features of n examples.

    `projected` is g's output at unit length, what retrieval and zero-shot use; `backbone` the
    [CLS] state before g.
    """

    projected: Float32[np.ndarray, "n d"]
    backbone: Float32[np.ndarray, "n w"]


class PatchStates(NamedTuple):
    """What is known of the patches of n images, row by row.

    `backbone` are their last-layer states, `projected` these after g, at unit length (g was
    trained on [CLS] states only). `values` are what the embedding of the image would be if the
    last layer's attention of [CLS] were on that patch only: g's output at unit length.
    """

    projected: Float32[np.ndarray, "n patches d"]
    backbone: Float32[np.ndarray, "n patches w"]
    values: Float32[np.ndarray, "n patches d"]


class Embedder:
    """Embeds images (view I), captions (T) or pairs (IT), in batches over all devices of `mesh`
    (default: those of this process).

    `views` names those that the model's architecture has; `image_size` and `patch_size` are the
    sides, in pixels, of the images that it was trained on and of their patches. Each batch is
    padded to the smallest of `batch_size` (one number or several) that holds it, so that each view
    compiles once a size and n may be anything.
    """

    def __init__(
        self,
        model: PureModel,
        parameters: Parameters,
        mesh: Mesh | None = None,
        batch_size: int | Sequence[int] = 128,
    ):
        self.mesh = make_mesh(devices=jax.local_devices()) if mesh is None else mesh
        devices = self.mesh.size
        sizes = [batch_size] if isinstance(batch_size, int) else batch_size
        self._batch_sizes = sorted({-(-size // devices) * devices for size in sizes})
        self.batch_size = self._batch_sizes[-1]
        self._backbone = jax.device_put(parameters["backbone"], replicated(self.mesh))
        self.views = model.views & {"I", "T", "IT"}
        self.image_size, self.patch_size = model.settings.image_size, model.settings.patch_size
        self._embed = {
            name: jax.jit(functools.partial(embed_view, model, name)) for name in self.views
        }
        self._embed_patches = jax.jit(functools.partial(_embed_patches, model))
        self._mean_words = jax.jit(functools.partial(_mean_words, model))

    def of(self, parameters: Parameters) -> "Embedder":
        """The same for other weights of the same model; nothing is compiled again."""
        other = copy.copy(self)
        other._backbone = jax.device_put(parameters["backbone"], replicated(self.mesh))
        return other

    def __call__(
        self,
        images: UInt8[np.ndarray, "n s s 3"] | None = None,
        text: Int32[np.ndarray, "n length"] | None = None,
    ) -> Embeddings:
        """Embed n examples; give images, token ids, or both for the joint view.

        Raises ValueError for nothing to embed and for a view that the model does not have.
        """
        given = [part for part in (images, text) if part is not None]
        if not given:
            raise ValueError("give images, text or both")
        view = "IT" if len(given) == 2 else "I" if text is None else "T"
        if view not in self.views:
            raise ValueError(f"this architecture has no view {view}")
        return Embeddings(*self._in_batches(self._embed[view], images, text))

    def patches(self, images: UInt8[np.ndarray, "n s s 3"]) -> PatchStates:
        """Return states and values of every patch of n images (view I).

        `s` may be any multiple of the patch size: positions are interpolated to the grid, and each
        size is compiled once. Raises ValueError for another side.
        """
        return PatchStates(*self._in_batches(self._embed_patches, images))

    def words(self, text: Int32[np.ndarray, "n length"]) -> Float32[np.ndarray, "n w"]:
        """Return the mean last-layer state of each text's tokens but [CLS]; 0 for no token."""
        return self._in_batches(self._mean_words, text)[0]

    def _in_batches(
        self, function: Callable[..., Sequence[jax.Array]], *inputs: np.ndarray | None
    ) -> list[np.ndarray]:
        """Outputs of `function` for all rows of the inputs, joined."""
        count = max(len(part) for part in inputs if part is not None)
        outputs = []
        for start in range(0, count, self.batch_size):
            batch = [
                None if part is None else self._put(part[start : start + self.batch_size])
                for part in inputs
            ]
            outputs.append(function(self._backbone, *batch))
        if not outputs:
            raise ValueError("no example to embed")
        columns = zip(*outputs, strict=True)
        joined = [np.concatenate([np.asarray(part) for part in parts]) for parts in columns]
        return [part[:count] for part in joined]

    def _put(self, rows: np.ndarray) -> jax.Array:
        missing = next(size for size in self._batch_sizes if size >= len(rows)) - len(rows)
        padded = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows
        return jax.device_put(padded, batch_sharding(self.mesh))


def embed_view(
    model: PureModel,
    view: str,
    parameters: Parameters,
    images: UInt8[Array, "n s s 3"] | None,
    text: Int32[Array, "n length"] | None,
) -> tuple[Float32[Array, "n d"], Float32[Array, "n w"]]:
    """`Embeddings` of one view (I, T or IT), as a pure function of the backbone's parameters."""
    backbone = model.bind_backbone(parameters)
    pixels = None if images is None else normalize_pixels(images)
    states = backbone.encode(PairInputs(pixels, text, text), [VIEWS[view]], CLS_ALONE)[view]
    return unit(backbone.project(states.cls, view)), states.cls.astype(jnp.float32)


def _embed_patches(
    model: PureModel, parameters: Parameters, images: UInt8[Array, "n s s 3"]
) -> tuple[
    Float32[Array, "n patches d"], Float32[Array, "n patches w"], Float32[Array, "n patches d"]
]:
    backbone = model.bind_backbone(parameters)
    states, values = backbone.read_patches(normalize_pixels(images))
    projected, of_values = (unit(backbone.project(each, "I")) for each in (states, values))
    return projected, states, of_values


def _mean_words(
    model: PureModel, parameters: Parameters, text: Int32[Array, "n length"]
) -> tuple[Float32[Array, "n w"]]:
    backbone = model.bind_backbone(parameters)
    states = backbone.encode(PairInputs(None, text, text), [VIEWS["T"]])["T"].text
    assert states is not None, "view T has words"
    real = (text != PAD_ID)[:, :, None]
    return (jnp.sum(states * real, axis=1) / jnp.maximum(jnp.sum(real, axis=1), 1),)
