"""Zero-shot classification: a class is the mean of its name in several sentences (CLIP, SLIP)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from oner_jax.evals.metrics.classification import certain_mistakes, confusion, mean_per_class
from oner_jax.evals.metrics.measurement import Measurement
from oner_jax.evals.metrics.ranking import Matches, best_ranks, expected_recall, unit_vectors

TOP_K = (1, 5)
MAXIMUM_SHOWN_FROM = 5000  # pictures among which mistakes are looked for


def class_vectors(
    prompts: Float[np.ndarray, "templates classes width"],
) -> Float[np.ndarray, "classes width"]:
    """One unit vector per class: the normalised mean over templates of unit prompt vectors."""
    return unit_vectors(prompts.mean(axis=0))


def zeroshot(
    images: Float[np.ndarray, "images width"],
    prompts: Float[np.ndarray, "templates classes width"],
    classes: Int64[np.ndarray, "images"],
) -> dict[str, Measurement]:
    """`top1` and `top5` accuracy of the class vector nearest by cosine, and `mean_per_class` top 1.

    Rows are unit vectors; `classes` is the class of each image, -1 for an image without a label,
    which is left out. Ties count against the model.
    """
    labelled = np.flatnonzero(classes >= 0)
    matches = Matches.from_pairs(np.arange(len(labelled)), classes[labelled], len(labelled))
    ranks = best_ranks(images[labelled], class_vectors(prompts), matches)
    chances = {k: expected_recall(matches.counts, prompts.shape[1], k) for k in TOP_K}
    found = {f"top{k}": Measurement.mean(ranks <= k, chances[k]) for k in TOP_K}
    found["mean_per_class"] = mean_per_class(ranks == 1, classes[labelled], chances[1])
    return found


def mistakes(
    images: Float[np.ndarray, "images width"],
    prompts: Float[np.ndarray, "templates classes width"],
    classes: Int64[np.ndarray, "images"],
    names: Sequence[str],
) -> dict[str, Any]:
    """The confusion matrix, and mistakes to look at, of at most 5,000 labelled images."""
    chosen = np.flatnonzero(classes >= 0)
    if len(chosen) > MAXIMUM_SHOWN_FROM:
        random = np.random.default_rng(0)
        chosen = np.sort(random.choice(chosen, MAXIMUM_SHOWN_FROM, replace=False))
    scores = images[chosen] @ class_vectors(prompts).T
    return {
        "confusion": confusion(classes[chosen], np.argmax(scores, axis=1), names),
        "failures": certain_mistakes(scores, classes[chosen], chosen, names),
    }
