"""A model and batches small enough to check against the float64 oracle."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from oner_jax.models.pretraining import PureModel
from oner_jax.models.settings import ModelSettings
from oner_jax.objectives.batch import Batch, TextFormat
from oner_jax.objectives.objective import Objective
from oner_jax.objectives.settings import ObjectiveSettings
from oner_jax.parallel.mesh import make_mesh

VOCABULARY = 64
ALL_TERMS = {"itc": 1.0, "cmc": 1.0, "mim": 1.0, "mlm": 1.0, "mmm": 1.0}


def settings(**changes) -> ModelSettings:
    shape = dict(
        image_size=16,
        patch_size=4,
        text_tokens=6,
        vocabulary_size=VOCABULARY,
        width=16,
        depth=2,
        heads=2,
        mlp_width=32,
        projection_hidden_width=24,
        projection_width=8,
        predictor_hidden_width=24,
    )
    return ModelSettings(**shape | changes)


def text_format() -> TextFormat:
    """Every third piece goes on with the word before it."""
    ids = np.arange(VOCABULARY)
    return TextFormat(mask_id=2, word_start=(ids > 2) & (ids % 3 != 0))


def one_device() -> Mesh:
    return make_mesh(devices=jax.devices()[:1])


def objective(model: ModelSettings, weights=None, mesh=None, **changes) -> Objective:
    constants: dict[str, Any] = dict(
        key_source="momentum",
        form="softmax",
        logit_bias=0.0,
        temperature=0.2,
        mask_equal_captions=True,
        image_mask_fraction=0.6,
        image_mask_block_patches=2,
        word_mask_fraction=0.3,
    )
    chosen = ObjectiveSettings(weights=weights or ALL_TERMS, **constants | changes)
    return Objective(chosen, model, text_format(), mesh or one_device())


def parameters(model: PureModel, seed: int = 0):
    """Random everywhere, also where training starts from zeros and ones."""
    fresh = model.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def batch(model: ModelSettings, size: int = 8, seed: int = 0) -> Batch:
    """Captions of 1 to `text_tokens` pieces; the first two rows have equal captions."""
    random = np.random.default_rng(seed)
    text = random.integers(3, VOCABULARY, (size, model.text_tokens)).astype(np.int32)
    lengths = random.integers(1, model.text_tokens + 1, size)
    text[np.arange(model.text_tokens) >= lengths[:, None]] = 0
    text[1] = text[0]
    hashes = np.arange(1, size + 1, dtype=np.uint32)
    hashes[1] = hashes[0]
    image = random.integers(0, 256, (size, model.image_size, model.image_size, 3), np.uint8)
    return Batch(jnp.asarray(image), jnp.asarray(text), jnp.asarray(hashes))
