"""Other people's data to records: a source of pictures and captions becomes a directory of splits.

    python -m oner_jax.ingest --source=pairs.jsonl --output=DIR

Every image is decoded once, so that training meets none it cannot read. Examples go to the split
that their `split` field, or the name of their folder or file, says; those without one go to
DIR/train, or to DIR/val for a fraction of captions chosen by hash, so that equal captions are
always on the same side (in classes, images are chosen). Entries of one image become one example
with all their captions, and ids are made unique; both are counted and printed. Nothing in a source
is fatal: what becomes no record is counted by reason in the manifests and listed in
DIR/dropped.jsonl.

DIR appears when everything is in it. After a kill, the same command continues from what is
finished; whatever kills there were, and however many processes, the bytes are the same.
`oner_jax.ingest_beam` does the same on many machines.
"""

import collections
import errno
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from absl import flags
from etils import epath

from oner_jax.command_line.program import run_program
from oner_jax.data import records
from oner_jax.data import tokenizer as text
from oner_jax.data.ingestion import decisions, part_files, report, writing
from oner_jax.data.ingestion import ingest_flags as command_line
from oner_jax.data.ingestion.options import ConversionOptions, IngestOptions, SourceName
from oner_jax.data.ingestion.processes import ProcessRunner
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.progress import Progress
from oner_jax.data.sources import Part
from oner_jax.errors import InputError, Preempted

TOKENIZER_FILE = "tokenizer.model"

Task = TypeVar("Task")


@runtime_checkable
class Runner(Protocol):
    """Does `function` for every task, somewhere, in any order; gives a task when it is done.

    Both must be picklable, and what is done twice does no harm. `examples` is how many they have
    together, where that is known.
    """

    def __call__(
        self, function: Callable[[Task], object], tasks: Sequence[Task], examples: int | None
    ) -> Iterator[Task]: ...


# Of the operating system: a disk, or a user's share of it, is full.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_dataset(
    parts: Sequence[Part],
    source: SourceName,
    output: str,
    options: IngestOptions,
    run: Runner,
) -> None:
    """Makes `output`, a directory or gs://, or continues to make it. InputError for bad input."""
    options.conversion.filters.check()
    if not parts:
        raise InputError("the source holds no examples; add some")
    staging = Staging(epath.Path(output))
    plan = options.plan(parts)
    with staging.begun(plan):
        if not staging.is_complete:
            convert_parts(parts, options, staging, run)
            decided = decisions.decide(staging, len(parts), options)
            refuse_nothing(decided, len(parts), staging)
            staging.write_json(staging.decisions, plan.decisions)
            write_shards(decided.shards, staging, run)
            writing.finish(decided, source, len(parts), options, staging)
            if options.vocabulary_size:
                train_tokenizer(staging, options.vocabulary_size)
        staging.publish(plan)


def convert_parts(
    parts: Sequence[Part], options: IngestOptions, staging: Staging, run: Runner
) -> None:
    """Makes the files of all parts that are not there yet."""
    unfinished = [n for n in range(len(parts)) if not staging.rows(n).exists()]
    expected = [part.examples for part in parts]
    # Where only reading would tell how many there are, progress is that of the parts.
    sizes = [1 if None in expected else size or 0 for size in expected]
    left = sum(sizes[number] for number in unfinished)
    progress = Progress("convert", sum(sizes), sum(sizes) - left)
    work = functools.partial(_convert_part, options=options.conversion, staging=staging)
    tasks = [(number, parts[number]) for number in unfinished]
    for number, _ in run(work, tasks, None if None in expected else left):
        progress.advance(sizes[number])
    progress.finish()


def _convert_part(task: tuple[int, Part], options: ConversionOptions, staging: Staging) -> None:
    part_files.convert_part(*task, options, staging)


def refuse_nothing(decided: decisions.Decisions, number_of_parts: int, staging: Staging) -> None:
    """InputError unless something is left; there is then nothing to continue, either."""
    if not decided.splits:
        reasons = report.reasons(staging, number_of_parts)
        staging.abandon()
        raise InputError(f"the source holds no examples to keep{reasons}; add some")


def write_shards(shards: Sequence[decisions.Shard], staging: Staging, run: Runner) -> None:
    """Makes all shards that are not there yet. The records of a part go with its last shard."""
    needs = collections.Counter(part for shard in shards for part in shard.parts)
    done = [shard for shard in shards if staging.shard_facts(shard.split, shard.number).exists()]
    finished = {(shard.split, shard.number) for shard in done}
    tasks = [shard for shard in shards if (shard.split, shard.number) not in finished]
    before, left = (sum(shard.examples for shard in some) for some in (done, tasks))
    progress = Progress("write", before + left, before)
    work = functools.partial(writing.write_shard, staging=staging)
    for shard in done:
        _release(shard, needs, staging)
    for shard in run(work, tasks, left):
        _release(shard, needs, staging)
        progress.advance(shard.examples)
    progress.finish()


def _release(shard: decisions.Shard, needs: collections.Counter[int], staging: Staging) -> None:
    """Deletes the records of parts that no other shard needs, so that no disk holds all twice."""
    for part in shard.parts:
        needs[part] -= 1
        if not needs[part]:
            staging.records(part).unlink(missing_ok=True)


def train_tokenizer(staging: Staging, vocabulary_size: int) -> None:
    """Trains on the captions just written as `train`."""
    directory = staging.finished / decisions.TRAIN
    if not directory.exists():
        raise InputError("--vocabulary_size: there is no train split to take captions from")
    captions = records.open_split(str(directory)).captions(text.MAXIMUM_SENTENCES)
    model = text.train_tokenizer(captions, vocabulary_size)
    with staging.whole_file(staging.finished / TOKENIZER_FILE) as path:
        path.write_bytes(model)


def define_flags() -> None:
    """The program's command line; not at import, where it would be every program's."""
    command_line.define_flags()
    flags.DEFINE_integer(
        "processes", 0, "how many work at once; 0: as many as there are cores", lower_bound=0
    )


def main(_: Sequence[str]) -> None:
    """Reads the source, writes the dataset, and says what to train on."""
    parts, source, output, options = command_line.chosen()
    try:
        write_dataset(parts, source, output, options, ProcessRunner(flags.FLAGS.processes))
    except KeyboardInterrupt as interrupt:
        raise Preempted("interrupted; the same command continues") from interrupt
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(
            f"--output={output}: {error.strerror}; make room, and the same command continues"
        ) from error
    for line in report.summary(epath.Path(output)):
        print(line)


if __name__ == "__main__":
    define_flags()
    run_program(main)
