"""TensorFlow as the input pipeline uses it: on the host's processors only, quiet, reusing memory.

Every module that needs TensorFlow says `from oner_jax.data.host_tensorflow import tf`, so that the
accelerator's memory is never taken from JAX, whichever of them is imported first.
"""

import contextlib
import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# oneDNN, of no use to an input pipeline, is off because it announces itself before logging can be
# configured.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_JAX_DEFAULT, _FATAL_ONLY = "1", "3"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While TensorFlow is imported, hide all of its C++ messages but fatal ones.

    Decoders report a damaged file as an exception, too. JAX reads the same variable, and sets it if
    it is imported first, so that JAX's own value is overruled here and put back. A user's stays.
    """
    before = os.environ.get(_LOG_LEVEL)
    if before in (None, _JAX_DEFAULT):
        os.environ[_LOG_LEVEL] = _FATAL_ONLY
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_LOG_LEVEL)
        else:
            os.environ[_LOG_LEVEL] = before


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """While TensorFlow is imported, Keras cannot be.

    TensorFlow tries to import all of it, which brings scikit-learn and SciPy along: a third of the
    time that its import takes.
    """
    if "keras" in sys.modules:
        yield
        return
    sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["keras"]


with _quiet(), _without_keras():
    import tensorflow as tf

# `tensorflow.keras` is imported when somebody asks for it, from where TensorFlow would have looked.
if _keras := importlib.util.find_spec("keras"):
    _folders = [
        str(Path(folder, "_tf_keras")) for folder in _keras.submodule_search_locations or ()
    ]
    tf.__path__[:] = [*_folders, *filter(None, tf.__path__)]

tf.config.set_visible_devices([], "GPU")

# glibc's own names for the numbers of these settings, and what they are set to, in bytes.
_M_TRIM_THRESHOLD, _KEPT_FREE = -1, 64 * 2**20
_M_MMAP_THRESHOLD, _SMALLEST_MAPPED = -3, 32 * 2**20  # the most that glibc allows


def _keep_freed_memory() -> None:
    """Encoded pictures of a batch are megabytes in many pieces, made anew for each batch.

    By default glibc gives such memory back at once, and the kernel clears new pages for the next
    batch: more work than all else that is done to records but decoding. Kept, it costs at most
    `_KEPT_FREE` for each of malloc's arenas. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _SMALLEST_MAPPED)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE)


_keep_freed_memory()

__all__ = ["tf"]
