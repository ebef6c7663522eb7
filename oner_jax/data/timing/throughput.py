"""How fast this host makes batches: the input alone, beside what bounds it and beside a peer.

The contestants make pixels of the same pictures, and ids of the same captions, in turn, round by
round, so that whatever else the machine does slows all of them:

    oner_jax     records to batches, as training gets them
    bare         decode, crop and resize in a loop over files in memory, a thread on every core:
                 the same operations and pixels, no records, order, captions or batches. At 224 px
                 no JPEG is decoded at a reduced scale, neither here nor in training
    decode       the same without the resize
    webdataset   tar files through webdataset and Pillow, a process on every core
                 (where webdataset is installed)
"""

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from oner_jax.data import images, pipeline, records
from oner_jax.data.cores import available_cores
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.options import DataOptions
from oner_jax.data.progress import Progress
from oner_jax.data.timing import photos, webdataset_peer
from oner_jax.data.timing.delivery import Delivery, resident_bytes
from oner_jax.data.timing.stopwatch import Spent, Stopwatch
from oner_jax.data.tokenizer import EMBEDDED

HEIGHT, WIDTH = 480, 640
OURS = "oner_jax"

_PICTURES = 128
_FILES_A_CALL = 64
_SHARD_BYTES = 4 * 2**20


@dataclasses.dataclass(frozen=True)
class InputShape:
    """What is made of the pairs, and how many make a batch."""

    image_size: int = 224
    text_tokens: int = 78
    crop_min_fraction: float = 0.5
    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class Material:
    """The same pairs as files in memory, as records and as tar files."""

    files: list[bytes]
    split: str
    archives: list[Path]

    @property
    def file_bytes(self) -> float:
        """Mean size of a picture's file."""
        return statistics.mean(map(len, self.files))


def write_material(folder: Path, pictures: int = _PICTURES) -> Material:
    """Makes the pairs in an empty folder: the same each time."""
    embedded = records.open_split("embedded:val")
    phrases = [record.captions[0] for record in embedded.records()]
    captions = [photos.photo_captions(seed, phrases) for seed in range(pictures)]
    files = []
    progress = Progress("photos", pictures)
    with ThreadPoolExecutor(available_cores()) as pool:
        make = functools.partial(photos.photo_file, height=HEIGHT, width=WIDTH)
        for file in pool.map(make, range(pictures)):
            files.append(file)
            progress.advance()
    progress.finish()
    split = folder / "records"
    split.mkdir()
    serialised = [
        records.Record(f"{number:05d}", file, HEIGHT, WIDTH, own).serialise()
        for number, (file, own) in enumerate(zip(files, captions, strict=True))
    ]
    # Several shards, as training reads.
    records.write_split(split, serialised, _SHARD_BYTES)
    tars = folder / "tars"
    tars.mkdir()
    archives = webdataset_peer.write_archives(
        tars, files, [own[0] for own in captions], count=2 * available_cores()
    )
    return Material(files, str(split), archives)


def training_batches(split: str, shape: InputShape) -> Iterator[dict[str, np.ndarray]]:
    """Batches as training gets them, from records of `write_material`."""
    options = DataOptions(
        train=split,
        tokenizer=EMBEDDED,
        image_size=shape.image_size,
        text_tokens=shape.text_tokens,
        crop_min_fraction=shape.crop_min_fraction,
        flip=True,
        threads=available_cores(),
    )
    return pipeline.training_batches(
        options, global_batch_size=shape.batch_size, seed=0, first_step=0
    )


