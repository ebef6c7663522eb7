"""The NumPy side of the training pipeline: what is read, and what is drawn at random."""

import itertools
import re

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, UInt32

from oner_jax.data import images, order, records
from oner_jax.data.decoding import as_strings
from oner_jax.data.options import DataOptions
from oner_jax.data.text import Tokenizer, caption_hash

# Uniform numbers per training position: caption, mirror, and four for the crop.
_DRAWS = 6

_NAMES_A_SIDE = re.compile(r"\b(left|right)", re.IGNORECASE)


class TrainingReader:
    """Reads the examples of positions, and chooses captions, crops and mirroring for them."""

    def __init__(self, split: records.Split, tokenizer: Tokenizer, data: DataOptions, seed: int):
        self._split = split
        self._tokenizer = tokenizer
        self._data = data
        self._seed = seed

    def indices(self, positions: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        """The examples at these positions."""
        pairs = self._data.number_of_pairs(len(self._split))
        places = order.example_indices(positions, pairs, self._seed)[0]
        if pairs == len(self._split):
            return places
        return order.shuffled_indices(places, len(self._split))

    def text_only(self, positions: Int64[np.ndarray, " e"]) -> Int32[np.ndarray, "e text_tokens"]:
        """Token ids of one caption of each example at these positions of the unpaired rest."""
        total, pairs = len(self._split), self._data.number_of_pairs(len(self._split))
        places = pairs + order.example_indices(positions, total - pairs, self._seed)[0]
        read = self._split.read(order.shuffled_indices(places, total))
        rows = [records.Record.parse(serialised).captions for serialised in read]
        # Pairs draw at positions from 0 up; these draw at negative ones, so they are unrelated.
        uniforms = order.position_uniforms(-1 - positions, 1, self._seed)[:, 0]
        chosen = [row[int(u * len(row))] for row, u in zip(rows, uniforms, strict=True)]
        return self._tokenizer.encode(chosen, self._data.text_tokens)

    def read(self, positions: Int64[np.ndarray, " b"]) -> tuple[np.ndarray, ...]:
        """Positions, indices, the records of the pictures and those of the captions."""
        indices = self.indices(positions)
        pictures = as_strings(self._split.read(indices))
        caption_sources = pictures
        if self._data.shuffle_captions:
            others = order.deranged_indices(indices, len(self._split), seed=0)
            caption_sources = as_strings(self._split.read(others))
        return positions, indices, pictures, caption_sources

    def vary(
        self,
        positions: Int64[np.ndarray, " b"],
        captions: np.ndarray,
        row_splits: Int32[np.ndarray, " b+1"],
        heights: Int64[np.ndarray, " b"],
        widths: Int64[np.ndarray, " b"],
    ) -> tuple[
        Int32[np.ndarray, "b text_tokens"],
        UInt32[np.ndarray, " b"],
        Int32[np.ndarray, "b 4"],
        Bool[np.ndarray, " b"],
    ]:
        """Token ids and hashes of one caption per example, its crop box, whether to mirror it."""
        uniforms: Float[np.ndarray, "b draws"] = order.position_uniforms(
            positions, _DRAWS, self._seed
        )
        rows = [
            [caption.decode() for caption in captions[first:last]]
            for first, last in itertools.pairwise(row_splits)
        ]
        chosen = [
            row[int(uniform * len(row))] for row, uniform in zip(rows, uniforms[:, 0], strict=True)
        ]
        mirror = np.zeros(len(rows), bool)
        if self._data.flip:
            sided = [any(_NAMES_A_SIDE.search(caption) for caption in row) for row in rows]
            mirror = (uniforms[:, 1] < 0.5) & ~np.array(sided)
        boxes = images.random_crop_boxes(
            heights, widths, uniforms[:, 2:], self._data.crop_min_fraction
        )
        text = self._tokenizer.encode(chosen, self._data.text_tokens)
        return text, caption_hash(chosen), boxes, mirror
