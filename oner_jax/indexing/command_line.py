"""What the programs that embed and search share of their command lines."""

import os
from pathlib import Path
from typing import Any

from absl import flags

from oner_jax import api, configuration, flag_help
from oner_jax.data import sources
from oner_jax.errors import InputError
from oner_jax.indexing import making
from oner_jax.indexing.rows import VIEWS


def define_model_flags() -> None:
    """Define the flags that choose the model."""
    with flag_help.group("Model"):
        flags.DEFINE_string("model", str(api.RELEASED), "folder of a run or of an export")
        flags.DEFINE_string("step", "last", "checkpoint of the run: a step, last or best")
        flags.DEFINE_enum("weights", "online", ["online", "momentum"], "weights of the run to use")
        flags.DEFINE_integer("batch_size", api.BATCH_SIZE, "rows embedded at once", lower_bound=1)


def define_flags() -> None:
    """Define the flags that choose the model, the source and the view."""
    define_model_flags()
    with flag_help.group("Collection to embed"):
        flags.DEFINE_string("source", None, "folder of images, JSONL, or anything ingest reads")
        flags.DEFINE_enum(
            "source_format", "", ["", *sources.FORMATS], "format of the source; found if not given"
        )
        flags.DEFINE_enum("view", "image", list(VIEWS), "part of each example that is embedded")


def chosen_model() -> api.Model:
    """The model that the flags name."""
    values = flags.FLAGS
    model = api.load(
        values.model, step=values.step, weights=values.weights, batch_size=values.batch_size
    )
    configuration.use_compilation_cache(model.config.compilation_cache)
    return model


def embed_source(model: api.Model, name: str, out: Path, file_format: str) -> dict[str, Any]:
    """Embed the source of this name as the flags say; the manifest of the result."""
    values = flags.FLAGS
    parts = making.parts_of(name, values.source_format, model.batch_size)
    if not parts:
        raise InputError(f"--source={name} holds no examples")
    return making.make_embeddings(
        model,
        parts,
        values.view,
        out,
        file_format=file_format,
        source=name if "://" in name else os.path.abspath(name),
    )
