"""The NumPy side of the training pipeline: what is read, and what is drawn at random."""

import itertools
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt32

from oner_jax.data import augmentation, images
from oner_jax.data.options import DataOptions
from oner_jax.data.reading import order
from oner_jax.data.reading.damage import UNREADABLE, DamagedRecord
from oner_jax.data.reading.mixture import Mixture
from oner_jax.data.tokenizer import Tokenizer, caption_hash

# Uniform numbers per training position: caption, mirror, and four for the crop.
_DRAWS = 6

_NAMES_A_SIDE = re.compile(r"\b(left|right)", re.IGNORECASE)


class Serialised(NamedTuple):
    """Records of the examples at some positions, as `Reader.sources` says which."""

    positions: Int64[np.ndarray, " n"]
    examples: Int64[np.ndarray, " n"]
    records: tuple[list[bytes], ...]


class Varied(NamedTuple):
    """What is drawn for examples. One without a caption gets a box that no picture has."""

    text: Int32[np.ndarray, "n text_tokens"]
    caption_hash: UInt32[np.ndarray, " n"]
    box: Int32[np.ndarray, "n 4"]
    mirror: Bool[np.ndarray, " n"]


class Reader:
    """Reads the examples of positions, and chooses captions, crops and mirroring for them."""

    def __init__(self, mixture: Mixture, tokenizer: Tokenizer, data: DataOptions, seed: int):
        self.mixture = mixture
        self._tokenizer = tokenizer
        self._data = data
        self._seed = seed

    def examples(self, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The examples of the mixture at these positions, whether they are damaged or not."""
        return self.mixture.examples(positions, self._seed)

    def replacement(self, example: int, position: int, attempt: int) -> int:
        """As `Mixture.replacement`."""
        return self.mixture.replacement(example, position, attempt, self._seed)

    @property
    def records_per_example(self) -> int:
        """One, but where captions are shuffled two."""
        return 2 if self._data.shuffle_captions else 1

    def sources(self, examples: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " n"], ...]:
        """What is read for examples: themselves and, where captions are shuffled, the captions'."""
        if self._data.shuffle_captions:
            return examples, self.mixture.deranged(examples)
        return (examples,)

    def read(self, positions: Int64[np.ndarray, " n"]) -> Serialised:
        """The records at these positions; those that cannot be read are left out."""
        examples = self.examples(positions)
        try:
            read = tuple(map(self.mixture.read, self.sources(examples)))
        except Exception:  # array_record raises bare exceptions of several kinds
            return self._read_readable(positions, examples)
        return Serialised(positions, examples, read)

    def _read_readable(
        self, positions: Int64[np.ndarray, " n"], examples: Int64[np.ndarray, " n"]
    ) -> Serialised:
        """One by one, which also gives storage that failed for a moment a second chance."""
        kept: list[int] = []
        records: tuple[list[bytes], ...] = tuple([] for _ in range(self.records_per_example))
        for row, sources in enumerate(zip(*self.sources(examples), strict=True)):
            try:
                read = [self.read_one(int(source)) for source in sources]
            except DamagedRecord:
                continue
            kept.append(row)
            for column, serialised in zip(records, read, strict=True):
                column.append(serialised)
        rows = np.array(kept, int)
        return Serialised(positions[rows], examples[rows], records)

    def read_one(self, example: int) -> bytes:
        """An example's record. Raises DamagedRecord if it cannot be read."""
        try:
            return self.mixture.read(np.array([example]))[0]
        except Exception as error:  # as above
            raise self.damaged(example, "", UNREADABLE, error) from error

    def damaged(self, example: int, record_id: str, reason: str, detail: object) -> DamagedRecord:
        """The exception that says so of an example's record."""
        source, index = self.mixture.place(example)
        name = self.mixture.parts[source].split.name
        return DamagedRecord(name, index, record_id, reason, detail)

    def vary(
        self,
        positions: Int64[np.ndarray, " n"],
        captions: np.ndarray,
        row_splits: Int64[np.ndarray, " n+1"] | Int32[np.ndarray, " n+1"],
        heights: Int64[np.ndarray, " n"],
        widths: Int64[np.ndarray, " n"],
    ) -> Varied:
        """Token ids and hashes of one caption per example, its crop box, whether to mirror it.

        `captions` are those of all examples, in UTF-8, `row_splits` where each example's begin.
        """
        uniforms = self._uniforms(positions)
        rows = [
            [caption.decode() for caption in captions[first:last]]
            for first, last in itertools.pairwise(row_splits)
        ]
        chosen = [
            row[int(uniform * len(row))] if row else ""
            for row, uniform in zip(rows, uniforms[:, 0], strict=True)
        ]
        text = self._tokenizer.encode(chosen, self._data.text_tokens)
        boxes, mirror = self.frame(positions, heights, widths)
        boxes[[not row for row in rows]] = images.OUTSIDE
        if self._data.flip:
            sided = [any(_NAMES_A_SIDE.search(caption) for caption in row) for row in rows]
            mirror &= ~np.array(sided, bool)
        return Varied(text, caption_hash(chosen), boxes, mirror)

    def frame(
        self,
        positions: Int64[np.ndarray, " n"],
        heights: Int64[np.ndarray, " n"],
        widths: Int64[np.ndarray, " n"],
    ) -> tuple[Int32[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
        """Crop boxes of pictures of these sizes, and whether to mirror each."""
        uniforms = self._uniforms(positions)
        boxes = images.random_crop_boxes(
            heights, widths, uniforms[:, 2:], self._data.crop_min_fraction
        )
        return boxes, (uniforms[:, 1] < 0.5) & self._data.flip

    def changes(self, positions: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n numbers"]:
        """Return how `augmentation.changed` is to change the images at these positions."""
        uniforms = order.augment_uniforms(
            positions, augmentation.DRAWS, self._seed, self.mixture.lane
        )
        return augmentation.drawn_changes(self._data.augment, uniforms, self._data.image_size)

    def _uniforms(self, positions: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n draws"]:
        return order.position_uniforms(positions, _DRAWS, self._seed, self.mixture.lane)
