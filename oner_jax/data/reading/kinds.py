"""The kinds of data that a step takes: pairs, pictures alone, captions alone."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of data by its key of `config.data`: what its records need, what becomes of them.

    `fields` are names of arrays, those of a stream that are there, and what they are called in a
    batch.
    """

    key: str
    lane: int
    pictures: bool
    captions: bool
    fields: Mapping[str, str]


PAIRS = Kind(
    key="train",
    lane=0,
    pictures=True,
    captions=True,
    fields={name: name for name in ("image", "text", "caption_hash", "concept_hash", "index")},
)
IMAGE_ONLY = Kind("image_only", 1, pictures=True, captions=False, fields={"image": "image_only"})
TEXT_ONLY = Kind("text_only", 2, pictures=False, captions=True, fields={"text": "text_only"})
KINDS = (PAIRS, IMAGE_ONLY, TEXT_ONLY)
