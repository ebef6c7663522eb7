"""The chip table, by the names that JAX gives devices."""

from types import SimpleNamespace

import pytest

from oner_jax.parallel.chips import CHIPS, Peak, find_chip


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("TPU v3", "v3"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "7x"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_every_chip_is_found_by_its_device_kind(device_kind, name):
    assert find_chip(device_kind) is CHIPS[name]


@pytest.mark.parametrize("device_kind", ["cpu", "TPU v2", "NVIDIA H100 PCIe"])
def test_an_unknown_device_has_no_peak(device_kind):
    devices = [SimpleNamespace(device_kind=device_kind)] * 8
    assert Peak.of(devices) == (8, None)


def test_two_devices_of_a_v4_are_one_chip():
    peak = Peak.of([SimpleNamespace(device_kind="TPU v4")] * 8)
    assert peak == (4, 4 * 275e12)
