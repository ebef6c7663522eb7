"""The tasks of an evaluation: each turns a dataset under a model into the content of one cell."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from oner_jax.evals.inputs.features import PRIMARY, SPACES
from oner_jax.evals.inputs.task_inputs import Material
from oner_jax.evals.metrics.exact_search import best_of
from oner_jax.evals.metrics.measurement import absent, measured
from oner_jax.evals.metrics.ranking import nearest
from oner_jax.evals.tasks.geometry import geometry, similarity_histogram, tsne_coordinates
from oner_jax.evals.tasks.localisation_task import localisation_task
from oner_jax.evals.tasks.multimodal import multimodal_task
from oner_jax.evals.tasks.neighbours import few_shot_task, knn_task
from oner_jax.evals.tasks.probe import probe_task
from oner_jax.evals.tasks.reasoning import reasoning_task
from oner_jax.evals.tasks.retrieval import retrieval
from oner_jax.evals.tasks.robustness import robustness_task
from oner_jax.evals.tasks.transfer import transfer_task
from oner_jax.evals.tasks.zeroshot import mistakes, zeroshot

CAPTION_QUERIES = 5
PICTURE_QUERIES = 6
MAXIMUM_ASKED = 2000  # captions among which the most certain are looked for
EXAMPLE_ANSWERS = 5

Content = dict[str, Any]


def retrieval_task(material: Material) -> Content:
    """R@K both ways in every space."""
    pictures = material.corpus.distinct_pictures
    matches = material.corpus.gallery.matches.take(pictures)
    return measured(
        {
            name: retrieval(space.image[pictures], space.text, matches)
            for name, space in material.spaces.items()
        }
    )


def zeroshot_task(material: Material) -> Content:
    """Zero-shot accuracy in every space; nothing where fewer than two classes are labelled."""
    corpus = material.corpus
    if len(corpus.class_names) < 2:
        return absent("fewer than two labels")
    primary = material.spaces[PRIMARY]
    return {
        **measured(
            {
                name: zeroshot(space.image, space.prompts, corpus.classes)
                for name, space in material.spaces.items()
            }
        ),
        "classes": len(corpus.class_names),
        **mistakes(primary.image, primary.prompts, corpus.classes, corpus.class_names),
    }


def geometry_task(material: Material) -> Content:
    """The instruments of the modality gap, of the online weights, and histograms of cosines."""
    views = {name: material.spaces[name].views(material.corpus) for name in SPACES}
    primary = views[PRIMARY]
    return {
        **measured({name: geometry(own) for name, own in views.items()}),
        "cosines": similarity_histogram(primary.image, primary.text, primary.caption),
    }


def map_task(material: Material) -> Content:
    """t-SNE coordinates of the views that the model has, in the primary space."""
    flat = tsne_coordinates(material.spaces[PRIMARY].views(material.corpus))
    return {"points": {view: np.round(points, 3).tolist() for view, points in flat.items()}}


def examples_task(material: Material) -> Content:
    """What a few queries find in the primary space.

    Most queries are drawn by a fixed seed from the dataset alone, so they are the same for every
    model and cannot be picked to please. `certain` are the captions that this model is most certain
    about, right or wrong; `mistaken` those among the wrong ones.
    """
    space, corpus = material.spaces[PRIMARY], material.corpus
    gallery, pictures = corpus.gallery, corpus.distinct_pictures
    image, matches = space.image[pictures], gallery.matches.take(pictures)
    main_captions = [corpus.main_captions[row] for row in pictures]
    carriers = matches.transposed(len(gallery.texts))
    mains = np.unique(gallery.main)
    random = np.random.default_rng(0)

    def draw(candidates: np.ndarray, number: int) -> list[int]:
        return random.choice(candidates, min(number, len(candidates)), replace=False).tolist()

    def ask(caption: int) -> dict[str, Any]:
        own = carriers.of(caption)
        found = _answers(space.text[caption], image, own, main_captions)
        for answer in found:
            answer["index"] = int(pictures[answer["index"]])
        return {"caption": gallery.texts[caption], "answers": found}

    def describe(picture: int) -> dict[str, Any]:
        own = matches.of(picture)
        return {
            "index": int(pictures[picture]),
            "captions": [gallery.texts[caption] for caption in own],
            "answers": _answers(image[picture], space.text, own, gallery.texts),
        }

    captions = draw(mains, CAPTION_QUERIES)
    described = draw(np.arange(len(image)), PICTURE_QUERIES)
    asked = np.array(draw(mains, MAXIMUM_ASKED))
    certain = asked[most_certain(space.text[asked], image, CAPTION_QUERIES)]
    firsts, _ = best_of(space.text[asked], image, 1)
    wrong = np.array(
        [
            first not in carriers.of(caption)
            for caption, first in zip(asked, firsts[:, 0], strict=True)
        ]
    )
    mistaken = asked[wrong]
    mistaken = mistaken[most_certain(space.text[mistaken], image, CAPTION_QUERIES)]
    return {
        "text_to_image": [ask(caption) for caption in captions],
        "image_to_text": [describe(picture) for picture in described],
        "certain": [ask(caption) for caption in certain.tolist()],
        "mistaken": [ask(caption) for caption in mistaken.tolist()],
    }


def most_certain(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "gallery width"],
    number: int,
) -> Int64[np.ndarray, "number"]:
    """The queries that the model is most certain about, by its own scores; fewer if none are left.

    Certain means that query and best answer prefer each other: their cosine, doubled, less the mean
    cosine of each to its ten nearest on the other side (CSLS, Conneau et al., ICLR 2018). A plain
    cosine would show the few pictures that are near to everything. A query whose best answer is
    shown already is passed over, so that one kind of picture does not fill the list.
    """
    mutual = np.empty(len(queries))
    for index, query in enumerate(queries):
        scores = gallery @ query
        best = int(np.argmax(scores))
        mutual[index] = 2 * scores[best] - _mean_of_nearest(scores)
        mutual[index] -= _mean_of_nearest(queries @ gallery[best])
    chosen: list[int] = []
    shown: set[int] = set()
    for index in np.argsort(-mutual, kind="stable").tolist():
        found, _ = nearest(queries[index], gallery, EXAMPLE_ANSWERS)
        if int(found[0]) not in shown:
            chosen.append(index)
            shown.update(found.tolist())
        if len(chosen) == number:
            break
    return np.array(chosen, np.int64)


def _mean_of_nearest(scores: Float[np.ndarray, "n"], nearest_number: int = 10) -> float:
    few = min(nearest_number, len(scores))
    return float(np.mean(np.partition(scores, -few)[-few:]))


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


@dataclasses.dataclass(frozen=True)
class Task:
    """One evaluation.

    `measure` gives the content of a cell; `needs` are views without which there is nothing to
    measure; `boxes` says that it works on pictures with boxes alone; `standard` that it is done
    unless others are asked for; `printed` picks what the printed table has of it (the report has
    everything).
    """

    measure: Callable[[Material], Content]
    needs: frozenset[str] = frozenset({"I", "T"})
    boxes: bool = False
    standard: bool = True
    printed: Callable[[str], bool] = lambda name: True


TASKS: dict[str, Task] = {
    "retrieval": Task(retrieval_task),
    "zeroshot": Task(zeroshot_task, printed=lambda name: name.startswith("top")),
    "probe": Task(probe_task, needs=frozenset("I")),
    "knn": Task(knn_task, needs=frozenset("I")),
    "few_shot": Task(few_shot_task, needs=frozenset("I")),
    "transfer": Task(transfer_task),
    "geometry": Task(geometry_task),
    "map": Task(map_task),
    "examples": Task(examples_task),
    "localisation": Task(localisation_task, boxes=True, printed=lambda name: "_by_" not in name),
    "reasoning": Task(reasoning_task, needs=frozenset({"I", "T", "IT"})),
    "multimodal": Task(multimodal_task, printed=lambda name: name.endswith("R@10")),
    "robustness": Task(
        robustness_task,
        standard=False,
        printed=lambda name: name.endswith(("_clean", "_corrupted")),
    ),
}

TASK_SETS = {
    "standard": tuple(name for name, task in TASKS.items() if task.standard),
    "all": tuple(TASKS),
}
