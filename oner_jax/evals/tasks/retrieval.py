"""Image-text retrieval in both directions: recall at 1, 5 and 10.

Which rows count: "a picture of a cat" under two pictures is one caption, and finding either picture
is right. So the text gallery holds each distinct caption once, and a hit is any caption equal to
one of the picture's own, or any picture that carries the caption. Pictures with equal files are one
picture in the same way, with the captions of all of them. On a dataset without repeats this is the
usual protocol (COCO: any of the five captions; every caption is a query).
"""

import numpy as np
from jaxtyping import Float

from oner_jax.evals.metrics.measurement import Measurement
from oner_jax.evals.metrics.ranking import Matches, best_ranks, expected_recall

RECALL_AT = (1, 5, 10)


def retrieval(
    images: Float[np.ndarray, "images width"],
    texts: Float[np.ndarray, "texts width"],
    matches: Matches,
) -> dict[str, Measurement]:
    """`text_R@k` (a picture asks for its caption) and `image_R@k` (a caption asks for its picture).

    Rows are unit vectors of distinct pictures (`Corpus.distinct_pictures`) and distinct captions;
    `matches` leads from each image to the texts it carries. Chance is the
    exact expectation of a random ranking; ties count against the model (see `ranking.best_ranks`).
    Captions of the same picture are resampled together; one of several pictures goes with the
    first.
    """
    backwards = matches.transposed(len(texts))
    carried = backwards.counts > 0
    first_carrier = np.where(carried, np.append(backwards.members, 0)[backwards.offsets[:-1]], -1)
    return {
        **_recalls("text", best_ranks(images, texts, matches), matches, len(texts)),
        **_recalls(
            "image", best_ranks(texts, images, backwards), backwards, len(images), first_carrier
        ),
    }


def _recalls(
    sought: str,
    ranks: np.ndarray,
    matches: Matches,
    gallery_size: int,
    examples: np.ndarray | None = None,
) -> dict[str, Measurement]:
    return {
        f"{sought}_R@{k}": Measurement.mean(
            ranks <= k, expected_recall(matches.counts, gallery_size, k), examples
        )
        for k in RECALL_AT
    }
