"""What a step takes from one kind of data: pairs, pictures alone, or captions alone.

    positions -> examples -> records (whole batches by index) -> captions to ids, crop boxes (NumPy)
              -> images decoded in parallel -> rows of the batch, prefetched

Within tf.data, rows that fail are left out. What is missing from a step is made here, one by one:
read again, and replaced where the record is indeed damaged. So undamaged data pay nothing for it.
To tell which rows are missing, each carries its position, and the rows of a step end with a marker.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int64

from oner_jax.data import augmentation
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.options import DataOptions
from oner_jax.data.reading.damage import Loss
from oner_jax.data.reading.decoding import (
    ArrayIterator,
    as_strings,
    decoded,
    features_of,
    no_autograph,
)
from oner_jax.data.reading.kinds import Kind
from oner_jax.data.reading.mending import Mender
from oner_jax.data.reading.reader import Reader, Serialised
from oner_jax.data.records import Record
from oner_jax.data.tokenizer import concept_hash

Arrays = dict[str, np.ndarray]


class Stream(Iterator[Arrays]):
    """This host's rows of the batches of steps `first_step`, ... for ever.

    `losses` are the examples that were replaced so far. Raises InputError where a replacement is
    looked for in vain.
    """

    def __init__(
        self,
        kind: Kind,
        reader: Reader,
        data: DataOptions,
        *,
        batch_size: int,
        rows: Int64[np.ndarray, " b"],
        first_step: int,
    ):
        self._kind = kind
        self._rows, self._step = rows, first_step
        self.losses: list[Loss] = []
        # Nothing in the pipeline refers to this stream, or it would never be dropped.
        self._positions = functools.partial(_positions, batch_size, rows)
        build = functools.partial(_dataset, kind, reader, data, self._positions, len(rows))
        self._chunks = ArrayIterator(tf.data.Dataset.counter(first_step), build)
        self._rest: Arrays | None = None
        self._mender = Mender(kind, reader, data)
        self._pool = ThreadPoolExecutor(data.threads or None)

    def __next__(self) -> Arrays:
        positions = self._positions(self._step)
        found = self._rows_before_marker(_marker(self._step))
        if len(found["position"]) < len(positions):
            found = self._completed(found, positions)
        self._step += 1
        fields = self._kind.fields.items()
        return {name: found[field] for field, name in fields if field in found}

    def _rows_before_marker(self, marker: int) -> Arrays:
        """Of the chunks that tf.data gives; the rows behind the marker are the next step's."""
        parts = []
        while True:
            chunk = next(self._chunks) if self._rest is None else self._rest
            (ends,) = np.nonzero(chunk["position"] == marker)
            if len(ends):
                end = int(ends[0])
                behind = len(chunk["position"]) - end - 1
                self._rest = {name: x[end + 1 :] for name, x in chunk.items()} if behind else None
                chunk = {name: x[:end] for name, x in chunk.items()}
            parts.append(chunk)
            if len(ends):
                break
            self._rest = None
        if len(parts) == 1:
            return parts[0]  # no copy, the rule
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _completed(self, found: Arrays, positions: Int64[np.ndarray, " b"]) -> Arrays:
        """With the rows that are missing, in the order of positions."""
        is_there = np.isin(positions, found["position"])
        missing = np.flatnonzero(~is_there)
        made = list(self._pool.map(self._mender.make, positions[missing].tolist()))
        full = {}
        for name, values in found.items():
            full[name] = np.empty((len(positions), *values.shape[1:]), values.dtype)
            full[name][is_there] = values
            for row, mended in zip(missing, made, strict=True):
                full[name][row] = mended.arrays[name][0]
        self.losses += [
            Loss.of(error, self._step + 1, self._kind.key, int(self._rows[row]), attempt)
            for row, mended in zip(missing, made, strict=True)
            for attempt, error in enumerate(mended.damaged)
        ]
        return full


def _positions(
    batch_size: int, rows: Int64[np.ndarray, " b"], step: int
) -> Int64[np.ndarray, " b"]:
    """Where in all of training the rows of a step stand."""
    return step * batch_size + rows


