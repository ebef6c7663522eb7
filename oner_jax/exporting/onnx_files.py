"""`onnx/`: one file for each view, through jax2onnx; compared by running them in ONNX Runtime.

Both packages are an extra (requirements-onnx.txt).
"""

import functools
import logging
import stat
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from oner_jax.errors import InputError
from oner_jax.exporting.parity import Encode
from oner_jax.exporting.programs import (
    INPUTS,
    NAMES,
    OUTPUT,
    encoder,
    given,
    input_shapes,
    named_weights,
)
from oner_jax.exporting.source import Source

DIRECTORY = "onnx"


def write(source: Source, folder: Path) -> None:
    """Raises InputError for a type that ONNX Runtime has no kernels for, and without the extra."""
    if source.dtype != "float32":
        raise InputError(
            f"--format=onnx --dtype={source.dtype}: ONNX Runtime's CPU kernels are "
            "float32; leave --dtype out and quantise the file with its own tools"
        )
    try:
        from jax2onnx import to_onnx
    except ImportError:
        raise InputError(
            "--format=onnx needs jax2onnx: pip install -r requirements-onnx.txt"
        ) from None
    target = folder / DIRECTORY
    target.mkdir()
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    weights = jax.tree.map(jnp.asarray, named_weights(source))
    for view in source.views:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            to_onnx(
                functools.partial(encoder(source, view), weights),
                input_shapes(source, view, "batch"),
                model_name=NAMES[view],
                return_mode="file",
                output_path=str(target / f"{NAMES[view]}.onnx"),
                input_names=INPUTS[view],
                output_names=[OUTPUT],
            )
    # The library makes large weights readable by their owner only.
    mode = stat.S_IMODE(target.stat().st_mode) & 0o666
    for path in target.iterdir():
        path.chmod(mode)


def read(source: Source, folder: Path) -> Encode:
    """The files as ONNX Runtime reads them, on its CPU kernels."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    sessions = {
        view: onnxruntime.InferenceSession(
            str(folder / DIRECTORY / f"{NAMES[view]}.onnx"), providers=["CPUExecutionProvider"]
        )
        for view in source.views
    }

    def encode(images: np.ndarray | None, ids: np.ndarray | None) -> np.ndarray:
        view, named = given(images, ids)
        return sessions[view].run(None, named)[0]

    return encode
