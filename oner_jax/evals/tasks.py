"""The tasks of an evaluation: each turns the features of a dataset into the content of one cell."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from oner_jax.evals.features import Corpus, Space
from oner_jax.evals.geometry import geometry, similarity_histogram, tsne_coordinates
from oner_jax.evals.measurement import Measurement
from oner_jax.evals.ranking import nearest
from oner_jax.evals.retrieval import retrieval
from oner_jax.evals.zeroshot import zeroshot

PRIMARY = "projected"  # of the online weights: chosen in advance (METHOD section 2)
EXAMPLE_QUERIES = 5
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

    Most queries are drawn by a fixed seed from the dataset alone, so they are the same for every
    model and cannot be picked to please. `certain` are the captions that this model is most certain
    about, right or wrong.
    """
    space, gallery = spaces[PRIMARY], corpus.gallery
    carriers = gallery.matches.transposed(len(gallery.texts))
    mains = np.unique(gallery.main)
    random = np.random.default_rng(0)

    def draw(candidates: np.ndarray) -> np.ndarray:
        return random.choice(candidates, min(EXAMPLE_QUERIES, len(candidates)), replace=False)

    def ask(caption: int) -> dict[str, Any]:
        own = carriers.of(caption)
        found = _answers(space.text[caption], space.image, own, corpus.main_captions)
        return {"caption": gallery.texts[caption], "answers": found}

    def describe(picture: int) -> dict[str, Any]:
        own = gallery.matches.of(picture)
        return {
            "index": picture,
            "captions": [gallery.texts[caption] for caption in own],
            "answers": _answers(space.image[picture], space.text, own, gallery.texts),
        }

    certain = mains[most_certain(space.text[mains], space.image, EXAMPLE_QUERIES)]
    return {
        "text_to_image": [ask(caption) for caption in draw(mains).tolist()],
        "image_to_text": [
            describe(picture) for picture in draw(np.arange(len(space.image))).tolist()
        ],
        "certain": [ask(caption) for caption in certain.tolist()],
    }


def most_certain(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "gallery width"],
    number: int,
) -> Int64[np.ndarray, "number"]:
    """The queries whose best answer stands out most, fewer if there are not as many.

    How far it stands out is the best score's distance from the query's mean score in standard
    deviations. A query whose best answer is shown already is passed over, so that one kind of
    picture does not fill the list. One query's scores are in memory at a time.
    """
    standing_out = np.empty(len(queries))
    for index, query in enumerate(queries):
        scores = gallery @ query
        standing_out[index] = (scores.max() - scores.mean()) / max(float(scores.std()), 1e-9)
    chosen: list[int] = []
    shown: set[int] = set()
    for index in np.argsort(-standing_out, kind="stable").tolist():
        found, _ = nearest(queries[index], gallery, EXAMPLE_ANSWERS)
        if int(found[0]) not in shown:
            chosen.append(index)
            shown.update(found.tolist())
        if len(chosen) == number:
            break
    return np.array(chosen, np.int64)


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
