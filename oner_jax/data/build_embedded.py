"""Builds the data that come with the package, from a directory of pairs.jsonl and images.

    python -m oner_jax.data.build_embedded --source=DIR --output=NEW_DIR

makes what is committed beside LICENSES.md in oner_jax/data/embedded. The same source and the same
version of Pillow give the same bytes. Pictures are drawings that were cropped to their content, so
each is put in the middle of a transparent square before it is shrunk.
"""

import dataclasses
import os
from collections.abc import Sequence

from etils import epath

from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.required_flags import required
from oner_jax.data.image_files import ImageOptions
from oner_jax.data.ingestion import report
from oner_jax.data.ingestion.options import ConversionOptions, IngestOptions, SourceName
from oner_jax.data.ingestion.processes import ProcessRunner
from oner_jax.data.sources import ChangedPart, RawExample, open_source
from oner_jax.files import Access
from oner_jax.ingest import write_dataset

# 16,573 pictures must fit into 40 MB with their texts.
OPTIONS = IngestOptions(
    ConversionOptions(
        ImageOptions(maximum_side=96, quality=80, alpha_quality=60, pad_to_square=True)
    ),
    validation_fraction=0.0,
    vocabulary_size=4096,
    shard_bytes=16 * 2**20,
)

METADATA = ("group", "subgroup", "concept", "source", "license")
EXAMPLES_PER_PART = 500


def _with_known_metadata(example: RawExample) -> RawExample:
    """With what evaluation and attribution need alone."""
    kept = {key: example.metadata[key] for key in METADATA}
    return dataclasses.replace(example, metadata=kept)


def build(source: str, output: str, options: IngestOptions) -> None:
    """Writes the splits and the tokenizer of a directory of pairs.jsonl and images."""
    name = os.path.join(source, "pairs.jsonl")
    parts = open_source(name, "jsonl", examples_per_part=EXAMPLES_PER_PART)
    write_dataset(
        [ChangedPart(part, _with_known_metadata) for part in parts],
        SourceName("pairs.jsonl", "jsonl"),
        output,
        options,
        ProcessRunner(0),
    )


def main(_: Sequence[str]) -> None:
    """Builds, and says what was built."""
    source, output = required("source", "output")
    build(source, output, OPTIONS)
    for line in report.summary(epath.Path(output)):
        print(line)


if __name__ == "__main__":
    path_flags.define("source", None, "directory of pairs.jsonl and images")
    path_flags.define("output", None, "directory to make", Access.STORE)
    run_program(main)
