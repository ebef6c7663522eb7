"""Builds the data that come with the package, from a directory of pairs.jsonl and images.

    python -m oner_jax.data.build_embedded --source=DIR --output=NEW_DIR

makes what is committed beside LICENSES.md in oner_jax/data/embedded. The same source and the same
version of Pillow give the same bytes. Pictures are drawings that were cropped to their content, so
each is put in the middle of a transparent square before it is shrunk.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from oner_jax.data.command_line import required
from oner_jax.data.image_files import ImageOptions
from oner_jax.data.ingest import IngestOptions, write_dataset
from oner_jax.data.sources import RawExample, read_jsonl
from oner_jax.errors import run_program

# 16,573 pictures must fit into 40 MB with their texts.
OPTIONS = IngestOptions(
    images=ImageOptions(maximum_side=96, quality=80, alpha_quality=60, pad_to_square=True),
    validation_fraction=0.0,
    vocabulary_size=4096,
    shard_bytes=16 * 2**20,
)

METADATA = ("group", "subgroup", "concept", "source", "license")


def embedded_examples(source: Path) -> Iterator[RawExample]:
    """The source's examples with the metadata that evaluation and attribution need."""
    for example in read_jsonl(source / "pairs.jsonl"):
        kept = {key: example.metadata[key] for key in METADATA}
        yield dataclasses.replace(example, metadata=kept)


def main(_: Sequence[str]) -> None:
    """Writes the splits and the tokenizer."""
    source, output = map(Path, required("source", "output"))
    counts = write_dataset(lambda: embedded_examples(source), output, OPTIONS)
    for name, examples in counts.items():
        print(f"{output / name}: {examples:,} examples")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "directory of pairs.jsonl and images")
    flags.DEFINE_string("output", None, "directory to make")
    run_program(main)
