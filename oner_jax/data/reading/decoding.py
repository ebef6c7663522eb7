"""Batches of records to batches of pixels, in tf.data."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from oner_jax.data import augmentation, images
from oner_jax.data.cores import available_cores
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.options import UNCHANGED, AugmentOptions, DataOptions
from oner_jax.data.reading.kinds import Kind

# Batches ready ahead of the accelerator; more only costs memory.
_PREFETCH_BATCHES = 2

# Nothing here is Python control flow to be rewritten, and not looking for it saves start-up time.
no_autograph = tf.autograph.experimental.do_not_convert

FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "height": tf.io.FixedLenFeature([], tf.int64),
    "width": tf.io.FixedLenFeature([], tf.int64),
    "captions": tf.io.RaggedFeature(tf.string),
}


def features_of(kind: Kind, data: DataOptions) -> dict[str, Any]:
    """Return what is parsed of a record; a field that names its concept is empty by default."""
    if not (data.reads_concepts and data.concept_field and "concept_hash" in kind.fields):
        return FEATURES
    return FEATURES | {data.concept_field: tf.io.FixedLenFeature([], tf.string, "")}


def decoded(
    dataset: tf.data.Dataset,
    image_size: int,
    batch_size: int,
    threads: int,
    *,
    augment: AugmentOptions = UNCHANGED,
    leave_out_failures: bool = False,
) -> tf.data.Dataset:
    """Batches of encoded images, boxes and mirrors to batches of pixels, in the same order.

    With `augment`, batches also hold a `change` for each image (`augmentation.drawn_changes`).
    What cannot be decoded is an error, or is left out: then the next batch's first rows move up.
    """
    threads = threads or available_cores()

    @no_autograph
    def route(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {**batch, "route": images.routes(batch["image"], batch["box"], image_size)}

    @no_autograph
    def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        encoded, box, route, mirror = map(example.pop, ("image", "box", "route", "mirror"))
        pixels = images.decode_crop_resize(encoded, box, route, mirror, image_size)
        if augment.is_active:
            pixels = augmentation.changed(pixels, example.pop("change"), augment)
        return {"image": pixels, **example}

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.map(route).unbatch().map(decode, num_parallel_calls=threads)
    if leave_out_failures:
        dataset = dataset.ignore_errors()
    return dataset.batch(batch_size).prefetch(_PREFETCH_BATCHES).with_options(options)


class ArrayIterator(Iterator[dict[str, np.ndarray]]):
    """The arrays of `build(steps)`, which may be dropped at any time.

    TensorFlow takes an iterator down with Python's lock in its hands, and waits for calls in
    flight; a `numpy_function` among them waits for that lock. So one that is dropped, or left when
    the program ends, runs dry first: no step is begun any more, what is in flight is awaited.
    """

    def __init__(self, steps: tf.data.Dataset, build: Callable[[tf.data.Dataset], tf.data.Dataset]):
        wanted = tf.Variable(True, trainable=False)
        dataset = build(steps.take_while(no_autograph(lambda _: wanted.read_value())))
        self._arrays = dataset.as_numpy_iterator()
        weakref.finalize(self, _run_dry, self._arrays, wanted)

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._arrays)


def _run_dry(arrays: Iterator[dict[str, np.ndarray]], wanted: tf.Variable) -> None:
    wanted.assign(False)
    while True:
        with contextlib.suppress(tf.errors.OpError):
            if next(arrays, None) is None:
                return


@functools.cache
def decoder(image_size: int, augment: AugmentOptions = UNCHANGED) -> Callable[..., tf.Tensor]:
    """One picture as `decoded` makes it: (encoded, box, mirror) to pixels, for use outside it.

    With `augment`, a fourth argument is the picture's change.
    """
    signature = [
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([4], tf.int32),
        tf.TensorSpec([], tf.bool),
    ]
    if augment.is_active:
        signature.append(tf.TensorSpec([augmentation.NUMBERS], tf.float32))

    @tf.function(input_signature=signature, autograph=False)
    def decode(
        encoded: tf.Tensor, box: tf.Tensor, mirror: tf.Tensor, *change: tf.Tensor
    ) -> tf.Tensor:
        route = images.routes(encoded, box, image_size)
        pixels = images.decode_crop_resize(encoded, box, route, mirror, image_size)
        return augmentation.changed(pixels, change[0], augment) if change else pixels

    return decode


def as_strings(values: Sequence[bytes]) -> np.ndarray:
    """Bytes as an object array, the only kind that TensorFlow takes without cutting zero bytes."""
    strings = np.empty(len(values), object)
    strings[:] = values
    return strings
