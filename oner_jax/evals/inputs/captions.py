"""The captions of a dataset as a gallery: each distinct one once, and who carries it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from oner_jax.data.tokenizer import caption_hash
from oner_jax.evals.metrics.ranking import Matches


@dataclasses.dataclass(frozen=True)
class CaptionGallery:
    """Distinct captions, first seen first. Captions are equal when their normalised forms are.

    `matches` leads from a picture to every caption that it or an equal picture carries; `main` is
    the picture's own main one.
    """

    texts: list[str]
    matches: Matches
    main: Int64[np.ndarray, "pictures"]


def distinct(texts: Sequence[str]) -> tuple[list[str], Int64[np.ndarray, "texts"]]:
    """The texts without repeats (equal after normalisation), and where each one went."""
    _, first, inverse = np.unique(caption_hash(texts), return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return [texts[index] for index in first[order]], place[inverse]


def caption_gallery(
    captions: Sequence[Sequence[str]],
    picture_numbers: Int64[np.ndarray, "pictures"] | None = None,
) -> CaptionGallery:
    """Make the gallery of a dataset from the captions of each picture, the main one first.

    Equal pictures have equal `picture_numbers`; None: all pictures are different.
    """
    numbers = np.arange(len(captions)) if picture_numbers is None else picture_numbers
    counts = np.array([len(own) for own in captions])
    texts, places = distinct([text for own in captions for text in own])
    owners = np.repeat(numbers, counts)
    return CaptionGallery(
        texts=texts,
        matches=Matches.from_pairs(owners, places, len(captions)).take(numbers),
        main=places[np.cumsum(counts) - counts],
    )


def different_partner(caption_ids: Int64[np.ndarray, "pictures"]) -> Int64[np.ndarray, "pictures"]:
    """A permutation that gives each picture the caption of another one, with a different text.

    Sorted by caption (in a random order of captions) and rolled by the size of the largest group of
    equal captions, which leads out of every group. Only where one caption fills more than half of
    the dataset do some rows keep their text.
    """
    scattered = np.random.default_rng(0).permutation(caption_ids.max() + 1)[caption_ids]
    order = np.argsort(scattered, kind="stable")
    partner = np.empty_like(order)
    partner[order] = np.roll(order, np.bincount(caption_ids).max())
    return partner
