"""What every test runs on: the CPU as eight fake devices, with array shapes checked at run time.

All of it has to be in place before the first import of JAX, TensorFlow or `oner_jax`, so it stands
at module level, and child processes started by tests inherit the environment.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
).strip()
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["MPLBACKEND"] = "agg"

from jaxtyping import install_import_hook

install_import_hook("oner_jax", "beartype.beartype")
