"""The table of formats."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from oner_jax.exporting import hub, onnx_files, saved_model, slim_orbax, stablehlo
from oner_jax.exporting.parity import Encode
from oner_jax.exporting.source import Source


class Format(NamedTuple):
    """A way to write a model into an export's folder, and to read it back for comparison.

    Neither changes what another format wrote. `write` raises InputError where it cannot.
    """

    description: str
    write: Callable[[Source, Path], None]
    read: Callable[[Source, Path], Encode]


FORMATS: dict[str, Format] = {
    "safetensors": Format(
        "model.safetensors, as on the Hugging Face Hub; loads back into everything here",
        hub.write,
        hub.read,
    ),
    "orbax": Format(
        "orbax/: parameters alone; loads back into everything here",
        slim_orbax.write,
        slim_orbax.read,
    ),
    "stablehlo": Format(
        "stablehlo/: compiled-anywhere programs and load.py, for JAX without this package",
        stablehlo.write,
        stablehlo.read,
    ),
    "savedmodel": Format(
        "savedmodel/: TensorFlow signatures for pictures, token ids and both",
        saved_model.write,
        saved_model.read,
    ),
    "onnx": Format(
        "onnx/: files for ONNX Runtime (needs requirements-onnx.txt)",
        onnx_files.write,
        onnx_files.read,
    ),
}
