"""Freed memory is kept, Keras is not imported unasked, and TensorFlow's log lines are hidden."""

import os
import platform
import subprocess
import sys

import pytest

from tests.marks import slow

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


DAMAGED = """
import io, os
{first}
from oner_jax.data.host_tensorflow import tf
from PIL import Image
file = io.BytesIO()
Image.new("RGB", (64, 64), "red").save(file, "JPEG")
try:
    tf.io.decode_jpeg(file.getvalue()[:-40])
except tf.errors.InvalidArgumentError:
    print(os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
"""


@pytest.mark.parametrize(
    ("first", "level", "is_quiet"),
    [("import jax", None, True), ("import jax", "0", False), slow("", None, True)],
)
def test_a_damaged_file_is_an_exception_and_no_log_line(first, level, is_quiet):
    environment = {name: os.environ[name] for name in os.environ if "LOG_LEVEL" not in name}
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    command = [sys.executable, "-c", DAMAGED.format(first=first)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ("jpeg_mem.cc" not in result.stderr) is is_quiet
    assert result.stdout.strip() == (level or ("1" if first else "None")), "put back"
