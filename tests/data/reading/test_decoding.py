"""Iterators over tf.data that are dropped while they work."""

import subprocess
import sys

import pytest

# A call that sleeps has let go of Python's lock and will want it back.
DROPPED_AT_WORK = """
import time
from oner_jax.data.reading.decoding import ArrayIterator
from oner_jax.data.host_tensorflow import tf

def slowly(step):
    time.sleep(0.2)
    return step

def build(steps):
    read = lambda step: {"step": tf.numpy_function(slowly, [step], tf.int64)}
    return steps.map(read, num_parallel_calls=2).prefetch(2)

arrays = ArrayIterator(tf.data.Dataset.counter(5), build)
print(next(arrays)["step"], next(arrays)["step"])
"""


@pytest.mark.parametrize("end", ["del arrays; print('dropped')", "print('left')"])
def test_an_iterator_may_be_dropped_at_any_time(end: str):
    done = subprocess.run(
        [sys.executable, "-c", f"{DROPPED_AT_WORK}\n{end}"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["5 6", end.split("'")[1]]
