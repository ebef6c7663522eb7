"""Every row of one array meets every row of another, both staying cut over the mesh.

Residents stay where they are; visitors circulate, one shard's worth at a time, until every device
has seen all of them. What a device holds is its own rows, the visitors at hand and the next ones:
nothing grows with the number of devices (ring attention: Liu et al. 2023, arXiv 2310.01889).

The rings are nested as the mesh's batch axes are. On every turn of the outer ring the inner one
goes round once, so rows cross the outermost, slowest links only once per outer turn, on all
devices at the same time. Axes that cut no rows (`tensor`) do the same work on the same numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from oner_jax.parallel.mesh import BATCH_AXES

Rows = Any
"""A pytree of arrays (sets, rows, ...): the second axis of every leaf is the one cut in rows."""


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
    rings = [(axis, mesh.shape[axis]) for axis in BATCH_AXES if mesh.shape[axis] > 1]

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
    rings: list[tuple[str, int]],
    use: Callable[[Rows, Rows], Rows],
    state: Rows,
    visitors: Rows,
) -> Rows:
    """Use what the outermost ring brings, each time round the rings inside it."""
    if not rings:
        return use(state, visitors)
    (axis, size), *inner = rings
    neighbours = [(device, (device + 1) % size) for device in range(size)]

    def step(carry: tuple[Rows, Rows], _: None) -> tuple[tuple[Rows, Rows], None]:
        state, present = carry
        # Sent before the present ones are used, so that travel and arithmetic overlap.
        following = jax.lax.ppermute(present, axis, neighbours)
        return (_turn(inner, use, state, present), following), None

    (state, last), _ = jax.lax.scan(step, (state, visitors), length=size - 1)
    return _turn(inner, use, state, last)


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
