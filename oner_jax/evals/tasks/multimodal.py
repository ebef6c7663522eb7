"""Multi-modal retrieval: a picture and a phrase together ask for another picture.

docs/method.md, Evaluation protocols: query = [CLS] of {image, phrase} ("long neck" at a zebra: a
giraffe), gallery = [CLS] of every image; beside it the image alone, the phrase alone and the sum of
both. Questions are made from what a dataset knows of its pictures:

- `same_object`: a thing drawn by one vendor, with its name; right are the other vendors' drawings.
  Either half could answer alone: do they help each other?
- `same_vendor`: a thing drawn by one vendor and the name of ANOTHER thing; right is that other
  thing by that vendor. The phrase alone cannot tell the vendor, the picture not the thing.
- `changed_word`: a picture and one word in which another picture's caption differs from its own
  ("man singer", woman); right are the pictures of the changed caption. the paper's own kind.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from oner_jax.data.tokenizer import normalised_caption
from oner_jax.evals.inputs.features import PRIMARY, SPACES
from oner_jax.evals.inputs.task_inputs import Material
from oner_jax.evals.metrics.measurement import Measurement, absent, measured
from oner_jax.evals.metrics.ranking import (
    Matches,
    best_ranks,
    expected_recall,
    nearest,
    unit_vectors,
)
from oner_jax.evals.tasks.retrieval import RECALL_AT

MAXIMUM_QUERIES = 1000
FEWEST_QUERIES = 30  # fewer say nothing
FEWEST_CAPTIONS = 5  # with a word, or else the word alone tells the answer
EXAMPLE_QUERIES = 3
EXAMPLE_ANSWERS = 5

Question = tuple[int, str, Sequence[int]]  # picture, phrase, right pictures


@dataclasses.dataclass(frozen=True)
class Questions:
    """Query q shows picture `pictures[q]` and says `phrases[q]`; `right` leads to pictures."""

    pictures: Int64[np.ndarray, "queries"]
    phrases: list[str]
    right: Matches

    @classmethod
    def of(cls, asked: Sequence[Question]) -> "Questions":
        """At most 1000 of them, chosen by a fixed seed."""
        if len(asked) > MAXIMUM_QUERIES:
            kept = np.random.default_rng(0).choice(len(asked), MAXIMUM_QUERIES, replace=False)
            asked = [asked[index] for index in np.sort(kept)]
        answers = [len(right) for _, _, right in asked]
        members = [picture for _, _, right in asked for picture in right]
        return cls(
            pictures=np.array([picture for picture, _, _ in asked], np.int64),
            phrases=[phrase for _, phrase, _ in asked],
            right=Matches.from_pairs(
                np.repeat(np.arange(len(asked)), answers), np.array(members, np.int64), len(asked)
            ),
        )


def same_object(
    captions: Sequence[str], concepts: Sequence[str], vendors: Sequence[str]
) -> Iterator[Question]:
    """Every picture whose concept other vendors draw too, with its caption."""
    by_concept = _grouped(concepts)
    for picture, (concept, vendor) in enumerate(zip(concepts, vendors, strict=True)):
        others = [other for other in by_concept[concept] if vendors[other] != vendor]
        if concept and vendor and others:
            yield picture, captions[picture], others


def same_vendor(
    captions: Sequence[str], concepts: Sequence[str], vendors: Sequence[str]
) -> Iterator[Question]:
    """For every such picture: its caption, at another thing by its vendor that others draw too."""
    random = np.random.default_rng(0)
    targets = [(picture, phrase) for picture, phrase, _ in same_object(captions, concepts, vendors)]
    by_vendor: dict[str, list[int]] = defaultdict(list)
    for picture, _ in targets:
        by_vendor[vendors[picture]].append(picture)
    for picture, phrase in targets:
        vendor, concept = vendors[picture], concepts[picture]
        shown = [other for other in by_vendor[vendor] if concepts[other] != concept]
        if shown:
            right = [other for other in by_vendor[vendor] if concepts[other] == concept]
            yield shown[random.integers(len(shown))], phrase, right


def changed_word(captions: Sequence[str]) -> Iterator[Question]:
    """Pictures whose captions differ in one word, that word said; only words of many captions."""
    words = [tuple(re.findall(r"\w+", normalised_caption(caption))) for caption in captions]
    carriers: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for picture, own in enumerate(words):
        carriers[own].append(picture)
    in_captions: dict[str, int] = defaultdict(int)
    frames: dict[tuple[tuple[str, ...], tuple[str, ...]], set[str]] = defaultdict(set)
    for own in carriers:
        for word in set(own):
            in_captions[word] += 1
        if len(own) > 1:
            for place, word in enumerate(own):
                frames[own[:place], own[place + 1 :]].add(word)
    for (before, after), fillings in frames.items():
        for word in sorted(fillings):
            said = [other for other in sorted(fillings) if in_captions[other] >= FEWEST_CAPTIONS]
            for other in said:
                if other != word:
                    right = carriers[*before, other, *after]
                    for picture in carriers[*before, word, *after]:
                        yield picture, other, right


def _grouped(values: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        groups[value].append(index)
    return groups


def question_sets(
    captions: Sequence[str], metadata: Sequence[Mapping[str, str]]
) -> dict[str, Questions]:
    """The kinds of questions that a dataset has at least 30 of.

    `metadata` fields: `concept` (equal for drawings of the same thing) and `source` (the vendor).
    """
    concepts, vendors = (
        [own.get(field, "") for own in metadata] for field in ("concept", "source")
    )
    asked = {
        "same_object": list(same_object(captions, concepts, vendors)),
        "same_vendor": list(same_vendor(captions, concepts, vendors)),
        "changed_word": list(changed_word(captions)),
    }
    return {
        name: Questions.of(questions)
        for name, questions in asked.items()
        if len(questions) >= FEWEST_QUERIES
    }


def multimodal(
    queries: Mapping[str, Float[np.ndarray, "queries width"]],
    gallery: Float[np.ndarray, "pictures width"],
    questions: Questions,
) -> dict[str, Measurement]:
    """`KIND_R@k` for every kind of query vector, in the gallery without the picture shown."""
    itself = Matches(np.arange(len(questions.pictures) + 1), questions.pictures)
    results = {}
    for kind, vectors in queries.items():
        ranks = best_ranks(vectors, gallery, questions.right, itself)
        for k in RECALL_AT:
            chance = expected_recall(questions.right.counts, len(gallery) - 1, k)
            results[f"{kind}_R@{k}"] = Measurement.mean(ranks <= k, chance, questions.pictures)
    return results


def multimodal_task(material: Material) -> dict[str, Any]:
    """Every kind of question in the model's two spaces; joint queries where the model has them."""
    pictures = material.corpus.distinct_pictures  # questions count these
    sets = question_sets(
        [material.corpus.main_captions[row] for row in pictures],
        [material.examples.metadata[row] for row in pictures],
    )
    if not sets:
        return absent("no concepts by several vendors and no captions that differ in one word")
    results: dict[str, dict[str, Measurement]] = {space: {} for space in SPACES}
    examples = {}
    for name, questions in sets.items():
        queries = _query_vectors(material, questions)
        for space in SPACES:
            gallery = material.spaces[space].image[pictures]
            own = multimodal(queries[space], gallery, questions)
            results[space] |= {f"{name}_{metric}": value for metric, value in own.items()}
        examples[name] = _examples(material, questions, queries[PRIMARY])
    return {**measured(results), "examples": examples}


