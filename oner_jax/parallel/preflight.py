"""Before the first step: is any host or link slower than the others?

One slow host holds up all of them at every step, and nothing in the run's own figures names it.
"""

import dataclasses
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oner_jax.parallel import distributed

# Slower than the median host by this factor is named.
OUTLIER_FACTOR = 1.5
_REPEATS = 3
# Rows of the square product, and elements that each device brings to the sum: milliseconds each.
_SIZES = {"cpu": (384, 1 << 14)}
_ACCELERATOR_SIZES = (4096, 1 << 24)


@dataclasses.dataclass(frozen=True)
class Preflight:
    """Seconds by process: a product on its slowest device, a sum over all devices."""

    hosts: list[str]
    matmul_seconds: list[float]
    all_reduce_seconds: list[float]

    def outliers(self) -> list[str]:
        """The processes whose products or sums take OUTLIER_FACTOR times the median or more.

        Sums end everywhere at about the same time: a slow link shows in their median rather.
        """
        named = []
        for kind, seconds in (
            ("matmul", self.matmul_seconds),
            ("all-reduce", self.all_reduce_seconds),
        ):
            median = statistics.median(seconds)
            named += [
                f"process {number} ({self.hosts[number]}): {kind} {spent * 1e3:.2f} ms, "
                f"{spent / median:.1f} x the median"
                for number, spent in enumerate(seconds)
                if spent >= OUTLIER_FACTOR * median and len(seconds) > 1
            ]
        return named

    def describe(self) -> str:
        """Lines for the log: the medians, then the outliers."""
        matmul, all_reduce = map(statistics.median, (self.matmul_seconds, self.all_reduce_seconds))
        median = "" if len(self.hosts) == 1 else " (medians)"
        line = f"matmul {matmul * 1e3:.2f} ms, all-reduce {all_reduce * 1e3:.2f} ms{median}"
        return "\n".join(
            [f"preflight   {line}", *(f"            slow: {name}" for name in self.outliers())]
        )

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "outliers": self.outliers()}


def measure(mesh: Mesh) -> Preflight:
    """Time a product on each device and a sum over all of them. All processes take part."""
    rows, elements = _SIZES.get(mesh.devices.flat[0].platform, _ACCELERATOR_SIZES)
    product = jax.jit(lambda x: x @ x)
    square = np.ones((rows, rows), jnp.bfloat16)
    squares = [jax.device_put(square, device) for device in mesh.local_devices]
    cut = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def ones(index: Any) -> np.ndarray:
        return np.ones(len(range(*index[0].indices(mesh.size * elements))), np.float32)

    parts = jax.make_array_from_callback((mesh.size * elements,), cut, ones)
    total = jax.jit(
        lambda x: x.reshape(mesh.size, elements).sum(0),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )
    mine = {
        "matmul": max(_fastest(product, each) for each in squares),
        "all_reduce": _fastest(total, parts),
    }
    every = distributed.gathered("preflight", {"host": socket.gethostname(), **mine})
    return Preflight(
        hosts=[each["host"] for each in every],
        matmul_seconds=[each["matmul"] for each in every],
        all_reduce_seconds=[each["all_reduce"] for each in every],
    )


def _fastest(function: Callable[[jax.Array], jax.Array], argument: jax.Array) -> float:
    """Seconds of the fastest of some calls after the one that compiles."""
    jax.block_until_ready(function(argument))
    spent = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        spent.append(time.perf_counter() - began)
    return min(spent)
