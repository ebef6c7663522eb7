"""`stablehlo/`: one program for each view through `jax.export`, with its weights and a loader.

Programs take any batch and run on CPU, NVIDIA GPU and TPU. Weights are arguments, in a safetensors
file that the programs share, and not constants in each.
"""

import runpy
import shutil
from pathlib import Path

import jax
import numpy as np

from oner_jax.exporting.parity import Encode
from oner_jax.exporting.programs import (
    NAMES,
    PLATFORMS,
    encoder,
    given,
    input_shapes,
    named_weights,
)
from oner_jax.exporting.source import Source
from oner_jax.models.files import write_weights

DIRECTORY = "stablehlo"
WEIGHTS = "weights.safetensors"
LOADER = "load.py"


def write(source: Source, folder: Path) -> None:
    """Programs, weights and `load.py`, which needs JAX and NumPy alone."""
    target = folder / DIRECTORY
    target.mkdir()
    weights = named_weights(source)
    write_weights(target / WEIGHTS, weights, source.dtype)
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    (batch,) = jax.export.symbolic_shape("batch")
    for view in source.views:
        export = jax.export.export(jax.jit(encoder(source, view)), platforms=PLATFORMS)
        exported = export(abstract, *input_shapes(source, view, batch))
        (target / f"{NAMES[view]}.stablehlo").write_bytes(exported.serialize())
    shutil.copyfile(Path(__file__).with_name("stablehlo_loader.py"), target / LOADER)


def read(source: Source, folder: Path) -> Encode:
    """The programs as `load.py` reads them."""
    loaded = runpy.run_path(str(folder / DIRECTORY / LOADER))["load"](folder / DIRECTORY)

    def encode(images: np.ndarray | None, ids: np.ndarray | None) -> np.ndarray:
        view, named = given(images, ids)
        return loaded[NAMES[view]](*named.values())

    return encode
