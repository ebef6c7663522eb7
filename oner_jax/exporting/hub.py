"""`model.safetensors` at the root of the export: the layout of a Hugging Face repository."""

from pathlib import Path

from oner_jax.exporting.parity import Encode, by_embedder
from oner_jax.exporting.source import Source
from oner_jax.models.files import (
    WEIGHTS_FILE,
    named_arrays,
    parameters_from,
    read_weights,
    write_weights,
)


def write(source: Source, folder: Path) -> None:
    """All parameters, the heads that only training needs among them."""
    write_weights(folder / WEIGHTS_FILE, named_arrays(source.parameters), source.dtype)


def read(source: Source, folder: Path) -> Encode:
    """The model that the file gives."""
    path = folder / WEIGHTS_FILE
    parameters = parameters_from(read_weights(path), source.model, str(path))
    return by_embedder(source.embedder.of(parameters))
