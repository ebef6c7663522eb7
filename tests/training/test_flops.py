"""Analytic FLOPs against a count of the products in the traced training step."""

import dataclasses
import math

import jax
import pytest
from flax import nnx

from oner_jax.models.inputs import ConvolutionStem
from oner_jax.models.pretraining import PureModel
from oner_jax.objectives.batch import BatchRows
from oner_jax.training.flops import recomputed_fraction, step_flops
from oner_jax.training.gradients import make_gradient_function
from tests import small
from tests.marks import slow

PAIRS = BatchRows(8)


def product_flops(jaxpr) -> int:
    """Two for every multiply-add of the products and forward convolutions of `jaxpr`."""
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                total += times * product_flops(getattr(value, "jaxpr", value))
        outputs = [math.prod(variable.aval.shape) for variable in equation.outvars]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * outputs[0] * math.prod(shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            total += 2 * outputs[0] * math.prod(kernel[:-1])
    return total


def _is_jaxpr(value) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def traced_flops(settings, weights, rows=PAIRS, **constants) -> float:
    """Of keys, loss and gradient for a batch of `rows`, per pair."""
    model, objective = PureModel(settings), small.objective(settings, weights, **constants)
    batch = small.batch(settings, rows.pairs)
    if rows.image_only:
        batch = batch._replace(image_only=small.batch(settings, rows.image_only).image)
    if rows.text_only:
        batch = batch._replace(text_only=small.batch(settings, rows.text_only).text)
    parameters = model.abstract_parameters

    def step(parameters, batch):
        prepared = objective.prepare(jax.random.key(0), batch)
        gradients = make_gradient_function(model, objective, micro_batches=1)
        return gradients(parameters, parameters["backbone"], prepared)

    jaxpr = jax.make_jaxpr(step)(parameters, batch)
    return product_flops(jaxpr.jaxpr) / rows.pairs


@pytest.mark.parametrize(
    "weights",
    [
        small.ALL_TERMS,
        {"itc": 1.0},
        {"xmc": 1.0, "cic": 1.0},
        {"cmc": 1.0, "mlm": 1.0},
        {"mmm": 1.0},
    ],
    ids=lambda weights: "+".join(weights),
)
def test_step_flops_count_every_product_of_the_step(weights):
    settings = small.settings()
    counted = step_flops(settings, small.objective(settings, weights), PAIRS)
    assert counted.total == traced_flops(settings, weights)


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [
        ("one_tower_two_heads", small.ALL_TERMS),
        ("two_legs", small.ALL_TERMS),
        ("two_legs", {"mmm": 1.0}),
        ("two_towers", {"itc": 1.0, "mim": 1.0}),
    ],
)
def test_of_every_architecture(architecture, weights):
    settings = small.settings(architecture=architecture)
    counted = step_flops(settings, small.objective(settings, weights), PAIRS)
    assert counted.total == traced_flops(settings, weights)


@pytest.mark.parametrize("architecture", ["one_tower", "two_legs"])
@pytest.mark.parametrize(
    "rows", [slow(BatchRows(8, 4, 0)), slow(BatchRows(8, 0, 12)), BatchRows(8, 3, 5)]
)
def test_pictures_and_captions_alone_count_for_the_pairs_beside_them(architecture, rows):
    settings = small.settings(architecture=architecture, remat="cheap")
    weights = {"itc": 1.0, "mim": 1.0, "mlm": 1.0}
    objective = small.objective(settings, weights)
    total = step_flops(settings, objective, rows).total
    again = total * recomputed_fraction(settings, objective, rows)
    assert total + again == pytest.approx(traced_flops(settings, weights, rows), rel=1e-12)
    alone = dataclasses.replace(settings, remat="none")
    assert total == pytest.approx(traced_flops(alone, weights, rows), rel=1e-12)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_keys_with_a_gradient_meet_the_queries_twice(form):
    settings = small.settings(
        architecture="two_towers", projection_layers=1, predictor_hidden_width=0
    )
    constants = {"key_source": "online", "form": form}
    objective = small.objective(settings, {"itc": 1.0}, **constants)
    total = step_flops(settings, objective, PAIRS).total
    again = total * recomputed_fraction(settings, objective, PAIRS)
    assert total + again == pytest.approx(traced_flops(settings, {"itc": 1.0}, **constants))


@pytest.mark.parametrize("remat", ["cheap", slow("mlp"), "qkv", slow("attention"), slow("full")])
def test_recomputed_fraction_is_what_remat_adds(remat):
    settings = small.settings(remat=remat)
    objective = small.objective(settings)
    bare = traced_flops(dataclasses.replace(settings, remat="none"), small.ALL_TERMS)
    added = traced_flops(settings, small.ALL_TERMS) / bare - 1
    assert recomputed_fraction(settings, objective, PAIRS) == pytest.approx(added, rel=1e-12)


@pytest.mark.parametrize(("first_stride", "residual_layers"), [(2, 0), (4, 1)])
def test_convolutional_stem(first_stride, residual_layers):
    settings = small.settings(
        stem="convolution",
        stem_width=4,
        stem_first_stride=first_stride,
        stem_residual_layers=residual_layers,
    )
    stem = ConvolutionStem(settings, rngs=nnx.Rngs(0))
    images = jax.ShapeDtypeStruct((1, settings.image_size, settings.image_size, 3), "float32")
    traced = product_flops(jax.make_jaxpr(stem)(images).jaxpr)
    assert step_flops(settings, small.objective(settings), PAIRS).stem == 2 * traced
