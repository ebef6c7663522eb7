"""What `oner_jax.ingest` does, on the machines of an Apache Beam runner.

    python -m oner_jax.ingest_beam --source=gs://... --output=gs://... \\
        --pipeline_options="--runner=DataflowRunner --project=... --region=..."

Its options are those of `oner_jax.ingest`, and so are the bytes of the output, shard for
shard, with the same version of Pillow. Every part of the source is converted, and every shard
written, by some worker, and what lies between is decided here; so all workers must see source and
output under the same names. Without a runner the pipelines run on this machine.

Beam holds back other packages, and so has an environment of its own: requirements.txt with
requirements-beam.txt (`make test-beam` makes one).
"""

import pickle
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from absl import flags
from etils import epath

from oner_jax.command_line.program import run_program
from oner_jax.data.ingestion import ingest_flags as command_line
from oner_jax.data.ingestion import report
from oner_jax.data.ingestion.staging import Staging
from oner_jax.errors import InputError
from oner_jax.ingest import write_dataset

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

Task = TypeVar("Task")


class BeamRunner:
    """Does tasks as a pipeline: one element for each, spread over the workers."""

    def __init__(self, options: "PipelineOptions", staging: Staging):
        self._options = options
        self._staging = staging

    def __call__(
        self, function: Callable[[Task], object], tasks: Sequence[Task], examples: int | None
    ) -> Iterator[Task]:
        """Gives the tasks when all are done."""
        import apache_beam as beam

        if tasks:
            file, places = self._filed(tasks)
            with beam.Pipeline(options=self._options) as pipeline:
                elements = pipeline | beam.Create(places, reshuffle=True)
                elements | beam.Map(_do_filed, function=function, file=file)
        yield from tasks

    def _filed(self, tasks: Sequence[object]) -> tuple[epath.Path, list[tuple[int, int]]]:
        """The tasks in a file, and where in it each begins and ends.

        Services limit the size of a pipeline, and tasks would make most of it.
        """
        file, places, begin = self._staging.folder / "tasks.pickle", [], 0
        with self._staging.whole_file(file) as path, path.open("wb") as opened:
            for task in tasks:
                end = begin + opened.write(pickle.dumps(task))
                places.append((begin, end))
                begin = end
        return file, places


def _do_filed(
    place: tuple[int, int], function: Callable[[object], object], file: epath.Path
) -> None:
    begin, end = place
    with file.open("rb") as opened:
        opened.seek(begin)
        function(pickle.loads(opened.read(end - begin)))


def define_flags() -> None:
    """The program's command line; not at import, where it would be every program's."""
    command_line.define_flags()
    flags.DEFINE_string(
        "pipeline_options", "", "options of Beam and its runner, as on a command line"
    )


def main(_: Sequence[str]) -> None:
    """Reads the source, writes the dataset, and says what to train on."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ModuleNotFoundError as error:
        raise InputError(
            f"Apache Beam is not installed ({error.name}): in an environment of its own, pip "
            "install -r requirements.txt -r requirements-beam.txt"
        ) from None
    parts, source, output, options = command_line.chosen()
    pipeline_options = PipelineOptions(shlex.split(flags.FLAGS.pipeline_options))
    runner = BeamRunner(pipeline_options, Staging(epath.Path(output)))
    write_dataset(parts, source, output, options, runner)
    for line in report.summary(epath.Path(output)):
        print(line)


if __name__ == "__main__":
    define_flags()
    run_program(main)