def _marker(step: int) -> int:
    """What stands for the position in the marker of a step."""
    return -1 - step


@functools.cache
def _marker_record() -> bytes:
    """A record that never fails."""
    image = tf.io.encode_png(tf.zeros([1, 1, 3], tf.uint8)).numpy()
    return Record("marker", image, 1, 1, ("",)).serialise()


def _dataset(
    kind: Kind,
    reader: Reader,
    data: DataOptions,
    positions_of: Callable[[int], Int64[np.ndarray, " b"]],
    rows: int,
    steps: tf.data.Dataset,
) -> tf.data.Dataset:
    """Arrays of rows, each with its `position`: of every step those that could be made, its
    marker, then the next step's. Where none is missing, an array holds a step and its marker."""

    def marked(step: int, read: Serialised) -> tuple[np.ndarray, ...]:
        marker = [_marker_record()]
        return (
            np.append(read.positions, _marker(step)),
            np.append(read.examples, 0),
            *(as_strings(each + marker) for each in read.records),
        )

    def read(step: np.int64) -> tuple[np.ndarray, ...]:
        return marked(int(step), reader.read(positions_of(int(step))))

    def read_nothing(step: np.int64) -> tuple[np.ndarray, ...]:
        none = np.empty(0, np.int64)
        return marked(int(step), Serialised(none, none, ([],) * reader.records_per_example))

    prepared = functools.partial(_prepared, kind, reader, data)

    @no_autograph
    def load(step: tf.Tensor) -> dict[str, tf.Tensor]:
        """All rows; where any of the records is malformed none, as parsing is of all at once."""
        attempts = [
            tf.data.Dataset.from_tensors(step).map(functools.partial(prepared, how))
            for how in (read, read_nothing)
        ]
        return attempts[0].ignore_errors().concatenate(attempts[1]).take(1).get_single_element()

    dataset = steps.map(load, num_parallel_calls=2)
    if not kind.pictures:
        return dataset.prefetch(1)
    return decoded(
        dataset,
        data.image_size,
        rows + 1,
        data.threads,
        augment=data.augment,
        leave_out_failures=True,
    )


@no_autograph
def _prepared(
    kind: Kind,
    reader: Reader,
    data: DataOptions,
    read: Callable[[np.int64], tuple[np.ndarray, ...]],
    step: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """The records of a step parsed, with what is drawn for each."""
    position, index, *serialised = tf.numpy_function(
        read, [step], [tf.int64, tf.int64, *[tf.string] * reader.records_per_example]
    )
    for tensor in (position, index, *serialised):
        tensor.set_shape([None])
    rows = {"position": position, "index": index}
    features = features_of(kind, data)
    parsed = [tf.io.parse_example(records, features) for records in serialised]
    picture, captions = parsed[0], parsed[-1]["captions"]
    if not kind.captions:
        box, mirror = tf.numpy_function(
            reader.frame, [position, picture["height"], picture["width"]], [tf.int32, tf.bool]
        )
    else:
        text, hashes, box, mirror = tf.numpy_function(
            reader.vary,
            [position, captions.values, captions.row_splits, picture["height"], picture["width"]],
            [tf.int32, tf.uint32, tf.int32, tf.bool],
        )
        text.set_shape([None, data.text_tokens])
        hashes.set_shape([None])
        rows |= {"text": text, "caption_hash": hashes}
        if data.reads_concepts and "concept_hash" in kind.fields:
            rows["concept_hash"] = hashes
            if data.concept_field:
                named = parsed[-1][data.concept_field]
                rows["concept_hash"] = tf.numpy_function(concept_hash, [named, hashes], tf.uint32)
                rows["concept_hash"].set_shape([None])
    if not kind.pictures:
        has_text = captions.row_lengths() > 0
        return {name: tf.boolean_mask(tensor, has_text) for name, tensor in rows.items()}
    box.set_shape([None, 4])
    mirror.set_shape([None])
    if data.augment.is_active:
        rows["change"] = tf.numpy_function(reader.changes, [position], tf.float32)
        rows["change"].set_shape([None, augmentation.NUMBERS])
    return {"image": picture["image"], "box": box, "mirror": mirror, **rows}
