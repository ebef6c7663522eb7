"""What every classification reports, however its answers came about: accuracy and mistakes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy import sparse

from oner_jax.evals.metrics.bootstrap import Counts
from oner_jax.evals.metrics.measurement import Measurement

SHOWN_CLASSES = 25
FEWEST_PICTURES_A_CLASS = 3  # on average: below that a confusion matrix is noise
SHOWN_FAILURES = 12


def mean_per_class(
    hits: Bool[np.ndarray, "pictures"], classes: Int64[np.ndarray, "pictures"], chance: float
) -> Measurement:
    """The accuracy of every class that has a picture, averaged: rare classes count like others.

    What Pets, Flowers, Caltech-101 and Aircraft report; scikit-learn's `balanced_accuracy_score`.
    """
    present, numbers = np.unique(classes, return_inverse=True)
    rows = np.arange(len(classes))
    belongs = sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (numbers, rows)), shape=(len(present), len(rows))
    )
    right = belongs.multiply(hits.astype(np.float32)[None, :]).tocsr()

    def accuracy(counts: Counts) -> Float[np.ndarray, "resamples"]:
        drawn = belongs @ counts.T
        with np.errstate(invalid="ignore"):
            return np.nanmean((right @ counts.T) / drawn, axis=0)  # an undrawn class is left out

    value = float(accuracy(np.ones((1, len(rows)), np.float32))[0])
    return Measurement.of(value, accuracy, len(rows), chance)


def confusion(
    classes: Int64[np.ndarray, "pictures"],
    answers: Int64[np.ndarray, "pictures"],
    names: Sequence[str],
) -> dict[str, Any] | None:
    """How often each class (row) is taken for each other one (column), as counts.

    Of more than 25 classes those of the most frequent confusions, in their order, and one column
    for all other answers. None where classes have too few pictures to tell.
    """
    present = np.unique(classes)
    if len(classes) < FEWEST_PICTURES_A_CLASS * len(present):
        return None
    size = len(names)
    pairs, counts = np.unique(classes * size + answers, return_counts=True)
    rows, columns = np.divmod(pairs, size)
    shown = present.tolist()
    if len(shown) > SHOWN_CLASSES:
        wrong = rows != columns
        order = np.argsort(-counts[wrong], kind="stable")
        involved = np.stack([rows[wrong], columns[wrong]], axis=1)[order].ravel()
        # Those without a mistake come last.
        ranked = [*dict.fromkeys(involved[np.isin(involved, present)].tolist()), *shown]
        shown = sorted(list(dict.fromkeys(ranked))[:SHOWN_CLASSES])
    place = np.full(size, len(shown))
    place[shown] = np.arange(len(shown))
    matrix = np.zeros((len(shown), len(shown) + 1), np.int64)
    kept = place[rows] < len(shown)
    np.add.at(matrix, (place[rows[kept]], place[columns[kept]]), counts[kept])
    return {"classes": [names[index] for index in shown], "counts": matrix.tolist()}


def certain_mistakes(
    scores: Float[np.ndarray, "pictures classes"],
    classes: Int64[np.ndarray, "pictures"],
    pictures: Int64[np.ndarray, "pictures"],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """The wrong answers that the model is most certain of: its score furthest above the right one.

    `pictures` are their numbers in the dataset. One of each (class, answer) pair is shown.
    """
    answers = np.argmax(scores, axis=1)
    rows = np.arange(len(classes))
    margins = scores[rows, answers] - scores[rows, classes]
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in np.argsort(-margins, kind="stable").tolist():
        pair = (int(classes[row]), int(answers[row]))
        if len(found) == SHOWN_FAILURES or margins[row] <= 0:
            break
        if pair not in found:
            found[pair] = {
                "index": int(pictures[row]),
                "class": names[pair[0]],
                "answer": names[pair[1]],
                "margin": round(float(margins[row]), 4),
            }
    return list(found.values())
