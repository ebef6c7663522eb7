"""Device memory: what a recipe's arrays take of it, and what to change when it is not enough."""

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import jax

from oner_jax.errors import InputError
from oner_jax.models.settings import REMAT_POLICIES
from oner_jax.parallel.chips import GIB
from oner_jax.parallel.mesh import BATCH_AXES
from oner_jax.training.recipe import Recipe

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
# How compilers and allocators say what they would have needed.
_NEEDED = (
    r"temporaries \((?P<size>[\d.]+)(?P<unit>[KMG])\)",
    r"Used (?P<size>[\d.]+)(?P<unit>[KMG]) of",
    r"allocat\w+ (?P<size>[\d.]+) ?(?P<unit>[KMGT]?)(?:i?B|bytes)",
)


def device_bytes(tree: Any) -> int:
    """Bytes of one device's part of abstract arrays."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a program was refused or ended for want of device memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def needed_bytes(error: BaseException) -> int | None:
    """What such an error says was needed, if it says so."""
    for pattern in _NEEDED:
        if found := re.search(pattern, str(error)):
            return int(float(found["size"]) * 2 ** _UNITS[found["unit"]])
    return None


@contextlib.contextmanager
def out_of_memory_explained(recipe: Recipe) -> Iterator[None]:
    """Running out of device memory inside, at compilation or later, as an InputError of one line:
    what takes how much, and what to change, in order of what it costs."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(_explanation(recipe, needed_bytes(error))) from error


def _explanation(recipe: Recipe, needed: int | None) -> str:
    state, batch = device_bytes(recipe.abstract), device_bytes(recipe.abstract_batch())
    device = recipe.mesh.devices.flat[0]
    has = (device.memory_stats() or {}).get("bytes_limit")
    sizes = [f"the state takes {_gib(state)} of each device", f"a batch {_gib(batch)}"]
    if needed is not None:
        sizes.append(f"asked for were {_gib(needed)}")
    if has is not None:
        sizes.append(f"a device ({device.device_kind}) has {_gib(has)}")
    # Gradients are as large as the parameters and have to be there beside the state.
    held = state + device_bytes(recipe.abstract.parameters)
    knobs = _knobs(recipe, state_first=has is not None and held > has)
    return f"out of device memory: {', '.join(sizes)}; try, in this order: {', '.join(knobs)}"


def _knobs(recipe: Recipe, *, state_first: bool) -> list[str]:
    """Settings that would take less memory, the cheapest first; those of the state before all
    others where the state alone is too much."""
    config, mesh = recipe.config, recipe.mesh
    activations = []
    if config.model.remat != REMAT_POLICIES[-1]:
        tighter = REMAT_POLICIES[REMAT_POLICIES.index(config.model.remat) + 1 :]
        activations.append(
            f"--config.model.remat={tighter[-1]} (is {config.model.remat}; between them: "
            f"{', '.join(tighter[:-1]) or 'none'})"
        )
    parts = config.accumulation_steps
    rows = config.batch_size // parts // math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows > 1:
        more = next(n for n in range(2, rows + 1) if rows % n == 0)
        activations.append(f"--config.accumulation_steps={parts * more} (is {parts})")
    cut, whole = mesh.shape["fsdp"], mesh.shape["data"]
    fsdp = f"more devices, with --config.mesh.fsdp={2 * cut} (is {cut})"
    if whole > 1:
        more = next(n for n in range(2, whole + 1) if whole % n == 0)
        fsdp = f"--config.mesh.fsdp={cut * more} (is {cut})"
    return [fsdp, *activations] if state_first else [*activations, fsdp]


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
