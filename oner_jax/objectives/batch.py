"""What a step receives, and the same with its masks."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from oner_jax.objectives.masking import MaskedImages, MaskedWords


class Batch(NamedTuple):
    """What a step receives from the pipeline.

    `image_only` are pictures without a caption and `text_only` captions without a picture, for the
    terms that need no pair (MIM, MLM). `concept_hash` is there where equal concepts are positives.
    """

    image: UInt8[Array, "b h w 3"]
    text: Int[Array, "b length"]
    caption_hash: UInt32[Array, "b"]
    image_only: UInt8[Array, "i h w 3"] | None = None
    text_only: Int[Array, "e length"] | None = None
    concept_hash: UInt32[Array, "b"] | None = None


class BatchRows(NamedTuple):
    """How many rows of each kind a global batch has."""

    pairs: int
    image_only: int = 0
    text_only: int = 0


class PreparedBatch(NamedTuple):
    """A batch with its masks. Every leaf has examples as its first axis.

    `caption_hash` is 0 where equal captions are negatives like any other (the paper's form). With
    mosaics (`mosaics.py`), `is_mosaic` says which rows are some, and `caption_hash` has several.
    """

    image: UInt8[Array, "b h w 3"]
    text: Int[Array, "b length"]
    caption_hash: UInt32[Array, "b *parts"]
    patch_mask: Bool[Array, "b patches"]
    words: MaskedWords
    joint_words: MaskedWords
    row: Int[Array, "b"]
    image_only: MaskedImages | None = None
    text_only: MaskedWords | None = None
    concept_hash: UInt32[Array, "b"] | None = None
    is_mosaic: Bool[Array, "b"] | None = None


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """What masking and mosaics must know of the tokeniser.

    `joiner` are the ids that join the captions of a mosaic.
    """

    mask_id: int
    word_start: np.ndarray
    joiner: tuple[int, ...] = ()

    @classmethod
    def synthetic(cls, vocabulary_size: int) -> "TextFormat":
        """Every piece a word: for benchmarks and plans, where no tokeniser is at hand."""
        return cls(mask_id=2, word_start=np.arange(vocabulary_size) > 2, joiner=(3,))
