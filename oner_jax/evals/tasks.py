"""The tasks of an evaluation: each turns the features of a dataset into the content of one cell."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from oner_jax.evals.features import Corpus, Space
from oner_jax.evals.geometry import geometry, similarity_histogram, tsne_coordinates
from oner_jax.evals.measurement import Measurement
from oner_jax.evals.ranking import nearest
from oner_jax.evals.retrieval import retrieval
from oner_jax.evals.zeroshot import zeroshot

PRIMARY = "projected"  # of the online weights: chosen in advance (METHOD section 2)
EXAMPLE_QUERIES = 6
EXAMPLE_ANSWERS = 5

Content = dict[str, Any]


def _measured(results: Mapping[str, Mapping[str, Measurement]]) -> Content:
    return {
        "measurements": {
            space: {name: measurement.to_json() for name, measurement in measured.items()}
            for space, measured in results.items()
        }
    }


def retrieval_task(corpus: Corpus, spaces: Mapping[str, Space]) -> Content:
    """R@K both ways in every space."""
    return _measured(
        {
            name: retrieval(space.image, space.text, corpus.gallery.matches)
            for name, space in spaces.items()
        }
    )


def zeroshot_task(corpus: Corpus, spaces: Mapping[str, Space]) -> Content:
    """Zero-shot accuracy in every space; nothing where fewer than two classes are labelled."""
    if len(corpus.class_names) < 2:
        return _measured({})
    return {
        **_measured(
            {
                name: zeroshot(space.image, space.prompts, corpus.classes)
                for name, space in spaces.items()
            }
        ),
        "classes": len(corpus.class_names),
    }


def geometry_task(corpus: Corpus, spaces: Mapping[str, Space]) -> Content:
    """The instruments of the modality gap where joint views were made, and cosine histograms."""
    views = {name: space.views(corpus) for name, space in spaces.items() if space.joint is not None}
    primary = views[PRIMARY]
    return {
        **_measured({name: geometry(own) for name, own in views.items()}),
        "cosines": similarity_histogram(primary.image, primary.text, primary.caption),
    }


def map_task(corpus: Corpus, spaces: Mapping[str, Space]) -> Content:
    """t-SNE coordinates of I, T and IT in the primary space."""
    flat = tsne_coordinates(spaces[PRIMARY].views(corpus))
    return {
        view: np.round(points, 3).tolist()
        for view, points in zip(("I", "T", "IT"), flat, strict=True)
    }


def examples_task(corpus: Corpus, spaces: Mapping[str, Space]) -> Content:
    """What a few queries find in the primary space.

    The queries are drawn by a fixed seed from the dataset alone, so they are the same for every
    model and cannot be picked to please.
    """
    space, gallery = spaces[PRIMARY], corpus.gallery
    carriers = gallery.matches.transposed(len(gallery.texts))
    random = np.random.default_rng(0)

    def draw(candidates: np.ndarray) -> np.ndarray:
        return random.choice(candidates, min(EXAMPLE_QUERIES, len(candidates)), replace=False)

    return {
        "text_to_image": [
            {
                "caption": gallery.texts[caption],
                "answers": _answers(
                    space.text[caption], space.image, carriers.of(caption), corpus.main_captions
                ),
            }
            for caption in draw(np.unique(gallery.main))
        ],
        "image_to_text": [
            {
                "index": int(picture),
                "captions": [gallery.texts[caption] for caption in gallery.matches.of(picture)],
                "answers": _answers(
                    space.image[picture], space.text, gallery.matches.of(picture), gallery.texts
                ),
            }
            for picture in draw(np.arange(len(space.image)))
        ],
    }


def _answers(
    query: np.ndarray, among: np.ndarray, right: np.ndarray, captions: Sequence[str]
) -> list[dict[str, Any]]:
    found, scores = nearest(query, among, EXAMPLE_ANSWERS)
    return [
        {
            "index": int(index),
            "caption": captions[index],
            "cosine": round(float(score), 4),
            "hit": bool(index in right),
        }
        for index, score in zip(found, scores, strict=True)
    ]


TASKS: dict[str, Callable[[Corpus, Mapping[str, Space]], Content]] = {
    "retrieval": retrieval_task,
    "zeroshot": zeroshot_task,
    "geometry": geometry_task,
    "map": map_task,
    "examples": examples_task,
}
