"""The device mesh, and which array is cut along which of its axes.

Axes, the slowest network first: `slice` (batch only, over the hardware's slices), `data` (batch
only), `fsdp` (batch, and parameters cut over it), `tensor` (heads and MLP). One table of regex
rules over parameter paths places parameters, momentum twin and optimizer state alike, since their
paths end the same way.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int64

from oner_jax.errors import InputError

AXES = ("slice", "data", "fsdp", "tensor")
BATCH_AXES = ("slice", "data", "fsdp")

# Pure data parallelism over whatever there is.
DEFAULT_SIZES: Mapping[str, int] = {"slice": -1, "data": -1, "fsdp": 1, "tensor": 1}

Rules = Sequence[tuple[str, Sequence[str | None]]]

# Kernels are cut along their wide side by `tensor` (heads, MLP) and along the other by `fsdp`;
# the tower's have a leading layer axis. What no rule names is replicated. Heads are small and not
# cut by `tensor`: of two layers in a row whose kernels are both cut (fsdp, tensor), XLA compiles a
# wrong gradient for the first (JAX 0.10.2), unless what passes between them is constrained.
DEFAULT_RULES: Rules = (
    (r"blocks?/attention/qkv/kernel$", (None, "fsdp", None, "tensor", None)),
    (r"blocks?/attention/project/kernel$", (None, "tensor", None, "fsdp")),
    (r"blocks?/mlp/expand/kernel$", (None, "fsdp", "tensor")),
    (r"blocks?/mlp/contract/kernel$", (None, "tensor", "fsdp")),
    (r"word_table$", ("tensor", "fsdp")),
    (r"(projector|predictor|word_head|pixel_head)/.*kernel$", ("fsdp", None)),
)


def make_mesh(
    sizes: Mapping[str, int] = DEFAULT_SIZES, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of `devices` (default: all of them) with `sizes` by axis.

    `slice` of -1 is the number of slices that the devices form: TPU slices joined by the data
    centre's network, or NVIDIA hosts without NVLink between them; anything else forms one. One of
    the other sizes may be -1, "all devices that are left". With a `slice` axis as large as that, no
    other axis crosses slices.

    Raises InputError where the sizes do not multiply to the number of devices or contradict their
    slices.
    """
    return Mesh(device_grid(sizes, jax.devices() if devices is None else devices), AXES)


def device_grid(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """The devices of `make_mesh`, as an array with one dimension an axis; errors as there."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    shape = [slices if sizes["slice"] == -1 else sizes["slice"], *(sizes[a] for a in AXES[1:])]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise InputError(
            f"mesh {dict(sizes)}: sizes are at least 1, and besides slice only one may be -1"
        )
    fixed = math.prod(size for size in shape if size != -1)
    shape = [len(devices) // fixed if size == -1 else size for size in shape]
    if math.prod(shape) != len(devices):
        text = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
        raise InputError(f"mesh {text} does not cover the {len(devices)} devices that there are")
    if devices[0].platform == "cpu":
        return np.asarray(devices).reshape(shape)
    # Of the ways to lay the axes on a torus, one that splits a physical axis comes last.
    if shape[0] == slices > 1:
        return mesh_utils.create_hybrid_device_mesh(
            [1, *shape[1:]], [slices, 1, 1, 1], devices, allow_split_physical_axes=True
        )
    if slices > 1 and devices[0].platform == "tpu":
        raise InputError(
            f"mesh slice={shape[0]}: the devices form {slices} slices; give slice=-1 or {slices}"
        )
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over all data-parallel devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


@dataclasses.dataclass(frozen=True)
class LocalRows:
    """The rows of global batches that this process's devices hold.

    Which they are is the mesh's choice: devices are laid out by their network, not by host, and
    with a `tensor` axis over several hosts the same row is held by each of them.
    """

    mesh: Mesh
    batch_size: int

    @functools.cached_property
    def numbers(self) -> Int64[np.ndarray, " rows"]:
        """Their numbers in the global batch, ascending."""
        spans = batch_sharding(self.mesh).addressable_devices_indices_map((self.batch_size,))
        return np.unique([np.arange(self.batch_size)[span] for span in spans.values()])

    def globally(self, rows: np.ndarray) -> jax.Array:
        """The global array of which `rows`, in the order of `numbers`, are this process's."""

        def held_at(index: Any) -> np.ndarray:
            first, last, _ = index[0].indices(self.batch_size)
            start = np.searchsorted(self.numbers, first)
            return rows[start : start + last - first]

        shape = (self.batch_size, *rows.shape[1:])
        return jax.make_array_from_callback(shape, batch_sharding(self.mesh), held_at)


def rows_stay_cut(x: jax.Array) -> jax.Array:
    """`x` with its first axis cut over the batch axes of the mesh that a program is traced for.

    Without being told, the compiler may rather cut activations as `fsdp` has cut the weights, and
    hold all rows on every device. No mesh (`jax.sharding.use_abstract_mesh`), no effect.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(
    batch_size: int, micro_batches: int, mesh: Mesh | AbstractMesh, name: str = "batch_size"
) -> None:
    """Raise InputError unless every device gets the same number of whole examples."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size < 1 or micro_batches < 1 or batch_size % (shards * micro_batches):
        raise InputError(
            f"{name}={batch_size} cannot be divided over {shards} devices x "
            f"accumulation_steps={micro_batches}: choose a multiple of {shards * micro_batches}"
        )


def check_rules(rules: Any) -> None:
    """Raise InputError unless `rules` are pairs of a regex and names of axes or None."""
    try:
        for regex, spec in rules:
            re.compile(regex)
            if not set(spec) <= {*AXES, None}:
                raise ValueError(f"axes are {', '.join(AXES)} and None")
    except (TypeError, ValueError, re.error) as error:
        raise InputError(
            f"sharding_rules={rules!r}: give pairs of a regex and of axes by dimension, as "
            f"((r'mlp/.*kernel$', (None, 'fsdp')),) ({error})"
        ) from None


def path_name(path: tuple[Any, ...]) -> str:
    """A pytree path as `backbone/tower/blocks/mlp/expand/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """A sharding for each array of `tree`: the first rule whose regex is found in its path.

    A rule names a mesh axis or None by dimension; an axis that does not divide its dimension is
    dropped, so that one table serves every size.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = path_name(path)
        spec = next((spec for regex, spec in rules if re.search(regex, name)), ())
        if len(spec) > len(leaf.shape):
            spec = ()
        fitting = [
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, leaf.shape, strict=False)
        ]
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree_util.tree_map_with_path(place, tree)
