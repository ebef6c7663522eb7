"""The step on many devices, in micro-batches and over meshes: always the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.oner import get_config
from oner_jax.configuration import resolve_without_data
from oner_jax.errors import InputError
from oner_jax.models.pretraining import PureModel
from oner_jax.objectives.batch import TextFormat
from oner_jax.parallel import mesh as meshes
from oner_jax.training import schedule
from oner_jax.training.optimizer import decay_mask, make_optimizer
from oner_jax.training.recipe import Recipe
from oner_jax.training.step import abstract_state
from tests import small
from tests.marks import slow

close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def assert_same_step(result, other):
    """Metrics and states agree. Ranks may differ where an own key all but ties with another."""
    (metrics, state), (other_metrics, other_state) = result, other
    for name, value in metrics.items():
        tie = 2 / 32 if name.startswith("accuracy/") else 0
        np.testing.assert_allclose(value, other_metrics[name], rtol=1e-5, atol=1e-5 + tie)
    jax.tree.map(close, state, other_state)


def run(
    sizes,
    micro_batches=1,
    steps=2,
    shape=(),
    rules=meshes.DEFAULT_RULES,
    unpaired=False,
    concepts=False,
    resumed_after=None,
    **objective_changes,
):
    """Metrics and state after `steps` of one batch on a (slice, data, fsdp, tensor) mesh."""
    settings = small.settings(**dict(shape))
    model = PureModel(settings)
    devices = jax.devices()[: int(np.prod(sizes))]
    mesh = meshes.make_mesh(dict(zip(meshes.AXES, sizes, strict=True)), devices)
    objective = small.objective(
        settings, mesh=mesh, equal_concepts_are_positives=concepts, **objective_changes
    )
    step, state = small.training(model, objective, micro_batches=micro_batches, rules=rules)
    batch = small.batch(settings, size=16)
    if concepts:
        batch = batch._replace(concept_hash=jnp.arange(1, 17, dtype=jnp.uint32) // 3)
    if unpaired:
        alone = small.batch(settings, size=16, seed=9)
        batch = batch._replace(image_only=alone.image, text_only=alone.text)
    batch = jax.device_put(batch, meshes.batch_sharding(mesh))
    for number in range(steps):
        if number == resumed_after:  # all that is left is what a checkpoint holds
            shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
            state = jax.device_put(jax.device_get(state), shardings)
        state, metrics = step(state, batch)
    return jax.device_get((metrics, state))


@functools.cache
def one_device():
    return run((1, 1, 1, 1))


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 2, 2, 2),
        slow((1, 8, 1, 1)),
        slow((1, 1, 8, 1)),
        slow((1, 1, 1, 2)),
        slow((2, 1, 2, 2)),
    ],
)
def test_any_mesh_gives_the_numbers_of_one_device(sizes):
    jax.tree.map(close, run(sizes), one_device())


@pytest.mark.slow
def test_heads_cut_by_features_give_the_numbers_of_one_device():
    """XLA alone gets the gradient wrong where two such heads follow each other."""
    rules = ((r"(projector|predictor)/.*kernel$", ("fsdp", "tensor")), *meshes.DEFAULT_RULES)
    jax.tree.map(close, run((1, 2, 2, 2), rules=rules), one_device())


@pytest.mark.parametrize(
    ("sizes", "micro_batches"),
    [((1, 2, 2, 1), 4), slow((1, 1, 1, 1), 2), slow((1, 1, 1, 1), 8)],
)
def test_micro_batches_add_up_to_the_undivided_batch(sizes, micro_batches):
    jax.tree.map(close, run(sizes, micro_batches), one_device())


CLIP = dict(
    shape=(
        ("architecture", "two_towers"),
        ("predictor_hidden_width", 0),
        ("projection_layers", 1),
        ("learned_logits", True),
    ),
    key_source="online",
    weights={"itc": 1.0, "mlm": 0.5},
)


@functools.cache
def clip_on_one_device(form):
    return run((1, 1, 1, 1), form=form, **CLIP)


@pytest.mark.parametrize(
    ("form", "sizes", "micro_batches"),
    [
        ("sigmoid", (2, 1, 2, 2), 2),
        slow("softmax", (2, 1, 2, 2), 1),
        slow("sigmoid", (1, 4, 1, 1), 2),
        slow("softmax", (1, 4, 1, 1), 2),
        slow("softmax", (1, 1, 1, 1), 8),
        slow("sigmoid", (1, 1, 1, 1), 8),
    ],
)
def test_keys_with_gradient_add_up_over_meshes_and_micro_batches(form, sizes, micro_batches):
    jax.tree.map(close, run(sizes, micro_batches, form=form, **CLIP), clip_on_one_device(form))


@pytest.mark.parametrize(
    "arm",
    [
        {"weights": {"itc": 1.0, "mim": 1.0, "mlm": 1.0}},
        {"weights": {"itc": 1.0, "mim": 1.0, "mlm": 1.0}, "key_source": "online"},
    ],
    ids=["keys first", "cached gradients"],
)
@pytest.mark.slow
def test_halves_of_no_pair_add_up_over_meshes_and_micro_batches(arm):
    whole = run((1, 1, 1, 1), unpaired=True, **arm)
    assert_same_step(run((1, 2, 4, 1), 2, unpaired=True, **arm), whole)


@pytest.mark.parametrize(
    ("key_source", "form"),
    [("momentum", "softmax"), slow("online", "softmax"), slow("online", "sigmoid")],
)
def test_positives_of_equal_concepts_add_up_over_meshes_and_micro_batches(key_source, form):
    arm = dict(concepts=True, weights={"itc": 1.0}, key_source=key_source, form=form)
    assert_same_step(run((1, 4, 2, 1), 2, **arm), run((1, 1, 1, 1), **arm))


@pytest.mark.parametrize(
    ("sizes", "micro_batches", "concepts"),
    [((1, 4, 2, 1), 2, True), slow((2, 1, 2, 2), 1, False)],
)
def test_mosaics_are_the_same_on_every_mesh_and_after_resuming(sizes, micro_batches, concepts):
    arm = dict(shape=(("text_tokens", 12),), mosaic_fraction=0.5, concepts=concepts)
    arm |= {"weights": {"itc": 1.0, "mlm": 1.0}}
    whole = run((1, 1, 1, 1), **arm)
    assert 0 < whole[0]["mosaic_fraction"] <= 0.5
    assert_same_step(run(sizes, micro_batches, resumed_after=1, **arm), whole)


def test_a_model_without_a_twin_learns_its_logit_scale():
    metrics, state = clip_on_one_device("sigmoid")
    assert state.momentum == {}
    assert "momentum" not in metrics
    assert abs(state.parameters["logits"]["log_scale"]) > 1e-3
    assert abs(state.parameters["logits"]["bias"]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "weights"),
    [
        ("two_legs", {"itc": 1.0, "cmc": 1.0, "mmm": 1.0}),
        ("one_tower_two_heads", {"itc": 1.0, "xmc": 1.0, "cic": 1.0}),
        ("two_towers", {"itc": 1.0, "xmc": 1.0, "mim": 1.0, "mlm": 1.0}),
    ],
)
def test_every_architecture_trains_alike_on_mixed_meshes(architecture, weights):
    arm = dict(shape=(("architecture", architecture),), weights=weights)
    assert_same_step(run((1, 2, 2, 2), 2, **arm), run((1, 1, 1, 1), **arm))


def test_fsdp_cuts_parameters_twin_and_optimizer_alike():
    model = PureModel(small.settings())
    optimizer = make_optimizer(
        lambda step: 0.1, beta_1=0.9, beta_2=0.98, weight_decay=0.1, clip_norm=1.0
    )
    mesh = meshes.make_mesh({"slice": 1, "data": 2, "fsdp": 4, "tensor": 1})
    state = abstract_state(
        model, optimizer, mesh, meshes.DEFAULT_RULES, has_twin=True, guard=small.GUARD
    )
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if meshes.path_name(path).endswith("mlp/expand/kernel")
    ]
    assert len(kernels) == 8, "both blocks: parameters, momentum twin, and Adam's two moments"
    assert {leaf.sharding.shard_shape(leaf.shape) for leaf in kernels} == {(1, 4, 32)}


def test_the_twin_is_the_moving_average_of_the_backbone():
    before, after = run((1, 1, 1, 1), steps=1), run((1, 1, 1, 1), steps=2)
    expected = jax.tree.map(
        lambda twin, new: 0.9 * twin + 0.1 * new,
        before[1].momentum,
        after[1].parameters["backbone"],
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        after[1].momentum,
        expected,
    )


def test_training_learns_the_batch():
    first, last = run((1, 1, 1, 1), steps=1)[0], run((1, 1, 1, 1), steps=30)[0]
    assert last["loss"] < 0.9 * first["loss"]
    assert last["loss/itc"] < 0.85 * first["loss/itc"]


def test_weight_decay_spares_vectors_tokens_and_positions():
    mask = decay_mask(PureModel(small.settings()).abstract_parameters)
    decayed = {
        meshes.path_name(path): value for path, value in jax.tree_util.tree_leaves_with_path(mask)
    }
    spared = {name.rsplit("/", 1)[1] for name, value in decayed.items() if not value}
    assert spared == {
        "bias",
        "scale",
        "cls_token",
        "mask_token",
        "image_positions",
        "text_positions",
    }
    assert decayed["backbone/inputs/word_table"]


def test_learning_rate_warms_up_and_falls_to_its_end():
    rate = schedule.learning_rate(peak=1.0, end=0.1, total_steps=100, warmup_fraction=0.1)
    np.testing.assert_allclose(
        [rate(0), rate(5), rate(10), rate(55), rate(100)], [0.0, 0.5, 1.0, 0.55, 0.1], atol=1e-6
    )


def test_momentum_rises_as_a_cosine():
    value = schedule.momentum(start=0.9, end=1.0, total_steps=10)
    np.testing.assert_allclose([value(jnp.int32(s)) for s in (0, 5, 10)], [0.9, 0.95, 1.0])


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": -1, "fsdp": -1}, {"data": 0}])
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(InputError, match="mesh"):
        meshes.make_mesh({"slice": 1, "data": 1, "fsdp": 1, "tensor": 1} | sizes)


def test_a_batch_that_does_not_divide_names_a_multiple_that_does():
    mesh = meshes.make_mesh()
    with pytest.raises(InputError, match="multiple of 16"):
        meshes.check_batch_size(24, 2, mesh)


@pytest.mark.slow
def test_cutting_parameters_leaves_activations_cut_by_rows():
    """The compiler, left to itself, may cut activations as the weights are and hold every row."""

    def temporaries(**sizes: int) -> int:
        config = get_config("tiny")
        config.batch_size, config.mesh = 512, {"slice": 1, "data": 1, "fsdp": 1, "tensor": 1}
        config.mesh.update(sizes)
        config.model.vocabulary_size = 64
        config = resolve_without_data(config)
        text = TextFormat.synthetic(config.model.vocabulary_size)
        recipe = Recipe.from_config(config, text)
        compiled = recipe.step.lower(recipe.abstract, recipe.abstract_batch()).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporaries(fsdp=8) < 1.1 * temporaries(data=8)
