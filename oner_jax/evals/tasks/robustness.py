"""What is left of retrieval and of naming when pictures are noisy, blurred, washed out or packed.

Every corruption of `corruptions.py` in five severities on the same pictures, beside the pictures as
they are: recall at 1 of a picture's captions, and zero-shot accuracy where pictures have labels.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from oner_jax.evals.inputs.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from oner_jax.evals.inputs.features import PRIMARY, encode_pictures
from oner_jax.evals.inputs.task_inputs import Material
from oner_jax.evals.metrics.measurement import Measurement, measured
from oner_jax.evals.metrics.ranking import Matches, best_ranks, expected_recall
from oner_jax.evals.tasks.zeroshot import class_vectors

MAXIMUM_PICTURES = 500
CLEAN = "clean"


@dataclasses.dataclass(frozen=True)
class CorruptedPictures:
    """Pictures under one corruption in all severities: row r is picture r // 5."""

    pixels: UInt8[np.ndarray, "pictures size size 3"]
    name: str

    def image_batches(
        self, batch_size: int, rows: Int64[np.ndarray, "chosen"] | None = None
    ) -> Iterator[UInt8[np.ndarray, "b size size 3"]]:
        """Their pixels, in order."""
        wanted = np.arange(len(SEVERITIES) * len(self.pixels)) if rows is None else rows
        for first in range(0, len(wanted), batch_size):
            batch = [divmod(row, len(SEVERITIES)) for row in wanted[first : first + batch_size]]
            yield np.stack(
                [
                    corrupted(self.pixels[picture], self.name, SEVERITIES[place], int(picture))
                    for picture, place in batch
                ]
            )


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of so many pictures: `matches` leads from those at `asked` to the gallery."""

    pictures: int
    gallery: Float[np.ndarray, "gallery width"]
    matches: Matches
    asked: Int64[np.ndarray, "asked"]

    @property
    def chance(self) -> float:
        """Of a right answer at the first attempt."""
        return expected_recall(self.matches.counts, len(self.gallery), 1)

    def hits(
        self, vectors: Float[np.ndarray, "rows width"]
    ) -> Bool[np.ndarray, "asked severities"]:
        """Right at the first attempt; `vectors` has all severities of a picture together."""
        by_picture = vectors.reshape(self.pictures, -1, vectors.shape[1])[self.asked]
        found = [
            best_ranks(by_picture[:, number], self.gallery, self.matches) == 1
            for number in range(by_picture.shape[1])
        ]
        return np.stack(found, axis=1)


def robustness_task(material: Material) -> dict[str, Any]:
    """`KIND_clean`, `KIND_CORRUPTION` (mean over severities) and `KIND_corrupted` (over all), of
    the online weights in the primary space; `by_severity` has the severities apart.

    KIND is `text` (R@1 of captions) and, with labels, `class` (zero-shot top 1).
    """
    space, chosen = material.spaces[PRIMARY], material.corpus.distinct_pictures
    if len(chosen) > MAXIMUM_PICTURES:
        random = np.random.default_rng(0)
        chosen = chosen[np.sort(random.choice(len(chosen), MAXIMUM_PICTURES, replace=False))]
    pixels = material.images(chosen)
    questions = _questions(material, chosen)
    hits = {kind: {CLEAN: own.hits(space.image[chosen])} for kind, own in questions.items()}
    for name in CORRUPTIONS:
        vectors = encode_pictures(
            CorruptedPictures(pixels, name),
            len(chosen) * len(SEVERITIES),
            lambda images, rows: {"image": material.model(images=images)},
            material.announce(f"encoding under {name.replace('_', ' ')}"),
        )["image"][PRIMARY]
        for kind, question in questions.items():
            hits[kind][name] = question.hits(vectors)
    return {
        **measured({PRIMARY: _measurements(questions, hits)}),
        "pictures_corrupted": len(chosen),
        "by_severity": {
            kind: {name: np.round(own.mean(axis=0), 6).tolist() for name, own in found.items()}
            for kind, found in hits.items()
        },
    }


def _questions(material: Material, chosen: Int64[np.ndarray, "chosen"]) -> dict[str, Question]:
    corpus, space = material.corpus, material.spaces[PRIMARY]
    matches = corpus.gallery.matches.take(chosen)
    questions = {"text": Question(len(chosen), space.text, matches, np.arange(len(chosen)))}
    classes = corpus.classes[chosen]
    labelled = np.flatnonzero(classes >= 0)
    if len(corpus.class_names) >= 2 and len(labelled):
        right = Matches.from_pairs(np.arange(len(labelled)), classes[labelled], len(labelled))
        gallery = class_vectors(space.prompts)
        questions["class"] = Question(len(chosen), gallery, right, labelled)
    return questions


def _measurements(
    questions: Mapping[str, Question], hits: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, Measurement]:
    found = {}
    for kind, by_name in hits.items():
        means = {name: own.mean(axis=1) for name, own in by_name.items()}
        means["corrupted"] = np.mean([means[name] for name in CORRUPTIONS], axis=0)
        for name, own in means.items():
            found[f"{kind}_{name}"] = Measurement.mean(own, questions[kind].chance)
    return found
