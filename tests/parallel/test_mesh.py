"""The mesh: its sizes, and that nothing but `slice` crosses slices."""

import itertools
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs.oner import get_config
from oner_jax.errors import InputError
from oner_jax.models.architectures import ARCHITECTURES
from oner_jax.models.pretraining import PureModel
from oner_jax.models.settings import ModelSettings
from oner_jax.parallel import mesh as meshes


def chips(slices: int, side: int, platform: str = "tpu") -> list:
    """Devices of `slices` tori of side x side, in an order that mixes the slices."""
    places = itertools.product(range(side), range(side), range(slices))
    return [
        SimpleNamespace(
            id=number,
            platform=platform,
            device_kind="TPU v6 lite" if platform == "tpu" else "NVIDIA H100",
            slice_index=part,
            coords=(x, y, 0),
            core_on_chip=0,
            process_index=0,
        )
        for number, (x, y, part) in enumerate(places)
    ]


def sizes(*values: int) -> dict[str, int]:
    return dict(zip(meshes.AXES, values, strict=True))


def test_the_default_is_data_parallel_over_all_devices():
    assert dict(meshes.make_mesh().shape) == sizes(1, 8, 1, 1)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize("shape", [(-1, -1, 1, 1), (-1, 2, -1, 2), (4, 1, 16, 1), (-1, -1, 8, 1)])
def test_one_slice_of_the_mesh_is_one_slice_of_the_hardware(shape, platform):
    grid = meshes.device_grid(sizes(*shape), chips(4, 4, platform))
    assert grid.shape[0] == 4
    assert grid.size == 64
    assert {len({chip.slice_index for chip in part.flat}) for part in grid} == {1}
    assert len({chip.id for chip in grid.flat}) == 64


def test_a_slice_of_hardware_may_be_cut_in_two():
    assert meshes.device_grid(sizes(2, -1, 1, 1), chips(1, 4)).shape == (2, 8, 1, 1)


def test_nvidia_hosts_may_be_joined_into_one_slice():
    grid = meshes.device_grid(sizes(1, -1, 8, 1), chips(4, 2, "gpu"))
    assert grid.shape == (1, 2, 8, 1)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, -1, -1, 1), (1, 0, 1, 1), (3, -1, 1, 1)])
def test_sizes_that_do_not_fit_are_refused(shape):
    with pytest.raises(InputError, match="mesh"):
        meshes.make_mesh(sizes(*shape))


def test_tpu_slices_cannot_be_joined_or_regrouped():
    with pytest.raises(InputError, match="form 4 slices; give slice=-1 or 4"):
        meshes.device_grid(sizes(2, -1, 1, 1), chips(4, 4))


@pytest.mark.parametrize(
    ("shape", "shards"), [((1, 8, 1, 1), 8), ((2, 2, 2, 1), 8), ((1, 2, 1, 4), 2)]
)
def test_a_batch_is_cut_over_slice_data_and_fsdp(shape, shards):
    rows = meshes.batch_sharding(meshes.make_mesh(sizes(*shape)))
    assert rows.shard_shape((16, 3)) == (16 // shards, 3)
    assert len({str(index) for index in rows.devices_indices_map((16, 3)).values()}) == shards


def test_an_axis_that_does_not_divide_its_dimension_is_dropped():
    mesh = meshes.make_mesh(sizes(1, 1, 2, 4))
    tree = {"word_table": np.zeros((6, 8)), "bias": np.zeros(6)}
    placed = meshes.shardings(tree, mesh, meshes.DEFAULT_RULES)
    assert placed["word_table"].shard_shape((6, 8)) == (6, 4)
    assert placed["bias"].is_fully_replicated


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (2, 2, 1, 2), (1, 1, 2, 4)])
def test_a_batch_put_together_from_its_rows_is_the_batch(shape):
    rows = meshes.LocalRows(meshes.make_mesh(sizes(*shape)), 16)
    assert list(rows.numbers) == list(range(16)), "one process holds all"
    values = np.arange(48).reshape(16, 3)
    whole = rows.globally(values)
    assert whole.sharding == meshes.batch_sharding(rows.mesh)
    np.testing.assert_array_equal(whole, values)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_table_of_rules_cuts_every_architecture(architecture):
    config = get_config(f"b16,architecture={architecture}")
    config.model.vocabulary_size = 32_000
    tree = PureModel(ModelSettings.from_config(config.model)).abstract_parameters
    placed = meshes.shardings(tree, meshes.make_mesh(sizes(1, 1, 8, 1)), config.sharding_rules)
    whole, held = 0, 0
    for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(placed), strict=True):
        whole += math.prod(leaf.shape)
        held += math.prod(sharding.shard_shape(leaf.shape))
    # An eighth, and what is small: the patch embedding, positions, vectors.
    assert held < 0.14 * whole


@pytest.mark.parametrize("rules", [1, "x", ("x",), (("(", ()),), (("kernel", ("fast",)),)])
def test_rules_that_cannot_be_are_refused(rules):
    with pytest.raises(InputError, match="sharding_rules"):
        meshes.check_rules(rules)


def test_the_default_rules_can_be():
    meshes.check_rules(meshes.DEFAULT_RULES)