def _query_vectors(material: Material, questions: Questions) -> dict[str, dict[str, np.ndarray]]:
    """By space: the joint view where there is one, each half alone, and their sum."""
    phrases = material.texts(questions.phrases)
    rows = material.corpus.distinct_pictures[questions.pictures]
    shown, place = np.unique(rows, return_inverse=True)
    joint = None
    if "IT" in material.model.views:
        joint = material.prompted(material.images(shown.tolist()), place, questions.phrases)
    vectors = {}
    for space in SPACES:
        image, text = material.spaces[space].image[rows], phrases[space]
        vectors[space] = {} if joint is None else {"joint": joint[space]}
        vectors[space] |= {"image": image, "text": text, "sum": unit_vectors(image + text)}
    return vectors


def _examples(
    material: Material, questions: Questions, queries: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """A few questions by a fixed seed, and what each kind of query finds."""
    number = len(questions.phrases)
    random = np.random.default_rng(0)
    chosen = random.choice(number, min(EXAMPLE_QUERIES, number), replace=False)
    pictures = material.corpus.distinct_pictures
    gallery = material.spaces[PRIMARY].image[pictures]
    captions = [material.corpus.main_captions[row] for row in pictures]

    def answers(query: int, vector: np.ndarray) -> list[dict[str, Any]]:
        found, _ = nearest(vector, gallery, EXAMPLE_ANSWERS + 1)
        return [
            {
                "index": int(pictures[index]),
                "caption": captions[index],
                "hit": bool(index in questions.right.of(query)),
            }
            for index in found
            if index != questions.pictures[query]
        ][:EXAMPLE_ANSWERS]

    return [
        {
            "index": int(pictures[questions.pictures[query]]),
            "caption": captions[questions.pictures[query]],
            "phrase": questions.phrases[query],
            "right": sorted({captions[picture] for picture in questions.right.of(query)}),
            "found": {kind: answers(query, vectors[query]) for kind, vectors in queries.items()},
        }
        for query in chosen.tolist()
    ]
