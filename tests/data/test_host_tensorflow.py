"""Freed memory is kept for the next batch; Keras is imported for those alone who ask."""

import platform
import subprocess
import sys

import pytest

REPEATED = """
import resource
import threading
{setup}

def batch():
    return [bytearray(b'x' * 400_000) for _ in range(64)]

def make():
    batch()
    for _ in range(9):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        batch()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

faults = []
thread = threading.Thread(target=make)
thread.start()
thread.join()
print(sorted(faults)[4])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_the_next_batch_takes_no_new_pages():
    def faults(setup: str) -> int:
        command = [sys.executable, "-c", REPEATED.format(setup=setup)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    pages = 64 * 400_000 // 4096
    assert faults("") > pages / 2
    assert faults("import oner_jax.data.host_tensorflow") < pages / 20


LATER = """
import sys
import oner_jax.data.host_tensorflow
assert not {"keras", "sklearn", "scipy.stats"} & set(sys.modules)
from tensorflow.keras import layers
from oner_jax.data.host_tensorflow import tf
assert tf.keras.layers.Dense is layers.Dense
"""
BEFORE = """
import keras
from oner_jax.data.host_tensorflow import tf
assert tf.keras.layers.Dense is keras.layers.Dense
"""


@pytest.mark.parametrize("program", [LATER, BEFORE])
def test_keras_is_imported_when_somebody_asks_for_it(program):
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
