"""Batches for training and evaluation, from records through tf.data.

    positions -> indices -> records (whole batches by index) -> captions to ids, crop boxes (NumPy)
              -> images decoded in parallel -> batches, prefetched

The batch of a step is a pure function of (dataset, options, seed, step): the order comes from
`order.example_indices`, and every random choice from a hash of (seed, position). So an iterator may
start at any step, and hosts may split a batch in any number. A record that cannot be read stops the
run with an error that names it.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, UInt8, UInt32
from ml_collections import ConfigDict

from oner_jax.data import images, order, records
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.text import Tokenizer, caption_hash
from oner_jax.errors import InputError

# Batches ready ahead of the accelerator; more only costs memory.
_PREFETCH_BATCHES = 2

# Uniform numbers per training position: caption, mirror, and four for the crop.
_DRAWS = 6

# Nothing here is Python control flow to be rewritten, and not looking for it saves start-up time.
_no_autograph = tf.autograph.experimental.do_not_convert

_NAMES_A_SIDE = re.compile(r"\b(left|right)", re.IGNORECASE)

_FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "height": tf.io.FixedLenFeature([], tf.int64),
    "width": tf.io.FixedLenFeature([], tf.int64),
    "captions": tf.io.RaggedFeature(tf.string),
}


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What training reads, and how it is varied.

    `flip` mirrors half of the pictures, but none with a caption that names left or right.
    `shuffle_captions` is a control: every picture gets another picture's captions, always the
    same one's. `threads` 0 stands for all cores.

    `paired_fraction` below 1 keeps that random part of the examples as pairs. Of the rest every
    step gets `text_only_batch_size` captions without their pictures.
    """

    train: str
    tokenizer: str
    image_size: int
    text_tokens: int
    crop_min_fraction: float = 0.5
    flip: bool = False
    shuffle_captions: bool = False
    paired_fraction: float = 1.0
    text_only_batch_size: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.paired_fraction <= 1:
            raise InputError(f"data.paired_fraction={self.paired_fraction} is not in (0, 1]")
        if self.text_only_batch_size and self.paired_fraction == 1:
            raise InputError(
                f"data.text_only_batch_size={self.text_only_batch_size} takes captions of examples "
                "that are not pairs: set data.paired_fraction below 1"
            )

    def number_of_pairs(self, number_of_examples: int) -> int:
        """How many examples of a split are trained on as pairs, at least one."""
        return max(1, round(self.paired_fraction * number_of_examples))

    @classmethod
    def from_config(cls, config: ConfigDict) -> "DataOptions":
        """The options of a run's config: its `data` section, and the model's input sizes."""
        names = {field.name for field in dataclasses.fields(cls)} & set(config.data)
        sizes = {"image_size": config.model.image_size, "text_tokens": config.model.text_tokens}
        return cls(**sizes, **{name: config.data[name] for name in names})


