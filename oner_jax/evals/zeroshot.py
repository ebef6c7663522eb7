"""Zero-shot classification: a class is the mean of its name in several sentences (CLIP, SLIP)."""

import numpy as np
from jaxtyping import Float, Int64

from oner_jax.evals.measurement import Measurement
from oner_jax.evals.ranking import Matches, best_ranks, expected_recall, unit_vectors

TOP_K = (1, 5)


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
    """`top1` and `top5` accuracy of the class vector nearest by cosine.

    Rows are unit vectors; `classes` is the class of each image, -1 for an image without a label,
    which is left out.
    """
    labelled = np.flatnonzero(classes >= 0)
    matches = Matches.from_pairs(np.arange(len(labelled)), classes[labelled], len(labelled))
    ranks = best_ranks(images[labelled], class_vectors(prompts), matches)
    return {
        f"top{k}": Measurement(
            value=float(np.mean(ranks <= k)),
            chance=expected_recall(matches.counts, prompts.shape[1], k),
            cases=len(labelled),
        )
        for k in TOP_K
    }
