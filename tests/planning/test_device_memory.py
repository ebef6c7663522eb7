"""Running out of device memory is said in one line that names what to change."""

import jax
import pytest

from configs.oner import get_config
from oner_jax.configuration import resolve_without_data
from oner_jax.errors import InputError
from oner_jax.objectives.batch import TextFormat
from oner_jax.parallel.mesh import make_mesh
from oner_jax.planning import device_memory as memory
from oner_jax.training.recipe import Recipe


def recipe(devices: int = 1, **changes) -> Recipe:
    config = get_config("tiny")
    config.model.vocabulary_size = 64
    config.model.remat = "cheap"
    config.update(changes)
    mesh = make_mesh(devices=jax.devices()[:devices])
    return Recipe.from_config(resolve_without_data(config), TextFormat.synthetic(64), mesh)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        # An H100, a TPU's compiler and a CPU, as JAX hands them on.
        ("Out of memory while trying to allocate 13.50GiB.", 13.5 * 2**30),
        ("Out of memory while trying to allocate 1073741824 bytes.", 2**30),
        (
            "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.11G "
            "of 15.75G hbm.",
            int(20.11 * 2**30),
        ),
        ("Out of memory allocating 4096 bytes.", 4096),
        ("nothing more", None),
    ],
)
def test_what_was_needed_is_read_from_the_error(said, size):
    error = jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {said}")
    assert memory.is_out_of_memory(error)
    assert memory.needed_bytes(error) == size


def explain(made: Recipe) -> str:
    with pytest.raises(InputError) as raised, memory.out_of_memory_explained(made):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory allocating 3221225472 B."
        )
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_knobs_are_named_in_order_with_what_they_are():
    said = explain(recipe(8))
    assert "asked for were 3.00 GiB" in said
    order = [
        "--config.model.remat=full (is cheap; between them: mlp, qkv, attention)",
        "--config.accumulation_steps=2 (is 1)",
        "--config.mesh.fsdp=2 (is 1)",
    ]
    places = [said.index(knob) for knob in order]
    assert places == sorted(places)


def test_what_is_exhausted_is_not_named():
    made = recipe(4, batch_size=4)
    made.config.unlock()
    made.config.model.remat = "full"
    said = explain(made)
    assert "remat" not in said
    assert "accumulation" not in said
    assert said.endswith("in this order: --config.mesh.fsdp=2 (is 1)")
    assert "more devices, with --config.mesh.fsdp=2" in explain(recipe(1))


def test_the_sizes_are_those_of_the_arrays():
    made = recipe()
    arrays = made.init_state()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    assert memory.device_bytes(made.abstract) == held
    assert f"the state takes {held / 2**30:.2f} GiB of each device" in explain(made)


def test_other_errors_stay_what_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError), memory.out_of_memory_explained(recipe()):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_memory_that_cannot_be_had_is_explained():
    """An exabyte, from the CPU's own allocator."""
    with (
        pytest.raises(InputError, match="out of device memory"),
        memory.out_of_memory_explained(recipe()),
    ):
        jax.block_until_ready(jax.jit(lambda: jax.numpy.ones((1 << 29, 1 << 29)))())
