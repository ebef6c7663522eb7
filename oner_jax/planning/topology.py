"""Accelerators that are not there: `v5e:16x16` by name, and a TPU's devices to compile for."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

from oner_jax.errors import InputError
from oner_jax.parallel.chips import CHIPS, Chip

# For libtpu as a compiler alone: it does not look for a TPU, does not mind another program that
# uses one, and does not report that there is none.
_NO_TPU_HERE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_MIN_LOG_LEVEL": "4",
    "TPU_STDERR_LOG_LEVEL": "4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any that it knows
}


# A machine of a slice over several has this many chips; some slices of up to 8 are one machine.
_TPU_HOST_CHIPS = 4
_LARGEST_TPU_HOST_CHIPS = {"v5e": 8, "v6e": 8}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`slices` of `shape` chips each. TPU shapes are the torus, GPU shapes a number of cards."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int

    @classmethod
    def parse(cls, text: str, slices: int = 1) -> "Topology":
        """Read `v5e:16x16` or `h100:8`. Raises InputError that lists what there is."""
        name, _, size = text.partition(":")
        if name.lower() not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
            raise InputError(f"unknown topology {text!r}: {known_topologies()}")
        shape = tuple(int(side) for side in size.split("x"))
        return cls(CHIPS[name.lower()], shape, slices)

    @property
    def chips(self) -> int:
        return self.slices * math.prod(self.shape)

    @property
    def hosts(self) -> int:
        """The (virtual) machines that the chips are in, each of which reads its own input."""
        chips = math.prod(self.shape)
        host = self.chip.host_devices or _TPU_HOST_CHIPS
        largest = _LARGEST_TPU_HOST_CHIPS.get(self.chip.name, host)
        return self.slices * (1 if chips <= largest else -(-chips // host))

    @property
    def is_tpu(self) -> bool:
        return self.chip.host_devices is None

    def __str__(self) -> str:
        count = f"{self.slices} x " if self.slices > 1 else ""
        return f"{count}{self.chip.name}:{'x'.join(map(str, self.shape))}"


def known_topologies() -> str:
    """The topologies that can be planned for, for a message."""
    tpus = [chip.name for chip in CHIPS.values() if chip.host_devices is None]
    gpus = [chip.name for chip in CHIPS.values() if chip.host_devices is not None]
    cubes = [name for name in tpus if name in ("v4", "v5p", "7x")]
    flat = [name for name in tpus if name not in cubes]
    return (
        f"write {', '.join(flat)} with two sides (v5e:16x16), {', '.join(cubes)} with three "
        f"(v5p:8x8x8), {', '.join(gpus)} with a number of cards (h100:8)"
    )


def tpu_devices(topology: Topology) -> list[Any]:
    """Devices of a TPU that is not there, for meshes and ahead-of-time compilation.

    Raises InputError where libtpu, the TPU's compiler, is not installed or knows no such shape.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "planning for a TPU needs its compiler, which runs on any x86-64 Linux machine: "
            "pip install -r requirements-tpu.txt"
        )
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    name = {"7x": "tpu7x"}.get(topology.chip.name, topology.chip.name)
    sides = "x".join(map(str, topology.shape))
    options = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:{sides}", **options
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"unknown topology {topology}: {known_topologies()}; libtpu says: {reason}"
        ) from error
    return list(described.devices)
