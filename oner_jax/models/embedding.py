"""Use of a trained encoder: arrays in, embeddings out."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int32, UInt8

from oner_jax.models.heads import unit
from oner_jax.models.inputs import normalize_pixels
from oner_jax.models.pretraining import Parameters, PureModel
from oner_jax.models.views import VIEWS, PairInputs
from oner_jax.parallel.mesh import batch_sharding, make_mesh, replicated


class Embeddings(NamedTuple):
    """Features of n examples.

    `projected` is g's output at unit length, what retrieval and zero-shot use; `backbone` the
    [CLS] state before g.
    """

    projected: Float32[np.ndarray, "n d"]
    backbone: Float32[np.ndarray, "n w"]


class Embedder:
    """Embeds images (view I), captions (T) or pairs (IT), in batches over all devices of `mesh`
    (default: those of this process).

    `views` names those that the model's architecture has. The last batch is padded, so that each
    view compiles once and n may be anything.
    """

    def __init__(
        self,
        model: PureModel,
        parameters: Parameters,
        mesh: Mesh | None = None,
        batch_size: int = 128,
    ):
        self.mesh = make_mesh(devices=jax.local_devices()) if mesh is None else mesh
        devices = self.mesh.size
        self.batch_size = -(-batch_size // devices) * devices
        self._backbone = jax.device_put(parameters["backbone"], replicated(self.mesh))
        self.views = model.views & {"I", "T", "IT"}
        self._embed = {name: jax.jit(functools.partial(_embed, model, name)) for name in self.views}

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
        count = len(given[0])
        outputs = []
        for start in range(0, count, self.batch_size):
            batch = [
                None if part is None else self._put(part[start : start + self.batch_size])
                for part in (images, text)
            ]
            outputs.append(self._embed[view](self._backbone, *batch))
        if not outputs:
            raise ValueError("no example to embed")
        columns = zip(*outputs, strict=True)
        joined = [np.concatenate([np.asarray(part) for part in parts]) for parts in columns]
        return Embeddings(*(part[:count] for part in joined))

    def _put(self, rows: np.ndarray) -> jax.Array:
        missing = self.batch_size - len(rows)
        padded = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows
        return jax.device_put(padded, batch_sharding(self.mesh))


def _embed(
    model: PureModel,
    view: str,
    parameters: Parameters,
    images: UInt8[Array, "n s s 3"] | None,
    text: Int32[Array, "n length"] | None,
) -> tuple[Float32[Array, "n d"], Float32[Array, "n w"]]:
    backbone = model.bind_backbone(parameters)
    pixels = None if images is None else normalize_pixels(images)
    states = backbone.encode(PairInputs(pixels, text, text), [VIEWS[view]])[view]
    return unit(backbone.project(states.cls, view)), states.cls.astype(jnp.float32)
