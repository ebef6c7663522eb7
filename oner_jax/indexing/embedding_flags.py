"""What the programs that embed and search share of their command lines."""

from pathlib import Path

from absl import flags

from oner_jax import api, configuration
from oner_jax.command_line import flag_help, path_flags
from oner_jax.data import sources
from oner_jax.data.sources import source_flags as source_command_line
from oner_jax.errors import InputError
from oner_jax.files import Access
from oner_jax.indexing import making
from oner_jax.indexing.rows import VIEWS


def define_model_flags() -> None:
    """Define the flags that choose the model."""
    with flag_help.group("Model"):
        path_flags.define(
            "model", str(api.RELEASED), "folder of a run or of an export", Access.STORE
        )
        flags.DEFINE_string("step", "last", "checkpoint of the run: a step, last or best")
        flags.DEFINE_enum("weights", "online", ["online", "momentum"], "weights of the run to use")
        flags.DEFINE_integer("batch_size", api.BATCH_SIZE, "rows embedded at once", lower_bound=1)


def define_flags() -> None:
    """Define the flags that choose the model, the source and the view."""
    define_model_flags()
    with flag_help.group("Collection to embed"):
        path_flags.define("source", None, "folder of images, JSONL, or anything ingest reads")
        flags.DEFINE_enum(
            "source_format", "", ["", *sources.FORMATS], "format of the source; found if not given"
        )
        source_command_line.define_flags()
        flags.DEFINE_enum("view", "image", list(VIEWS), "part of each example that is embedded")


def chosen_model() -> api.Model:
    """The model that the flags name."""
    values = flags.FLAGS
    model = api.load(
        values.model, step=values.step, weights=values.weights, batch_size=values.batch_size
    )
    configuration.use_compilation_cache(model.config.compilation_cache)
    return model


def embed_source(model: api.Model, name: str, out: Path, file_format: str) -> making.Made:
    """Embed the source of this name as the flags say."""
    values = flags.FLAGS
    name = making.absolute_name(name)
    parts = making.parts_of(
        name,
        values.source_format,
        model.batch_size,
        source_command_line.chosen_names(),
        sources.Options(lines=source_command_line.chosen_lines()),
    )
    if not parts:
        raise InputError(f"--source={name} holds no examples")
    return making.make_embeddings(
        model,
        parts,
        values.view,
        out,
        file_format=file_format,
        source=name,
    )


def described(made: making.Made) -> str:
    """Say, as the programs print it, how many rows were made and how many of them are new."""
    manifest = made.manifest
    text = f"{manifest['rows']:,} rows of {manifest['features']} features"
    if made.known or made.removed:
        text += f"; {made.embedded:,} new or changed, {made.known:,} as they were"
        text += f", {made.removed:,} removed that had changed or gone"
    if dropped := sum(manifest["dropped"].values()):
        text += f"; left out {dropped:,} (see dropped.jsonl)"
    if unread := manifest["unread"]:
        text += f"; not read: {sources.listed_endings(unread)}"
    if cut := manifest["cut_captions"]:
        text += f"; {cut:,} captions were longer than the model reads, and cut off"
    return text
