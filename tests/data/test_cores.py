import os

import pytest

from oner_jax.data.cores import available_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a call of Linux")
def test_cores_that_this_process_may_not_use_are_not_counted():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cores() == len(allowed)