def training_batches(
    data: DataOptions,
    *,
    global_batch_size: int,
    seed: int,
    first_step: int,
    rows: Int64[np.ndarray, " b"] | None = None,
    text_only_rows: Int64[np.ndarray, " e"] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The global batches of steps `first_step`, `first_step` + 1, ... for ever: the given rows.

    `rows` are the numbers of rows in a global batch that this host needs, `text_only_rows` those of
    captions without pictures; all by default.

    Each batch: image uint8 [b, size, size, 3], text int32 [b, text_tokens] (0 is padding),
    caption_hash uint32 [b], index int64 [b] (of the example in its split) and, where the options
    ask for them, text_only int32 [e, text_tokens]. Raises InputError if the dataset or tokenizer
    cannot be opened, and later if a record cannot be read or decoded.
    """
    split = records.open_split(data.train)
    if data.shuffle_captions and len(split) < 2:
        raise InputError(f"dataset {data.train}: shuffling captions takes at least two examples")
    reader = _TrainingReader(split, Tokenizer.load(data.tokenizer), data, seed)
    rows = np.arange(global_batch_size) if rows is None else rows
    captions_alone = np.arange(data.text_only_batch_size)
    text_only_rows = captions_alone if text_only_rows is None else text_only_rows

    def positions(step: int) -> Int64[np.ndarray, " b"]:
        return step * global_batch_size + rows

    @_no_autograph
    def load(step: tf.Tensor) -> dict[str, tf.Tensor]:
        position, index, picture, caption_source = tf.numpy_function(
            lambda step: reader.read(positions(int(step))),
            [step],
            [tf.int64, tf.int64, tf.string, tf.string],
        )
        for tensor in (position, index, picture, caption_source):
            tensor.set_shape([len(rows)])
        example = tf.io.parse_example(picture, _FEATURES)
        captions = tf.io.parse_example(caption_source, _FEATURES)["captions"]
        text, hashes, box, mirror = tf.numpy_function(
            reader.vary,
            [position, captions.values, captions.row_splits, example["height"], example["width"]],
            [tf.int32, tf.uint32, tf.int32, tf.bool],
        )
        text.set_shape([len(rows), data.text_tokens])
        hashes.set_shape([len(rows)])
        box.set_shape([len(rows), 4])
        mirror.set_shape([len(rows)])
        kept = {"text": text, "caption_hash": hashes, "index": index}
        return {"image": example["image"], "box": box, "mirror": mirror, **kept}

    @_no_autograph
    def load_text_only(step: tf.Tensor) -> tf.Tensor:
        text = tf.numpy_function(
            lambda step: reader.text_only(step * data.text_only_batch_size + text_only_rows),
            [step],
            tf.int32,
        )
        text.set_shape([len(text_only_rows), data.text_tokens])
        return text

    dataset = tf.data.Dataset.counter(first_step).map(load, num_parallel_calls=2)
    dataset = _decoded(dataset, data.image_size, len(rows), data.threads)
    if data.text_only_batch_size:
        captions = tf.data.Dataset.counter(first_step).map(load_text_only).prefetch(1)
        dataset = tf.data.Dataset.zip(dataset, captions).map(
            lambda batch, text_only: {**batch, "text_only": text_only}
        )

    def indices_of(step: int) -> Int64[np.ndarray, " b"]:
        return reader.indices(positions(step))

    return _Batches(dataset, split, indices_of, first_step)


class _TrainingReader:
    """The NumPy side of the training pipeline: what is read, and what is drawn at random."""

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
        pictures = _as_strings(self._split.read(indices))
        caption_sources = pictures
        if self._data.shuffle_captions:
            others = order.deranged_indices(indices, len(self._split), seed=0)
            caption_sources = _as_strings(self._split.read(others))
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


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """A split in its order on disk, its texts in memory and its images read on demand."""

    split: records.Split
    image_size: int
    ids: list[str]
    captions: list[list[str]]
    labels: list[str]
    metadata: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.ids)

    def image_batches(self, batch_size: int) -> Iterator[UInt8[np.ndarray, "b size size 3"]]:
        """All images in order, centre-cropped and resized; the last batch may be shorter.

        Raises InputError if a record cannot be read or decoded.
        """
        total = len(self.split)

        def indices_of(step: int) -> Int64[np.ndarray, " b"]:
            return np.arange(step * batch_size, min((step + 1) * batch_size, total))

        @_no_autograph
        def load(step: tf.Tensor) -> dict[str, tf.Tensor]:
            serialised = tf.numpy_function(
                lambda step: _as_strings(self.split.read(indices_of(int(step)))), [step], tf.string
            )
            serialised.set_shape([None])
            example = tf.io.parse_example(serialised, _FEATURES)
            box = tf.numpy_function(
                images.centre_crop_boxes, [example["height"], example["width"]], tf.int32
            )
            box.set_shape([None, 4])
            mirror = tf.zeros_like(example["height"], tf.bool)
            return {"image": example["image"], "box": box, "mirror": mirror}

        steps = -(-total // batch_size)
        dataset = tf.data.Dataset.range(steps).map(load, num_parallel_calls=2)
        dataset = _decoded(dataset, self.image_size, batch_size, threads=0)
        for batch in _Batches(dataset, self.split, indices_of, first_step=0):
            yield batch["image"]


def evaluation_set(name: str, *, image_size: int) -> EvaluationSet:
    """Opens a split for evaluation. Raises InputError as `records.open_split` does."""
    split = records.open_split(name)
    examples = [
        (record.id, list(record.captions), record.label, dict(record.metadata))
        for record in split.records()
    ]
    ids, captions, labels, metadata = (list(column) for column in zip(*examples, strict=True))
    return EvaluationSet(split, image_size, ids, captions, labels, metadata)


def _decoded(
    dataset: tf.data.Dataset, image_size: int, batch_size: int, threads: int
) -> tf.data.Dataset:
    """Batches of encoded images, boxes and mirrors to batches of pixels, in the same order."""
    threads = threads or os.cpu_count() or 1

    @_no_autograph
    def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rest = {key: example[key] for key in example if key not in ("image", "box", "mirror")}
        pixels = images.decode_crop_resize(
            example["image"], example["box"], example["mirror"], image_size
        )
        return {"image": pixels, **rest}

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.unbatch().map(decode, num_parallel_calls=threads)
    return dataset.batch(batch_size).prefetch(_PREFETCH_BATCHES).with_options(options)


class _Batches(Iterator[dict[str, np.ndarray]]):
    """A dataset's batches of steps `first_step`, ...; a failure names the record at fault.

    Finding that record is left to the failure: the step is known, so its records are tried again.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        split: records.Split,
        indices_of: Callable[[int], Int64[np.ndarray, " b"]],
        first_step: int,
    ):
        self._batches = dataset.as_numpy_iterator()
        self._split = split
        self._indices_of = indices_of
        self._step = first_step

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            batch = next(self._batches)
        except tf.errors.OpError as error:
            _raise_for_bad_record(self._split, self._indices_of(self._step))
            raise RuntimeError(
                f"dataset {self._split.name}: batch {self._step} failed: {error.message}"
            ) from error
        self._step += 1
        return batch


def _raise_for_bad_record(split: records.Split, indices: Iterable[SupportsIndex]) -> None:
    """Reads a failed batch's records one by one and raises InputError at the first bad one."""
    for index in indices:
        name = f"number {index}"
        try:
            record = records.Record.parse(split.read([index])[0])
            name = record.id
            images.check_decodes(record.image, record.height, record.width)
        except Exception as error:  # array_record raises bare exceptions of several kinds
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"dataset {split.name}: record {name} cannot be decoded ({reason}); "
                "ingest the data again"
            ) from error


def _as_strings(values: Sequence[bytes]) -> np.ndarray:
    """Bytes as an object array, the only kind that TensorFlow takes without cutting zero bytes."""
    strings = np.empty(len(values), object)
    strings[:] = values
    return strings
