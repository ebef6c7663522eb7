"""The one pass over segments against separate passes and against the float64 oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oner_jax.models.pretraining import PureModel
from oner_jax.models.views import VIEWS, PairInputs, ViewStates, Wanted
from tests import small
from tests.marks import slow
from tests.oracle import Oracle

ALL = tuple(VIEWS.values())
CIC = (VIEWS["I|T"], VIEWS["T|I"])


@functools.cache
def case(**changes):
    settings = small.settings(**changes)
    model = PureModel(settings)
    batch = small.batch(settings, size=4)
    random = np.random.default_rng(1)
    inputs = PairInputs(
        images=jnp.asarray(random.normal(size=batch.image.shape), jnp.float32),
        text=batch.text,
        joint_text=jnp.where(batch.text == 0, 0, 2 + batch.text % 7),
        patch_mask=jnp.asarray(random.random((4, settings.patches)) < 0.5),
    )
    return settings, model, small.parameters(model), inputs


@functools.partial(jax.jit, static_argnums=(0, 1))
def encode(model, views, parameters, inputs):
    return model.bind_backbone(parameters["backbone"]).encode(inputs, views)


def test_one_pass_equals_a_pass_for_each_view_in_value_and_gradient():
    _, model, parameters, inputs = case()

    def weighted(states):
        """A number that every state of every view moves, differently."""
        leaves = jax.tree.leaves(states)
        return sum(
            jnp.sum(jnp.sin(leaf * (i + 1) + jnp.arange(leaf.size).reshape(leaf.shape)))
            for i, leaf in enumerate(leaves)
        )

    def together(parameters):
        states = encode(model, ALL, parameters, inputs)
        return weighted([states[view.name] for view in ALL]), states

    def apart(parameters):
        states: dict[str, ViewStates] = {}
        for views in ((VIEWS["I"],), (VIEWS["T"],), (VIEWS["IT"],), CIC):
            states |= encode(model, views, parameters, inputs)
        return weighted([states[view.name] for view in ALL]), states

    one, one_states = jax.grad(together, has_aux=True)(parameters)
    many, many_states = jax.grad(apart, has_aux=True)(parameters)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), one_states, many_states
    )

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * float(jnp.abs(b).max()))

    jax.tree.map(close, one, many)


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("one_tower", tuple(VIEWS)),
        slow("two_legs", ("I", "T", "IT")),
        slow("two_legs", ("T", "IT")),
        slow("two_legs", ("I",)),
        slow("two_towers", ("I", "T")),
    ],
)
def test_wanted_states_are_those_of_a_full_last_layer(architecture, names):
    settings, model, parameters, inputs = case(architecture=architecture, depth=4)
    views = tuple(VIEWS[name] for name in names)
    random = np.random.default_rng(3)
    patches = jnp.asarray(random.integers(0, settings.patches, (4, 3)))
    words = jnp.asarray(random.integers(0, settings.text_tokens, (4, 2)))
    wanted = {"I": Wanted(patches), "IT": Wanted(patches, words)}

    def pick(states, positions):
        return jnp.take_along_axis(states, positions[:, :, None], axis=1)

    def of_full(states):
        full = {name: ViewStates(state.cls, None, None) for name, state in states.items()}
        if "I" in states:
            full["I"] = full["I"]._replace(image=pick(states["I"].image, patches))
        if "IT" in states:
            joint = states["IT"]
            full["IT"] = ViewStates(joint.cls, pick(joint.image, patches), pick(joint.text, words))
        return full

    @functools.partial(jax.jit, static_argnums=0)
    def total(full, parameters):
        backbone = model.bind_backbone(parameters["backbone"])
        if full:
            states = of_full(backbone.encode(inputs, views))
        else:
            states = backbone.encode(inputs, views, wanted)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(states)), states

    (_, states), gradient = jax.value_and_grad(functools.partial(total, False), has_aux=True)(
        parameters
    )
    (_, expected), of_expected = jax.value_and_grad(functools.partial(total, True), has_aux=True)(
        parameters
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, states, expected)
    jax.tree.map(close, gradient, of_expected)


def test_every_view_equals_the_oracle():
    settings, model, parameters, inputs = case()
    states = encode(model, ALL, parameters, inputs)
    oracle = Oracle(parameters, patch_size=settings.patch_size, heads=settings.heads)
    backbone = oracle.p["backbone"]
    for row in range(len(inputs.text)):
        count = int((inputs.text[row] != 0).sum())
        image = dict(
            image=np.asarray(inputs.images[row], np.float64),
            patch_mask=np.asarray(inputs.patch_mask[row]),
        )
        ids = np.asarray(inputs.text[row])[:count]
        joint_ids = np.asarray(inputs.joint_text[row])[:count]
        crossed = oracle.crossed_views(backbone, ids=ids, **image)
        expected = {
            "I": oracle.view(backbone, **image),
            "T": oracle.view(backbone, ids=ids),
            "IT": oracle.view(backbone, ids=joint_ids, **image),
            "I|T": crossed[0],
            "T|I": crossed[1],
        }
        for name, sequence in expected.items():
            parts = [states[name].cls[row][None]]
            if states[name].image is not None:
                parts.append(states[name].image[row])
            if states[name].text is not None:
                parts.append(states[name].text[row][:count])
            np.testing.assert_allclose(np.concatenate(parts), sequence, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("view", ["T", "IT"])
def test_embedding_does_not_depend_on_padding(view):
    _, model, parameters, inputs = case()
    short = inputs._replace(text=inputs.text[:, :3], joint_text=inputs.joint_text[:, :3])
    padded = inputs._replace(
        text=jnp.pad(short.text, ((0, 0), (0, 3))),
        joint_text=jnp.pad(short.joint_text, ((0, 0), (0, 3))),
    )
    a = encode(model, (VIEWS[view],), parameters, short)[view].cls
    b = encode(model, (VIEWS[view],), parameters, padded)[view].cls
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


STEMS = [
    {"stem": "patch"},
    {"stem": "convolution", "stem_width": 8},
    {"stem": "convolution", "stem_width": 8, "stem_first_stride": 4},
    {"stem": "convolution", "stem_width": 8, "stem_residual_layers": 1},
]


@pytest.mark.parametrize("stem", STEMS)
def test_hidden_pixels_cannot_reach_any_state(stem):
    _, model, parameters, inputs = case(**stem)
    patch = model.settings.patch_size
    hidden = np.asarray(inputs.patch_mask).reshape(4, *[model.settings.patches_per_side] * 2)
    pixels = hidden.repeat(patch, 1).repeat(patch, 2)[..., None]
    noise = 100.0 * np.random.default_rng(2).normal(size=inputs.images.shape)
    changed = inputs._replace(images=jnp.where(pixels, noise, inputs.images))
    views = (VIEWS["I"], VIEWS["IT"])
    before = encode(model, views, parameters, inputs)
    after = encode(model, views, parameters, changed)
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("stem", STEMS)
def test_an_example_does_not_depend_on_the_rest_of_its_batch(stem):
    _, model, parameters, inputs = case(**stem)
    alone = jax.tree.map(lambda x: x[:1], inputs)
    together = encode(model, ALL, parameters, inputs)
    single = encode(model, ALL, parameters, alone)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:1], b, rtol=1e-4, atol=1e-5), together, single
    )


@pytest.mark.parametrize(
    ("remat", "layers_per_scan_step"),
    [
        ("cheap", 2),
        ("full", 1),
        *(slow(remat, layers) for remat in ("mlp", "qkv", "attention") for layers in (1, 2)),
        slow("cheap", 1),
        slow("full", 2),
    ],
)
def test_rematerialization_and_unrolling_change_nothing(remat, layers_per_scan_step):
    _, plain, parameters, inputs = case(depth=4)
    changes = {"remat": remat, "layers_per_scan_step": layers_per_scan_step}
    other = PureModel(small.settings(depth=4, **changes))

    def total(model, parameters):
        return encode(model, ALL, parameters, inputs)["IT"].cls.sum()

    a = jax.grad(functools.partial(total, plain))(parameters)
    b = jax.grad(functools.partial(total, other))(parameters)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), a, b)


def test_bfloat16_keeps_parameters_and_outputs_in_float32():
    _, plain, parameters, inputs = case()
    half = PureModel(small.settings(dtype="bfloat16"))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(half.abstract_parameters)}
    assert dtypes == {jnp.dtype("float32")}
    exact = encode(plain, ALL, parameters, inputs)["IT"].cls
    rounded = encode(half, ALL, parameters, inputs)["IT"].cls
    assert rounded.dtype == jnp.float32
    cosine = jnp.sum(exact * rounded, 1) / (
        jnp.linalg.norm(exact, axis=1) * jnp.linalg.norm(rounded, axis=1)
    )
    assert (cosine > 0.999).all()
