"""`savedmodel/`: TensorFlow, with a signature for each view; StableHLO inside (jax2tf).

Signatures take token ids, not texts: SentencePiece inside a graph takes `tensorflow_text`, a
library as large as TensorFlow's own.
"""

from pathlib import Path
from typing import Any

import numpy as np

from oner_jax.exporting.parity import Encode
from oner_jax.exporting.programs import (
    INPUTS,
    NAMES,
    OUTPUT,
    PLATFORMS,
    encoder,
    given,
    input_shapes,
    named_weights,
)
from oner_jax.exporting.source import Source

DIRECTORY = "savedmodel"


def write(source: Source, folder: Path) -> None:
    """Signatures `image`, `text` and `joint`, which share the variables."""
    from jax.experimental import jax2tf

    from oner_jax.data.host_tensorflow import tf

    module = tf.Module()
    module.weights = {
        name: tf.Variable(array, trainable=False) for name, array in named_weights(source).items()
    }
    signatures = {}
    for view in source.views:
        shapes = input_shapes(source, view, None)
        symbolic = [f"(batch, {', '.join(map(str, shape.shape[1:]))})" for shape in shapes]
        converted = jax2tf.convert(
            encoder(source, view),
            polymorphic_shapes=[None, *symbolic],
            native_serialization_platforms=PLATFORMS,
            with_gradient=False,
        )
        specifications = [
            tf.TensorSpec(shape.shape, shape.dtype, name)
            for name, shape in zip(INPUTS[view], shapes, strict=True)
        ]
        signatures[NAMES[view]] = _signature(tf, converted, module.weights, specifications)
    tf.saved_model.save(module, str(folder / DIRECTORY), signatures=signatures)


def _signature(tf: Any, converted: Any, weights: Any, specifications: list) -> Any:
    @tf.function(input_signature=specifications, autograph=False, jit_compile=True)
    def call(*inputs: Any) -> dict[str, Any]:
        return {OUTPUT: converted(weights, *inputs)}

    return call.get_concrete_function()


def read(source: Source, folder: Path) -> Encode:
    """The signatures as TensorFlow reads them."""
    from oner_jax.data.host_tensorflow import tf

    loaded = tf.saved_model.load(str(folder / DIRECTORY))

    def encode(images: np.ndarray | None, ids: np.ndarray | None) -> np.ndarray:
        view, named = given(images, ids)
        tensors = {name: tf.constant(array) for name, array in named.items()}
        return loaded.signatures[NAMES[view]](**tensors)[OUTPUT].numpy()

    return encode
