"""Text-guided reasoning: a prompt beside a picture of several things turns the model to one.

docs/method.md, Evaluation protocols: [CLS] of {image, prompt} against the texts of all classes.
With an empty text the model ranks what it likes; with a prompt, the prompted thing should come
first. A prompt that IS the class's name gives the answer away, so every number stands beside the
same prompt at a picture that does not show the thing. A prompt that names only a category
("animals", the paper's "look at animal") cannot be answered from the words alone.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from oner_jax.evals.inputs.features import PRIMARY, SPACES
from oner_jax.evals.inputs.scenes import ComposedScenes
from oner_jax.evals.inputs.task_inputs import Material, Vectors
from oner_jax.evals.metrics.measurement import Measurement, absent, measured
from oner_jax.evals.metrics.ranking import nearest
from oner_jax.evals.tasks.localisation import other_picture

FEWEST_QUERIES = 30  # fewer say nothing
EXAMPLE_SCENES = 4
EXAMPLE_ANSWERS = 5


def places(
    queries: Float[np.ndarray, "queries width"],
    classes: Float[np.ndarray, "classes width"],
    right: Int64[np.ndarray, "queries"],
) -> Float[np.ndarray, "queries"]:
    """Where the right class stands in the ranking: the share of the others in front of it.

    0 is first, 1 last, and a random ranking gives 0.5. Ties count against the model.
    """
    scores = queries @ classes.T
    own = scores[np.arange(len(right)), right]
    in_front = ~(scores < own[:, None])
    in_front[np.arange(len(right)), right] = False
    return in_front.sum(axis=1) / max(1, len(classes) - 1)


def comes_first(
    queries: Float[np.ndarray, "queries width"],
    candidates: Float[np.ndarray, "queries candidates width"],
    place: Int64[np.ndarray, "queries"],
) -> Bool[np.ndarray, "queries"]:
    """Whether candidate `place[q]` of query q has the highest cosine; ties count as no."""
    scores = np.einsum("qw,qcw->qc", queries, candidates)
    rows = np.arange(len(place))
    own = scores[rows, place]
    scores[rows, place] = -np.inf
    return own > scores.max(axis=1)


def by_name(
    scenes: ComposedScenes,
    classes: Float[np.ndarray, "classes width"],
    right: Int64[np.ndarray, "queries"],
    *,
    unprompted: Float[np.ndarray, "scenes width"],
    prompted: Float[np.ndarray, "queries width"],
    elsewhere: Float[np.ndarray, "queries width"],
) -> dict[str, Measurement]:
    """Every object prompted for by its name.

    `right` is the class of each object; `elsewhere[q]` is the prompt of query q at the scene of
    query `other_picture[q]`, which does not show the thing.

    `name_place` is the mean place of the prompted object among all classes; beside it the place
    without a prompt and that under the same prompt where the thing is not shown. `name_flip`: of
    the objects that are not first among the scene's own without a prompt, how many become first
    with it; `name_flip_elsewhere`: how many become first when the prompt names something that the
    scene does not show. `name_gain` is how far the object rises in the ranking, beside how far it
    rises when something else is prompted for.
    """
    scene = scenes.pictures
    objects = len(scenes.layouts[0].pictures)
    asked = np.arange(len(scene)) % objects
    rivals = classes[right.reshape(-1, objects)][scene]
    other = other_picture(scene)
    misled = np.empty_like(elsewhere)  # row q: the scene of query q under a prompt for elsewhere
    misled[other] = elsewhere
    before, after = (places(vectors, classes, right) for vectors in (unprompted[scene], prompted))
    not_first = ~comes_first(unprompted[scene], rivals, asked)
    flipped, flipped_wrongly = (
        comes_first(vectors, rivals, asked)[not_first] for vectors in (prompted, misled)
    )
    candidates = 1.0 / objects
    aside = float((before - places(misled, classes, right)).mean())
    return {
        "name_place": Measurement.mean(after, 0.5, scene),
        "name_place_no_prompt": Measurement.mean(before, 0.5, scene),
        "name_place_elsewhere": Measurement.mean(places(elsewhere, classes, right), 0.5, scene),
        "name_gain": Measurement.mean(before - after, aside, scene),
        **{
            name: Measurement.mean(own, candidates, scene[not_first], examples=len(scenes.layouts))
            for name, own in (("name_flip", flipped), ("name_flip_elsewhere", flipped_wrongly))
        },
    }


def by_category(
    rivals: Float[np.ndarray, "queries objects width"],
    asked: Int64[np.ndarray, "queries"],
    classes: Float[np.ndarray, "classes width"],
    right: Int64[np.ndarray, "queries"],
    scene: Int64[np.ndarray, "queries"],
    *,
    unprompted: Float[np.ndarray, "queries width"],
    prompted: Float[np.ndarray, "queries width"],
    prompt_alone: Float[np.ndarray, "queries width"],
) -> dict[str, Measurement]:
    """Objects prompted for by the category that they alone belong to in their scene.

    `rivals` are the texts of the scene's objects, the one asked for at `asked`. `category_place`
    and `category_flip` are as by name; beside the place stand those without a prompt and with the
    prompt's words alone, which cannot know which animal it is.
    """
    objects = rivals.shape[1]
    not_first = ~comes_first(unprompted, rivals, asked)
    flipped = comes_first(prompted, rivals, asked)[not_first]
    by_query = {
        "category_place": prompted,
        "category_place_no_prompt": unprompted,
        "category_place_words_only": prompt_alone,
    }
    return {
        **{
            name: Measurement.mean(places(vectors, classes, right), 0.5, scene)
            for name, vectors in by_query.items()
        },
        "category_flip": Measurement.mean(
            flipped, 1.0 / objects, scene[not_first], examples=int(scene.max()) + 1
        ),
    }


def category_queries(
    metadata: Sequence[Mapping[str, str]], scenes: ComposedScenes
) -> tuple[Int64[np.ndarray, "queries"], list[str]]:
    """The scenes' queries whose object has a category of its own in its scene, and its name.

    The category is the metadata field `group`. One that is only its collection's name (`source`)
    says nothing, and two that share a word are not told apart.
    """
    chosen, names = [], []
    objects = [picture for layout in scenes.layouts for picture in layout.pictures]
    for query, picture in enumerate(objects):
        words = _words(metadata[picture].get("group", ""))
        others = np.flatnonzero(scenes.pictures == scenes.pictures[query])
        clash = [
            set(words) & set(_words(metadata[objects[other]].get("group", "")))
            for other in others
            if other != query
        ]
        if words and words != _words(metadata[picture].get("source", "")) and not any(clash):
            chosen.append(query)
            names.append(" ".join(words))
    return np.array(chosen, np.int64), names


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W_]+", text.lower()) if word != "and"]


def reasoning_task(material: Material) -> dict[str, Any]:
    """Prompts by name and by category in the model's two spaces, and a few scenes to show."""
    scenes, corpus = material.scenes, material.corpus
    if len(scenes.layouts) < 2:
        return absent("too few pictures with different captions for a scene")
    mains = np.unique(corpus.gallery.main)
    names = [corpus.gallery.texts[index] for index in mains]
    objects = [picture for layout in scenes.layouts for picture in layout.pictures]
    right = np.searchsorted(mains, corpus.gallery.main[objects])
    prompts = [material.prompt.format(phrase) for phrase in scenes.phrases]
    scene, number = scenes.pictures, len(scenes.layouts)
    unprompted = material.prompted(scenes.images, np.arange(number), [""] * number)
    prompted = material.prompted(scenes.images, scene, prompts)
    elsewhere = material.prompted(scenes.images, scene[other_picture(scene)], prompts)
    classes = {space: material.spaces[space].text[mains] for space in SPACES}
    results = {
        space: by_name(
            scenes,
            classes[space],
            right,
            unprompted=unprompted[space],
            prompted=prompted[space],
            elsewhere=elsewhere[space],
        )
        for space in SPACES
    }
    for space, found in _categories(material, classes, right, unprompted).items():
        results[space] |= found
    shown = (classes[PRIMARY], unprompted[PRIMARY], prompted[PRIMARY])
    return {
        **measured(results),
        "classes": len(mains),
        "examples": [
            _example(scenes, index, names, right, *shown)
            for index in range(min(EXAMPLE_SCENES, number))
        ],
    }


