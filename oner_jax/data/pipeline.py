"""Batches for training, from records through tf.data.

    positions -> indices -> records (whole batches by index) -> captions to ids, crop boxes (NumPy)
              -> images decoded in parallel -> batches, prefetched

The batch of a step is a pure function of (dataset, options, seed, step): the order comes from
`order.example_indices`, and every random choice from a hash of (seed, position). So an iterator may
start at any step, and hosts may split a batch in any number. A record that cannot be read stops the
run with an error that names it.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from oner_jax.data import records
from oner_jax.data.decoding import FEATURES, DecodedBatches, decoded, no_autograph
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.options import DataOptions
from oner_jax.data.reading import TrainingReader
from oner_jax.data.text import Tokenizer
from oner_jax.errors import InputError


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
    reader = TrainingReader(split, Tokenizer.load(data.tokenizer), data, seed)
    rows = np.arange(global_batch_size) if rows is None else rows
    captions_alone = np.arange(data.text_only_batch_size)
    text_only_rows = captions_alone if text_only_rows is None else text_only_rows

    def positions(step: int) -> Int64[np.ndarray, " b"]:
        return step * global_batch_size + rows

    @no_autograph
    def load(step: tf.Tensor) -> dict[str, tf.Tensor]:
        position, index, picture, caption_source = tf.numpy_function(
            lambda step: reader.read(positions(int(step))),
            [step],
            [tf.int64, tf.int64, tf.string, tf.string],
        )
        for tensor in (position, index, picture, caption_source):
            tensor.set_shape([len(rows)])
        example = tf.io.parse_example(picture, FEATURES)
        captions = tf.io.parse_example(caption_source, FEATURES)["captions"]
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

    @no_autograph
    def load_text_only(step: tf.Tensor) -> tf.Tensor:
        text = tf.numpy_function(
            lambda step: reader.text_only(step * data.text_only_batch_size + text_only_rows),
            [step],
            tf.int32,
        )
        text.set_shape([len(text_only_rows), data.text_tokens])
        return text

    dataset = tf.data.Dataset.counter(first_step).map(load, num_parallel_calls=2)
    dataset = decoded(dataset, data.image_size, len(rows), data.threads)
    if data.text_only_batch_size:
        captions = tf.data.Dataset.counter(first_step).map(load_text_only).prefetch(1)
        dataset = tf.data.Dataset.zip(dataset, captions).map(
            lambda batch, text_only: {**batch, "text_only": text_only}
        )

    def indices_of(step: int) -> Int64[np.ndarray, " b"]:
        return reader.indices(positions(step))

    return DecodedBatches(dataset, split, indices_of, first_step)
