"""Times before the first step: measured on this machine, judged on made-up hosts."""

import jax

from oner_jax.parallel import preflight
from oner_jax.parallel.mesh import make_mesh
from oner_jax.parallel.preflight import Preflight


def test_a_process_alone_has_times_and_no_outliers():
    measured = preflight.measure(make_mesh(devices=jax.devices()))
    assert 0 < measured.matmul_seconds[0] < 10
    assert 0 < measured.all_reduce_seconds[0] < 10
    assert measured.outliers() == []
    assert measured.describe().startswith("preflight   matmul ")


def test_a_slow_host_is_named_with_how_slow_it_is():
    hosts = ["a", "b", "c", "d"]
    measured = Preflight(hosts, [0.010, 0.011, 0.024, 0.010], [0.002, 0.002, 0.002, 0.002])
    assert measured.outliers() == ["process 2 (c): matmul 24.00 ms, 2.3 x the median"]
    assert "slow: process 2 (c)" in measured.describe()
    assert measured.to_json()["outliers"] == measured.outliers()
