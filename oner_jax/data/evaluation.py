"""A split as evaluation reads it: in its order on disk, the middle of every picture."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int64, UInt8

from oner_jax.data import images, records
from oner_jax.data.cut_outs import cut_out
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.image_files import open_image
from oner_jax.data.reading.decoding import (
    FEATURES,
    ArrayIterator,
    as_strings,
    decoded,
    no_autograph,
)
from oner_jax.errors import InputError, first_line


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """A split in its order on disk, its texts in memory and its images read on demand."""

    split: records.Split
    image_size: int
    ids: list[str]
    captions: list[list[str]]
    labels: list[str]
    metadata: list[dict[str, str]]
    first_equal: Int64[np.ndarray, " n"]  # for every image, the first one whose file is equal

    def __len__(self) -> int:
        return len(self.ids)

    def cut_outs(
        self, rows: Sequence[int], side: int
    ) -> Iterator[UInt8[np.ndarray, "side side 4"]]:
        """Yield the things in the pictures at these rows, cut out (`cut_outs.py`)."""
        for record in self.split.records(rows):
            yield cut_out(open_image(record.image), side)

    def image_batches(
        self, batch_size: int, rows: Int64[np.ndarray, " chosen"] | None = None
    ) -> Iterator[UInt8[np.ndarray, "b size size 3"]]:
        """All images in order, or those at these indices of the split, centre-cropped and resized.

        The last batch may be shorter. Raises InputError if a record cannot be read or decoded.
        """
        chosen = np.arange(len(self.split)) if rows is None else rows

        def indices_of(step: int) -> Int64[np.ndarray, " b"]:
            return chosen[step * batch_size : (step + 1) * batch_size]

        @no_autograph
        def load(step: tf.Tensor) -> dict[str, tf.Tensor]:
            serialised = tf.numpy_function(
                lambda step: as_strings(self.split.read(indices_of(int(step)))), [step], tf.string
            )
            serialised.set_shape([None])
            example = tf.io.parse_example(serialised, FEATURES)
            box = tf.numpy_function(
                images.centre_crop_boxes, [example["height"], example["width"]], tf.int32
            )
            box.set_shape([None, 4])
            mirror = tf.zeros_like(example["height"], tf.bool)
            return {"image": example["image"], "box": box, "mirror": mirror}

        steps = -(-len(chosen) // batch_size)

        def build(steps: tf.data.Dataset) -> tf.data.Dataset:
            loaded = steps.map(load, num_parallel_calls=2)
            return decoded(loaded, self.image_size, batch_size, threads=0)

        batches = ArrayIterator(tf.data.Dataset.range(steps), build)
        for step in range(steps):
            try:
                yield next(batches)["image"]
            except tf.errors.OpError as error:
                # Which record it was is left to the failure: those of its batch are tried again.
                _raise_for_bad_record(self.split, indices_of(step))
                raise RuntimeError(
                    f"dataset {self.split.name}: batch {step} failed: {error.message}"
                ) from error


def evaluation_set(name: str, *, image_size: int) -> EvaluationSet:
    """Opens a split for evaluation. Raises InputError as `records.open_split` does."""
    split = records.open_split(name)
    firsts: dict[bytes, int] = {}
    found = EvaluationSet(split, image_size, [], [], [], [], np.empty(len(split), np.int64))
    for number, record in enumerate(split.records()):
        found.ids.append(record.id)
        found.captions.append(list(record.captions))
        found.labels.append(record.label)
        found.metadata.append(dict(record.metadata))
        digest = hashlib.blake2b(record.image, digest_size=16).digest()
        found.first_equal[number] = firsts.setdefault(digest, number)
    return found


def _raise_for_bad_record(split: records.Split, indices: Iterable[SupportsIndex]) -> None:
    """Reads a failed batch's records one by one and raises InputError at the first bad one."""
    for index in indices:
        name = f"number {index}"
        try:
            record = records.Record.parse(split.read([index])[0])
            name = record.id
            images.check_decodes(record.image, record.height, record.width)
        except Exception as error:  # array_record raises bare exceptions of several kinds
            raise InputError(
                f"dataset {split.name}: record {name} cannot be decoded ({first_line(error)}); "
                "ingest the data again"
            ) from error
