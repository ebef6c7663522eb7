"""Whether this machine feeds a step: the pairs it delivers beside those that are needed."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from oner_jax.data import pipeline
from oner_jax.data.cores import available_cores
from oner_jax.data.options import DataOptions
from oner_jax.data.timing.delivery import Delivery
from oner_jax.errors import InputError
from oner_jax.planning.plan import pairs_per_second
from oner_jax.planning.topology import Topology

# Timed in batches of a host's share, but of at most so many pairs: more only take memory.
_MAXIMUM_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Need:
    """Pairs a second that each of `hosts` has to deliver, and where that follows from."""

    pairs_per_second: float
    hosts: int = 1
    origin: str = "as given"

    @classmethod
    def of_step(cls, config: ConfigDict, topology: Topology, mfu: float) -> "Need":
        """Of a resolved config's step at an assumed MFU, by its analytic FLOPs."""
        rate, hosts = pairs_per_second(config, topology, mfu), topology.hosts
        origin = (
            f"{topology} at an assumed MFU of {mfu:.0%} takes {rate:,.0f} from {hosts} hosts, "
            f"{topology.chips / hosts:g} chips each"
        )
        return cls(rate / hosts, hosts, origin)


def delivered(config: ConfigDict, hosts: int, seconds: float) -> float:
    """Pairs a second that training's input makes on this machine, timed for `seconds`.

    It makes what one of `hosts` has to. Errors as those of `pipeline.training_batches`.
    """
    options = DataOptions.from_config(config)
    rows = max(1, min(config.batch_size // hosts, _MAXIMUM_ROWS))
    sizes = {
        "image_only": options.image_only_batch_size,
        "text_only": options.text_only_batch_size,
    }
    others = {key: -(-size * rows // config.batch_size) for key, size in sizes.items()}
    batches = pipeline.training_batches(
        options,
        global_batch_size=config.batch_size,
        seed=config.seed,
        first_step=0,
        rows={key: np.arange(number) for key, number in {"train": rows, **others}.items()},
    )
    return 1 / Delivery(batches, rows).take_for(seconds).seconds


def describe(rate: float, need: Need | None) -> str:
    """Both rates for a person."""
    here = f"{rate:,.0f} on the {available_cores()} cores of this machine"
    if need is None:
        return f"delivers {here}, in pairs/s; --topology says how many a step needs"
    return f"needs {need.pairs_per_second:,.0f} pairs/s per host ({need.origin}), delivers {here}"


def require_enough(rate: float, need: Need) -> None:
    """Raise InputError where the machine delivers less than is needed."""
    if rate < need.pairs_per_second:
        ratio = need.pairs_per_second / rate
        raise InputError(
            f"the input is too slow: {need.pairs_per_second:,.0f} pairs/s are needed per host and "
            f"{rate:,.0f} delivered; take hosts with {ratio:.1f} times as many cores, or ingest "
            "the pictures smaller (--maximum_side)"
        )