def _categories(
    material: Material, classes: Vectors, right: np.ndarray, unprompted: Vectors
) -> dict[str, dict[str, Measurement]]:
    scenes = material.scenes
    queries, names = category_queries(material.examples.metadata, scenes)
    if len(queries) < FEWEST_QUERIES:
        return {}
    objects = len(scenes.layouts[0].pictures)
    scene = scenes.pictures[queries]
    prompts = [material.prompt.format(name) for name in names]
    prompted = material.prompted(scenes.images, scene, prompts)
    alone = material.texts(prompts)
    return {
        space: by_category(
            classes[space][right.reshape(-1, objects)][scene],
            queries % objects,
            classes[space],
            right[queries],
            scene,
            unprompted=unprompted[space][scene],
            prompted=prompted[space],
            prompt_alone=alone[space],
        )
        for space in SPACES
    }


def _example(
    scenes: ComposedScenes,
    index: int,
    names: Sequence[str],
    right: np.ndarray,
    classes: np.ndarray,
    unprompted: np.ndarray,
    prompted: np.ndarray,
) -> dict[str, Any]:
    layout = scenes.layouts[index]
    queries = np.flatnonzero(scenes.pictures == index)
    before, after = (
        1 + np.rint(places(vectors, classes, right[queries]) * (len(classes) - 1)).astype(int)
        for vectors in (np.repeat(unprompted[[index]], len(queries), axis=0), prompted[queries])
    )

    def ranking(query: np.ndarray) -> list[str]:
        return [names[found] for found in nearest(query, classes, EXAMPLE_ANSWERS)[0]]

    return {
        "layout": {"pictures": layout.pictures, "tiles": layout.tiles},
        "no_prompt": ranking(unprompted[index]),
        "prompts": [
            {
                "name": scenes.phrases[query],
                "answers": ranking(prompted[query]),
                "rank": int(after[place]),
                "rank_no_prompt": int(before[place]),
            }
            for place, query in enumerate(queries.tolist())
        ],
    }
