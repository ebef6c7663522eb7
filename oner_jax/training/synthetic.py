"""Batches of random numbers, for benchmarks and tests of the step."""

import jax
import numpy as np

from oner_jax.objectives.batch import Batch
from oner_jax.training.recipe import Recipe


def synthetic_batch(recipe: Recipe, seed: int = 0) -> Batch:
    """Random pictures and captions of every length, made for the recipe's mesh."""
    random = np.random.default_rng(seed)
    abstract = recipe.abstract_batch()

    def pictures(shape: tuple[int, ...]) -> np.ndarray:
        return random.integers(0, 256, shape, np.uint8)

    def captions(shape: tuple[int, ...]) -> np.ndarray:
        text = random.integers(3, recipe.config.model.vocabulary_size, shape, np.int32)
        rows, length = shape
        text[np.arange(length) >= random.integers(1, length + 1, (rows, 1))] = 0
        return text

    arrays = {
        "image": pictures(abstract.image.shape),
        "text": captions(abstract.text.shape),
        "caption_hash": np.arange(1, recipe.rows.pairs + 1, dtype=np.uint32),
    }
    if abstract.concept_hash is not None:
        arrays["concept_hash"] = np.arange(2, recipe.rows.pairs + 2, dtype=np.uint32) // 2
    if abstract.image_only is not None:
        arrays["image_only"] = pictures(abstract.image_only.shape)
    if abstract.text_only is not None:
        arrays["text_only"] = captions(abstract.text_only.shape)
    return Batch(
        **{
            name: jax.device_put(array, getattr(abstract, name).sharding)
            for name, array in arrays.items()
        }
    )
