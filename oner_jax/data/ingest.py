"""Own data to records: a JSONL file of image paths and captions becomes a directory of splits.

    python -m oner_jax.data.ingest --source=pairs.jsonl --output=DIR

Every image is decoded once, so that training meets none it cannot read. Examples go to the split
that their `split` field names; those without one go to DIR/train, or to DIR/val for a fraction of
captions chosen by hash, so that equal captions are always on the same side. DIR appears when
everything is in it.
"""

import collections
import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from oner_jax.data import images, records, text
from oner_jax.data.command_line import required
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.image_files import ImageOptions, stored_image
from oner_jax.data.progress import Progress
from oner_jax.data.sources import RawExample, read_jsonl
from oner_jax.errors import InputError, run_program

TRAIN = "train"
VALIDATION = "val"
TOKENIZER_FILE = "tokenizer.model"

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class IngestOptions:
    """What is made of the raw examples. `vocabulary_size` 0 trains no tokenizer."""

    images: ImageOptions = dataclasses.field(default_factory=ImageOptions)
    validation_fraction: float = 0.05
    vocabulary_size: int = 0
    shard_bytes: int = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """Which split an example belongs to.

    Without a split of its own it is held out when its caption's hash is below the threshold.
    """

    threshold: int

    def __call__(self, example: RawExample) -> str:
        if example.split:
            return example.split
        return VALIDATION if _main_caption_hash(example) < self.threshold else TRAIN


def _main_caption_hash(example: RawExample) -> int:
    return int(text.caption_hash(example.captions[:1])[0])


def write_dataset(
    read_examples: Callable[[], Iterator[RawExample]], output: Path, options: IngestOptions
) -> dict[str, int]:
    """Writes `output`/SPLIT for every split and returns their numbers of examples.

    `read_examples` is called twice: to check and count before any image is read, then to write.
    Raises InputError for bad input; `output` then does not exist.
    """
    if output.exists():
        raise InputError(f"--output={output}: exists already; give a new directory")
    if not output.parent.is_dir():
        raise InputError(f"--output={output}: {output.parent} is no local directory; make it first")
    total, rule = _check(read_examples(), options.validation_fraction)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
    except OSError as error:
        raise InputError(f"--output={output}: cannot be made ({error.strerror})") from error
    try:
        counts = _write_splits(read_examples(), total, rule, partial, options)
        if options.vocabulary_size:
            _train_tokenizer(partial, options.vocabulary_size)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _check(examples: Iterator[RawExample], validation_fraction: float) -> tuple[int, SplitRule]:
    """The number of examples and the rule for their splits, after checking all but the images."""
    seen: set[str] = set()
    hashes = []
    for example in examples:
        if example.id in seen:
            raise InputError(f"{example.location}: id {example.id!r} occurs twice; make ids unique")
        if example.split and not _SPLIT_NAME.fullmatch(example.split):
            raise InputError(
                f"{example.location}: split {example.split!r} cannot name a directory; "
                "use letters, digits, _ . and -"
            )
        seen.add(example.id)
        if not example.split:
            hashes.append(_main_caption_hash(example))
    if not seen:
        raise InputError("the source holds no examples; add some")
    if not hashes or validation_fraction == 0:
        return len(seen), SplitRule(0)
    # With few captions chance may leave nothing below the fraction: the lowest hash is held out.
    smallest = min(hashes)
    threshold = max(round(validation_fraction * 2**32), smallest + 1)
    if max(hashes) < threshold:
        raise InputError(
            f"--validation_fraction={validation_fraction}: holding out equal captions together "
            f"leaves no training examples among {len(hashes)}; give 0, or more different captions"
        )
    return len(seen), SplitRule(threshold)


def _write_splits(
    examples: Iterator[RawExample],
    total: int,
    rule: SplitRule,
    directory: Path,
    options: IngestOptions,
) -> dict[str, int]:
    """One shard directory per split; returns examples per split."""
    writers: dict[str, records.SplitWriter] = {}
    statistics: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    progress = Progress("ingest", total)

    def prepare(example: RawExample) -> tuple[str, records.Record]:
        return rule(example), _record(example, options.images)

    for name, record in _ordered_map(prepare, examples):
        if name not in writers:
            writers[name] = records.SplitWriter(directory / name, options.shard_bytes)
        writers[name].write(record)
        statistics[name]["examples"] += 1
        statistics[name]["captions"] += len(record.captions)
        statistics[name]["image_bytes"] += len(record.image)
        progress.advance()
    progress.finish()
    for name, writer in writers.items():
        writer.finish(_description(statistics[name], options.images))
    return {name: counts["examples"] for name, counts in sorted(statistics.items())}


def _description(counts: collections.Counter[str], options: ImageOptions) -> dict[str, Any]:
    """What the manifest says beside the shards."""
    return {
        "captions": counts["captions"],
        "image_bytes": counts["image_bytes"],
        "image_options": dataclasses.asdict(options),
    }


def _record(example: RawExample, options: ImageOptions) -> records.Record:
    """The example as it is stored, its image decoded the way training will."""
    try:
        image = stored_image(example.read_image(), options)
        images.check_decodes(image.encoded, image.height, image.width)
    except (ValueError, OSError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{example.location}: image cannot be decoded ({reason}); replace it or remove the line"
        ) from error
    return records.Record(
        id=example.id,
        image=image.encoded,
        height=image.height,
        width=image.width,
        captions=example.captions,
        label=example.label,
        metadata=example.metadata,
    )


def _ordered_map(function: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    """`function` of each item, in order, on all cores, with a bounded number in flight."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        pending: collections.deque = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 8 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _train_tokenizer(directory: Path, vocabulary_size: int) -> None:
    """Trains on the captions just written as `train`."""
    if not (directory / TRAIN).exists():
        raise InputError("--vocabulary_size: there is no train split to take captions from")
    split = records.open_split(str(directory / TRAIN))
    model = text.train_tokenizer(split.captions(), vocabulary_size)
    text.write_model(model, directory / TOKENIZER_FILE)


def define_flags() -> None:
    """The program's command line; not at import, where it would be every program's."""
    defaults = IngestOptions()
    flags.DEFINE_string("source", None, "JSONL file of image paths and captions")
    flags.DEFINE_string("output", None, "directory to make")
    flags.DEFINE_float(
        "validation_fraction",
        defaults.validation_fraction,
        "captions to hold out among examples without a split",
        lower_bound=0.0,
        upper_bound=0.5,
    )
    flags.DEFINE_integer(
        "maximum_side",
        defaults.images.maximum_side,
        "pixels; larger images are shrunk",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "vocabulary_size",
        defaults.vocabulary_size,
        "also train a tokenizer with this many ids; 0: none",
        lower_bound=0,
    )


def main(_: Sequence[str]) -> None:
    """Reads the source, writes the dataset, and says what to train on."""
    source, output = map(Path, required("source", "output"))
    values = flags.FLAGS
    options = IngestOptions(
        images=ImageOptions(maximum_side=values.maximum_side),
        validation_fraction=values.validation_fraction,
        vocabulary_size=values.vocabulary_size,
    )
    counts = write_dataset(lambda: read_jsonl(source), output, options)
    for name, examples in counts.items():
        print(f"{output / name}: {examples:,} examples")
    if options.vocabulary_size:
        print(f"{output / TOKENIZER_FILE}: {options.vocabulary_size:,} ids")


if __name__ == "__main__":
    define_flags()
    run_program(main)
