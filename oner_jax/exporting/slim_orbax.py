"""`orbax/`: parameters alone, without optimizer, twin and data position."""

from pathlib import Path

import jax
import numpy as np

from oner_jax.exporting.parity import Encode, by_embedder
from oner_jax.exporting.source import Source
from oner_jax.training.checkpointing.exported import ORBAX, read_orbax, write_orbax


def write(source: Source, folder: Path) -> None:
    """The parameter tree as the program keeps it."""
    rounded = jax.tree.map(lambda x: np.asarray(x, source.dtype), source.parameters)
    write_orbax(folder / ORBAX, rounded)


def read(source: Source, folder: Path) -> Encode:
    """The model that the checkpoint gives."""
    return by_embedder(source.embedder.of(read_orbax(folder / ORBAX, source.model)))
