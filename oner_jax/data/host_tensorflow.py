"""TensorFlow as the input pipeline uses it: on the host's processors only, and quiet.

Every module that needs TensorFlow says `from oner_jax.data.host_tensorflow import tf`, so that the
accelerator's memory is never taken from JAX, whichever of them is imported first.
"""

import os

# Read by TensorFlow's C++ side at import: hide all but fatal messages. What decoders say of a
# damaged file comes as an exception, too. oneDNN, of no use to an input pipeline, is off because it
# announces itself before logging can be configured.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
