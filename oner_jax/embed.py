"""Embed a collection: `python -m oner_jax.embed --source=photos --output=DIR`.

`--source` is a folder of pictures, a JSONL file, or anything else that ingest reads (README.md).
`--view=image` gives a row for each picture, `text` for each caption, `joint` for each picture with
its main caption. `--output` becomes a folder with `embeddings.npy` and `rows.jsonl` (id, image and
caption of each row), or with `--format=parquet` one table of both. What cannot be embedded is left
out, counted in `manifest.json` and listed in `dropped.jsonl`. After a kill, the same command goes
on; the bytes are the same. When the collection has changed, it brings the folder up to date: what
is new or changed is embedded, and rows of what has gone are removed. `--model` is a run or an
export; without it, the released model.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.required_flags import required
from oner_jax.files import Access
from oner_jax.indexing import embedding_flags as command_line
from oner_jax.indexing.index import is_index
from oner_jax.indexing.work import FILE_FORMATS


def define_flags() -> None:
    """The program's command line."""
    command_line.define_flags()
    path_flags.define("output", None, "folder to make", Access.LOCAL)
    flags.DEFINE_enum("format", FILE_FORMATS[0], FILE_FORMATS, "format of the embeddings")


def main(_: Sequence[str]) -> None:
    """Embed as the flags say."""
    source, output = required("source", "output")
    model = command_line.chosen_model()
    made = command_line.embed_source(model, source, Path(output), flags.FLAGS.format)
    print(f"{output}: {command_line.described(made)}")
    if is_index(Path(output)):
        index, words = shlex.quote(f"--index={output}"), '--text="a red car"'
        print(f"next: python -m oner_jax.search {index} {_chosen_model()}{words}")


def _chosen_model() -> str:
    """Return the flag that names the same model to another program; nothing for the default."""
    model = flags.FLAGS["model"]
    return f"{shlex.quote(f'--model={model.value}')} " if model.present else ""


if __name__ == "__main__":
    define_flags()
    run_program(main)
