"""What every test runs on: the CPU as eight fake devices, with array shapes checked at run time.

All of it has to be in place before the first import of JAX, TensorFlow or `oner_jax`, so it stands
at module level. Child processes started by tests inherit the environment.
"""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Unoptimised code by XLA's older emitters: most of the suite's time is compilation, and this takes
# a quarter of it.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false"
)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["MPLBACKEND"] = "agg"

# Many tests compile the same program.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import gc
from collections.abc import Iterator

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("oner_jax", "beartype.beartype")

# How long an example takes depends on what had to be compiled for it, so there is no deadline.
settings.register_profile("oner_jax", deadline=None, max_examples=25)
settings.load_profile("oner_jax")

KEPT_BYTES = 1.5 * 2**30


@pytest.fixture(autouse=True, scope="module")
def few_compiled_programs() -> Iterator[None]:
    """Programs of the modules before are let go of: all together would take gigabytes."""
    from oner_jax.data.timing.delivery import resident_bytes

    yield
    if resident_bytes() > KEPT_BYTES:
        jax.clear_caches()
        gc.collect()
