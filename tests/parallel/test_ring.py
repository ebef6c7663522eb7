"""Every resident meets every visitor once, whatever the mesh, and slow links are crossed least."""

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oner_jax.parallel import mesh as meshes
from oner_jax.parallel import ring

RESIDENTS, VISITORS = 16, 24


def make_mesh(**sizes):
    sizes = dict.fromkeys(meshes.AXES, 1) | sizes
    return meshes.make_mesh(sizes, jax.devices()[: int(np.prod(list(sizes.values())))])


def meetings(mesh, resident_block=1024, visitor_block=1024):
    """How often each resident met each visitor, and in how many blocks."""

    def absorb(state, residents, visitors):
        met, blocks = state
        once = jax.nn.one_hot(visitors[0], VISITORS).sum(axis=0)
        return met + residents[..., None] * once, blocks + 1

    return ring.fold(
        absorb,
        (jnp.zeros((1, RESIDENTS, VISITORS)), jnp.zeros((1, RESIDENTS), jnp.int32)),
        # Each resident as its number, so that a row that went astray is seen.
        jnp.arange(1.0, RESIDENTS + 1)[None],
        jnp.arange(VISITORS)[None],
        mesh=mesh,
        resident_block=resident_block,
        visitor_block=visitor_block,
    )


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"data": 8},
        {"fsdp": 8},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"slice": 2, "data": 2, "fsdp": 2},
        {"tensor": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("blocks", [(1024, 1024), (1, 3), (2, 1)])
def test_everything_meets_everything_once(sizes, blocks):
    mesh = make_mesh(**sizes)
    met, count = jax.jit(meetings, static_argnums=(0, 1, 2))(mesh, *blocks)
    expected = np.repeat(np.arange(1.0, RESIDENTS + 1)[:, None], VISITORS, axis=1)
    np.testing.assert_array_equal(met[0], expected)
    shards = mesh.size // mesh.shape["tensor"]
    visitors_at_once = ring.block_rows(VISITORS // shards, blocks[1])
    np.testing.assert_array_equal(count, VISITORS // visitors_at_once)


def sent(jaxpr, times=1):
    """Messages along each mesh axis, loops multiplied out."""
    total: collections.Counter[tuple[str, ...]] = collections.Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "ppermute":
            total[equation.params["axis_name"]] += times
        inner = times * equation.params.get("length", 1)
        for value in equation.params.values():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                total += sent(getattr(value, "jaxpr", value), inner)
    return total


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"tensor": 8}, {}),
        ({"data": 8}, {("data", "fsdp"): 7}),
        ({"slice": 2, "data": 4}, {("slice",): 1, ("data", "fsdp"): 6}),
        ({"slice": 2, "data": 2, "fsdp": 2}, {("slice",): 1, ("data", "fsdp"): 6}),
    ],
)
def test_links_between_slices_are_crossed_once_per_outer_turn(sizes, expected):
    jaxpr = jax.make_jaxpr(lambda: meetings(make_mesh(**sizes)))()
    assert dict(sent(jaxpr.jaxpr)) == expected


class Chip(NamedTuple):
    coords: tuple[int, ...]
    core_on_chip: int = 0


@pytest.mark.parametrize("sides", [(4, 4, 1), (16, 16, 1), (3, 4, 1), (4, 3, 1), (4, 4, 8)])
@pytest.mark.parametrize("cores", [1, 2])
def test_the_way_round_a_grid_of_chips_is_from_neighbour_to_neighbour(sides, cores):
    chips = [Chip(place, core) for place in np.ndindex(*sides) for core in range(cores)]
    # As a mesh may lay them.
    chips = [chips[position] for position in np.random.default_rng(0).permutation(len(chips))]
    order = ring.ring_order(chips)
    assert sorted(order) == list(range(len(chips)))
    way = np.array([(*chips[position].coords, chips[position].core_on_chip) for position in order])
    np.testing.assert_array_equal(np.abs(way - np.roll(way, 1, axis=0)).sum(axis=1), 1)


@pytest.mark.parametrize(
    "devices",
    [[object()] * 5, [Chip((x, y, 0)) for x in range(3) for y in range(3)]],
    ids=["no coordinates", "odd sides"],
)
def test_where_no_such_way_is_known_the_order_stays(devices):
    assert ring.ring_order(devices) == list(range(len(devices)))


@pytest.mark.parametrize("rows", [1, 7, 1024, 1030, 32768])
def test_blocks_divide_the_rows(rows):
    block = ring.block_rows(rows, 1024)
    assert rows % block == 0
    assert 1 <= block <= 1024
