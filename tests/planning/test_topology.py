"""Topologies by name (what is planned for them: tests/test_plan.py)."""

import pytest

from oner_jax.planning.topology import Topology


@pytest.mark.parametrize(
    ("text", "slices", "hosts"),
    [
        # Google's tables: a v5litepod-8 is one machine, a v5litepod-16 has four.
        ("v5e:2x2", 1, 1),
        ("v5e:2x4", 1, 1),
        ("v5e:4x4", 1, 4),
        ("v5e:16x16", 2, 128),
        ("v4:2x2x2", 1, 2),
        ("v5p:8x8x8", 1, 128),
        ("h100:8", 1, 1),
        ("h100:16", 1, 2),
    ],
)
def test_hosts(text, slices, hosts):
    assert Topology.parse(text, slices).hosts == hosts
