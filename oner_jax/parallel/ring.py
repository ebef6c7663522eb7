"""Every row of one array meets every row of another, both staying cut over the mesh.

Residents stay where they are; visitors circulate, one shard's worth at a time, until every device
has seen all of them. What a device holds is its own rows, the visitors at hand and the next ones:
nothing grows with the number of devices (ring attention: Liu et al. 2023, arXiv 2310.01889).

There are two rings, one in the other: over the outermost of the mesh's batch axes (slices), and
over all devices that the others put in a slice. On every turn of the outer ring the inner one goes
round once, so rows cross the slow network between slices once per outer turn, on all devices at the
same time. Axes that cut no rows (`tensor`) do the same work on the same numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from oner_jax.parallel.mesh import BATCH_AXES

Rows = Any
"""A pytree of arrays (sets, rows, ...): the second axis of every leaf is the one cut in rows."""

Ring = tuple[tuple[str, ...], list[int]]
"""Mesh axes, and the positions along them in the order that visitors pass."""


def fold(
    absorb: Callable[[Rows, Rows, Rows], Rows],
    state: Rows,
    residents: Rows,
    visitors: Rows,
    *,
    mesh: Mesh,
    resident_block: int,
    visitor_block: int,
) -> Rows:
    """`state = absorb(state, residents, visitors)` over all visitors, block by block.

    `state` has a row for each resident, and each of its blocks meets every block of visitors once.
    The order differs between devices, so `absorb` must not mind the order; and it may not close
    over traced arrays. It sees at most `resident_block` x `visitor_block` rows at a time.
    Rows (global) must divide evenly over the mesh's batch axes. Nothing differentiates through a
    fold: its callers know their gradients.
    """
    rings = _rings(mesh)

    def meet(state: Rows, residents: Rows, visitors: Rows) -> Rows:
        """All local residents, one block of them in memory at a time, with the visitors at hand."""

        def meet_block(block: tuple[Rows, Rows]) -> Rows:
            def step(state: Rows, visitors: Rows) -> tuple[Rows, None]:
                return absorb(state, block[1], visitors), None

            return jax.lax.scan(step, block[0], visitors)[0]

        return jax.lax.map(meet_block, (state, residents))

    def fold_shard(state: Rows, residents: Rows, visitors: Rows) -> Rows:
        residents = _blocks(residents, resident_block)
        state = _turn(
            rings,
            lambda state, visitors: meet(state, residents, visitors),
            _blocks(state, resident_block),
            _blocks(visitors, visitor_block),
        )
        return _merge(state)

    rows = PartitionSpec(None, BATCH_AXES)
    return jax.shard_map(fold_shard, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(
        state, residents, visitors
    )


def _turn(
    rings: list[Ring], use: Callable[[Rows, Rows], Rows], state: Rows, visitors: Rows
) -> Rows:
    """Use what the outermost ring brings, each time round the rings inside it."""
    if not rings:
        return use(state, visitors)
    (axes, order), *inner = rings
    hops = list(zip(order, order[1:] + order[:1], strict=True))

    def step(carry: tuple[Rows, Rows], _: None) -> tuple[tuple[Rows, Rows], None]:
        state, present = carry
        # Sent before the present ones are used, so that travel and arithmetic overlap.
        following = jax.lax.ppermute(present, axes, hops)
        return (_turn(inner, use, state, present), following), None

    (state, last), _ = jax.lax.scan(step, (state, visitors), length=len(order) - 1)
    return _turn(inner, use, state, last)


def _rings(mesh: Mesh) -> list[Ring]:
    """Outer to inner, leaving out one of a single device."""
    rings: list[Ring] = []
    for axes in (BATCH_AXES[:1], BATCH_AXES[1:]):
        line = tuple(slice(None) if axis in axes else 0 for axis in mesh.axis_names)
        devices = mesh.devices[line].ravel()
        if len(devices) > 1:
            rings.append((axes, ring_order(list(devices))))
    return rings


def ring_order(devices: Sequence[Any]) -> list[int]:
    """Positions in `devices` in an order that steps from neighbour to neighbour, and home.

    From 8x8 chips on, a TPU v5e can send to a neighbour while it computes, but XLA makes it wait
    for anything sent farther (seen in programs compiled by libtpu 0.0.42). A way from neighbour to
    neighbour goes round every grid that has an even side and is no line. Other devices, those that
    have no coordinates among them, keep the order given.
    """
    places = [(*getattr(d, "coords", ()), getattr(d, "core_on_chip", 0)) for d in devices]
    sides = [sorted(set(values)) for values in zip(*places, strict=True)]
    even = next((axis for axis, side in enumerate(sides) if len(side) % 2 == 0), None)
    if even is None or math.prod(map(len, sides)) != len(devices):
        return list(range(len(devices)))
    # Rows of all other axes' cells, there and back in turn, but for the first column: that is the
    # way home.
    cells = _snake(sides[:even] + sides[even + 1 :])
    way = [
        (value, cell)
        for row, value in enumerate(sides[even])
        for cell in (cells[1:] if row % 2 == 0 else cells[:0:-1])
    ]
    way += [(value, cells[0]) for value in reversed(sides[even])]
    position = {place: index for index, place in enumerate(places)}
    return [position[(*cell[:even], value, *cell[even:])] for value, cell in way]


def _snake(sides: list[list[int]]) -> list[tuple[int, ...]]:
    """All cells of a grid, each a neighbour of the one before."""
    path: list[tuple[int, ...]] = [()]
    for side in sides:
        path = [
            (*cell, value)
            for turn, cell in enumerate(path)
            for value in (side if turn % 2 == 0 else reversed(side))
        ]
    return path


def _blocks(tree: Rows, most: int) -> Rows:
    """(sets, rows, ...) -> (blocks, sets, rows of a block, ...)."""

    def cut(leaf: jax.Array) -> jax.Array:
        sets, rows, *rest = leaf.shape
        size = block_rows(rows, most)
        return leaf.reshape(sets, rows // size, size, *rest).swapaxes(0, 1)

    return jax.tree.map(cut, tree)


def _merge(tree: Rows) -> Rows:
    """Inverse of `_blocks`."""

    def join(leaf: jax.Array) -> jax.Array:
        blocks, sets, size, *rest = leaf.shape
        return leaf.swapaxes(0, 1).reshape(sets, blocks * size, *rest)

    return jax.tree.map(join, tree)


def block_rows(rows: int, most: int) -> int:
    """Largest divisor of `rows` that is at most `most`."""
    return next(size for size in range(min(rows, most), 0, -1) if rows % size == 0)