class BareLoop:
    """A loop of TensorFlow's operations over files in memory, in a thread on every core."""

    def __init__(
        self,
        files: Sequence[bytes],
        boxes: Int32[np.ndarray, "n 4"],
        make: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    ):
        pieces = [
            slice(first, first + _FILES_A_CALL) for first in range(0, len(files), _FILES_A_CALL)
        ]
        self._chunks = [(tf.constant(files[piece]), tf.constant(boxes[piece])) for piece in pieces]
        self._pool = ThreadPoolExecutor(available_cores())

        @tf.function(autograph=False)
        def made(files: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
            # All is stacked: of pixels that nobody reads, TensorFlow would not make all.
            return tf.map_fn(
                lambda pair: make(*pair),
                (files, boxes),
                fn_output_signature=tf.uint8,
                parallel_iterations=1,
            )

        self._made = made

    def take(self, pairs: int) -> Spent:
        """Makes at least so many pictures."""
        calls = -(-pairs // _FILES_A_CALL)
        chunks = [self._chunks[call % len(self._chunks)] for call in range(calls)]
        watch = Stopwatch()
        list(self._pool.map(lambda chunk: self._made(*chunk).numpy(), chunks))
        return watch.spent(sum(len(files) for files, _ in chunks))


def _decode(file: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_and_crop_jpeg(file, box, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_only(file: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """One of the values, as pictures of many sizes cannot be stacked."""
    return _decode(file, box)[-1, -1, -1]


def _decode_and_resize(size: int, file: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    pixels = _decode(file, box)[tf.newaxis]
    resized = tf.raw_ops.ResizeArea(images=pixels, size=[size, size])[0]
    return tf.cast(resized + 0.5, tf.uint8)


Contestant = Delivery | BareLoop | webdataset_peer.Workers


def measure(folder: Path, shape: InputShape, *, steps: int, repeats: int) -> dict[str, Any]:
    """Rates of all contestants over `repeats` rounds of `steps` batches, made in `folder`."""
    # A thread on every core is enough; TensorFlow's own within an operation only get in the way.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    material = write_material(folder)
    with contextlib.ExitStack() as stack:
        contestants = _contestants(material, shape, stack)
        progress = Progress("rounds", 1 + repeats)
        rounds = []
        # The first round is a warm-up.
        for _ in range(1 + repeats):
            pairs = steps * shape.batch_size
            rounds.append({name: each.take(pairs) for name, each in contestants.items()})
            progress.advance()
        progress.finish()
        del rounds[0]

    return {
        "cores": available_cores(),
        "file_bytes": material.file_bytes,
        **dataclasses.asdict(shape),
        "peer": webdataset_peer.versions() if webdataset_peer.is_installed() else None,
        "resident_bytes": resident_bytes(),
        **{name: _figures([each[name] for each in rounds], rounds) for name in contestants},
    }


def _figures(own: Sequence[Spent], rounds: Sequence[Mapping[str, Spent]]) -> dict[str, float]:
    """A contestant's figures over the rounds, in each of which all met the same machine."""
    seconds = [spent.seconds for spent in own]
    ours = [each[OURS].seconds for each in rounds]
    return {
        "pairs_per_sec": 1 / statistics.median(seconds),
        "pairs_per_sec_min": 1 / max(seconds),
        "pairs_per_sec_max": 1 / min(seconds),
        "cpu_seconds_per_pair": statistics.median(spent.cpu_seconds for spent in own),
        "times_as_fast": statistics.median(a / b for a, b in zip(seconds, ours, strict=True)),
    }


def _contestants(
    material: Material, shape: InputShape, stack: contextlib.ExitStack
) -> dict[str, Contestant]:
    """By name; what has to be closed is entered into the stack."""
    number = len(material.files)
    boxes = images.random_crop_boxes(
        np.full(number, HEIGHT),
        np.full(number, WIDTH),
        np.random.default_rng(0).random((number, 4)),
        shape.crop_min_fraction,
    )
    whole = functools.partial(_decode_and_resize, shape.image_size)
    contestants: dict[str, Contestant] = {
        OURS: Delivery(training_batches(material.split, shape), shape.batch_size),
        "bare": BareLoop(material.files, boxes, whole),
        "decode": BareLoop(material.files, boxes, _decode_only),
    }
    if webdataset_peer.is_installed():
        workers = webdataset_peer.Workers(
            available_cores(), material.archives, **dataclasses.asdict(shape)
        )
        contestants["webdataset"] = stack.enter_context(contextlib.closing(workers))
    return contestants


def soak(folder: Path, shape: InputShape, *, seconds: float) -> Iterator[dict[str, float]]:
    """Takes batches for `seconds`; every ten says how fast they came and what memory is held."""
    split = write_material(folder).split
    delivery = Delivery(training_batches(split, shape), shape.batch_size)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        spent = delivery.take_for(min(10.0, seconds - passed))
        yield {
            "seconds": time.monotonic() - began,
            "pairs_per_sec": 1 / spent.seconds,
            "resident_bytes": resident_bytes(),
        }


def describe(figures: dict[str, Any]) -> str:
    """The figures of `measure` for a person."""
    number = figures["cores"]
    lines = [
        f"{WIDTH} x {HEIGHT} JPEG of {figures['file_bytes'] / 1e3:.0f} kB and a caption to "
        f"{figures['image_size']} px and {figures['text_tokens']} ids, batches of "
        f"{figures['batch_size']}, {number} cores; medians of alternating rounds",
        "",
        f"{'':44}  pairs/s (range)       a core  CPU ms/pair  MB/s  oner_jax",
    ]
    titles = {
        OURS: "oner_jax: records to batches",
        "bare": "decode, crop and resize in a loop",
        "decode": "decode and crop in a loop",
        "webdataset": figures["peer"],
    }
    for name in titles:
        if name not in figures:
            continue
        own = figures[name]
        rate = own["pairs_per_sec"]
        spread = f"({own['pairs_per_sec_min']:,.0f}-{own['pairs_per_sec_max']:,.0f})"
        times = "" if name == OURS else f"{own['times_as_fast']:7.2f} x"
        lines.append(
            f"{titles[name]:44}  {rate:7,.0f} {spread:13} {rate / number:6,.0f}  "
            f"{1e3 * own['cpu_seconds_per_pair']:11.2f}  "
            f"{rate * figures['file_bytes'] / 1e6:4.0f} {times}".rstrip()
        )
    if figures["peer"] is None:
        lines.append("webdataset is not installed: no peer to compare with")
    lines += ["", f"{figures['resident_bytes'] / 2**20:,.0f} MiB resident, TensorFlow included"]
    return "\n".join(lines)


def describe_soak(line: dict[str, float]) -> str:
    """A line of `soak` for a person."""
    return (
        f"{line['seconds']:6.0f} s  {line['pairs_per_sec']:7,.0f} pairs/s  "
        f"{line['resident_bytes'] / 2**20:6,.0f} MiB resident"
    )
