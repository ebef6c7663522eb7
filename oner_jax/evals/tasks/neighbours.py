"""Classification without fitting: nearest neighbours, and class means of a few pictures."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from oner_jax.evals.inputs.features import SPACES
from oner_jax.evals.inputs.labelled_splits import SharedClasses
from oner_jax.evals.inputs.task_inputs import Material
from oner_jax.evals.metrics.exact_search import best_of
from oner_jax.evals.metrics.measurement import Measurement, absent, measured
from oner_jax.evals.metrics.ranking import unit_vectors
from oner_jax.evals.tasks.probe import NO_TRAINING

NEIGHBOURS = (1, 5, 20)
SHOTS = (1, 2, 4, 8)
DRAWS = 5


def votes(
    train: Float[np.ndarray, "train width"],
    train_classes: Int64[np.ndarray, "train"],
    test: Float[np.ndarray, "test width"],
    number_of_classes: int,
    neighbours: tuple[int, ...] = NEIGHBOURS,
) -> dict[int, Int64[np.ndarray, "test"]]:
    """The class that most of the k nearest training pictures (by cosine) have, for every k.

    Of classes with equally many votes the first wins, as in scikit-learn's `KNeighborsClassifier`.
    """
    found, _ = best_of(test, train, max(neighbours))
    answers = {}
    for k in neighbours:
        nearest = train_classes[found[:, :k]]
        places = nearest + number_of_classes * np.arange(len(test))[:, None]
        counted = np.bincount(places.ravel(), minlength=number_of_classes * len(test))
        answers[k] = np.argmax(counted.reshape(len(test), number_of_classes), axis=1)
    return answers


def few_shot_hits(
    shared: SharedClasses,
    train: Float[np.ndarray, "train width"],
    test: Float[np.ndarray, "test width"],
    shots: int,
) -> Float[np.ndarray, "test"]:
    """How often each picture is nearest to the mean of its class's few pictures, over 5 draws.

    Prototypes (Snell et al., NeurIPS 2017): there is nothing to tune on so few pictures.
    """
    hits = np.zeros(len(test))
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(train))
        by_class = order[np.argsort(shared.train_classes[order], kind="stable")]
        sizes = np.bincount(shared.train_classes, minlength=len(shared.names))
        ends = np.cumsum(sizes)
        chosen = [
            by_class[end - size : end - size + min(shots, size)]
            for end, size in zip(ends, sizes, strict=True)
        ]
        means = np.stack([train[rows].mean(axis=0) for rows in chosen])
        hits += np.argmax(test @ unit_vectors(means).T, axis=1) == shared.test_classes
    return hits / DRAWS


def knn_task(material: Material) -> dict[str, Any]:
    """`knn_K` in both spaces."""
    shared = material.shared_classes
    if shared is None:
        return absent(NO_TRAINING)
    results = {}
    for space in SPACES:
        test = material.spaces[space].image[shared.test]
        train = material.training_pictures[space]
        answers = votes(train, shared.train_classes, test, len(shared.names))
        results[space] = {
            f"knn_{k}": Measurement.mean(own == shared.test_classes, 1.0 / len(shared.names))
            for k, own in answers.items()
        }
    return {**measured(results), "classes": len(shared.names), "target": shared.kind}


def few_shot_task(material: Material) -> dict[str, Any]:
    """`shots_K` in both spaces: K training pictures of every class."""
    shared = material.shared_classes
    if shared is None:
        return absent(NO_TRAINING)
    results = {
        space: {
            f"shots_{shots}": Measurement.mean(
                few_shot_hits(
                    shared,
                    material.training_pictures[space],
                    material.spaces[space].image[shared.test],
                    shots,
                ),
                1.0 / len(shared.names),
            )
            for shots in SHOTS
        }
        for space in SPACES
    }
    return {**measured(results), "classes": len(shared.names), "target": shared.kind}
