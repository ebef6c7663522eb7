"""What accelerators can do at best: the yardstick of MFU and of the planner's roofline.

Figures are the makers': TPU from the system architecture pages of Google Cloud
(cloud.google.com/tpu/docs/v3, v4, v5e, v5p, v6e, tpu7x), NVIDIA from the data sheets of the SXM
boards, without sparsity. Links are all of a chip's together, in one direction: half of the
"bidirectional" figure; for v3 and v4, whose pages give none, the pod's all-reduce bandwidth per
chip. The network of a GPU is one 400 Gb/s adapter each (DGX H100 and later; A100: 200 Gb/s).
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one chip, which JAX shows as `devices` devices of `kind` (a regex)."""

    name: str
    kind: str
    bf16_flops_per_second: float
    # What a program may use of each device: TPU as libtpu 0.0.42 states it when refusing one.
    device_memory_gib: float
    memory_bytes_per_second: float
    link_bytes_per_second: float
    # Between slices (TPU) or hosts (GPU); None where no figure is published.
    network_bytes_per_second: float | None
    devices: int = 1
    # GPUs that reach each other over NVLink; None on TPU, where a slice has links throughout.
    host_devices: int | None = None


_TPUS = (
    Chip("v3", "TPU v3", 123e12, 15.48, 900e9, 332e9, None, devices=2),
    Chip("v4", "TPU v4", 275e12, 15.25, 1200e9, 268e9, None, devices=2),
    Chip("v5e", "TPU v5 ?(lite|e)", 197e12, 15.75, 819e9, 200e9, 3.125e9),
    Chip("v5p", "TPU v5p?", 459e12, 95.74, 2765e9, 600e9, 6.25e9),
    Chip("v6e", "TPU v6 ?(lite|e)", 918e12, 31.25, 1638e9, 400e9, 12.5e9),
    Chip("7x", "TPU ?7x", 2307e12, 94.75, 7380e9, 600e9, 12.5e9, devices=2),
)
# 80 GB of an A100 or H100 are 80 GiB; 141 GB and 180 GB are not.
_GPUS = (
    Chip("a100", "NVIDIA A100.*80GB", 312e12, 80.0, 2039e9, 300e9, 25e9, host_devices=8),
    Chip("h100", "NVIDIA H100 80GB HBM3", 989.4e12, 80.0, 3350e9, 450e9, 50e9, host_devices=8),
    Chip("h200", "NVIDIA H200", 989.4e12, 131.3, 4800e9, 450e9, 50e9, host_devices=8),
    Chip("b200", "NVIDIA B200", 2250e12, 167.6, 7700e9, 900e9, 50e9, host_devices=8),
)
CHIPS = {chip.name: chip for chip in (*_TPUS, *_GPUS)}


def find_chip(device_kind: str) -> Chip | None:
    """The chip whose `kind` is `device_kind` as JAX writes it; None for a CPU or an unknown one."""
    return next((chip for chip in CHIPS.values() if re.fullmatch(chip.kind, device_kind)), None)


class Peak(NamedTuple):
    """What a set of devices can do at best: chips, and bf16 FLOPs a second where it is known."""

    chips: int
    flops_per_second: float | None

    @classmethod
    def of(cls, devices: Sequence[Any]) -> "Peak":
        """Of `devices`, all of one kind. Where that is not in the table, a device is a chip."""
        chip = find_chip(devices[0].device_kind)
        if chip is None:
            return cls(len(devices), None)
        chips = -(-len(devices) // chip.devices)
        return cls(chips, len(devices) / chip.devices * chip.bf16_flops_per_second)
