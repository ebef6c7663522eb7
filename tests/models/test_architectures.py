"""The four arms: each view against the float64 oracle of its own towers, heads, and the sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oner_jax.models.architectures import ARCHITECTURES
from oner_jax.models.pretraining import PureModel
from oner_jax.models.settings import ModelSettings
from oner_jax.models.views import VIEWS, PairInputs
from tests import small
from tests.oracle import Oracle

close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


@functools.cache
def encoded(architecture):
    """Settings, oracle, inputs and states of every view that the arm serves."""
    settings = small.settings(architecture=architecture)
    model = PureModel(settings)
    parameters = small.parameters(model)
    batch = small.batch(settings, size=3)
    inputs = PairInputs(
        images=jnp.asarray(np.random.default_rng(1).normal(size=batch.image.shape), jnp.float32),
        text=batch.text,
        joint_text=jnp.where(batch.text == 0, 0, 2 + batch.text % 7),
    )
    views = [VIEWS[name] for name in VIEWS if name in model.views]
    states = jax.jit(lambda p, x: model.bind_backbone(p).encode(x, views))(
        parameters["backbone"], inputs
    )
    oracle = Oracle(parameters, patch_size=settings.patch_size, heads=settings.heads)
    return model, parameters, oracle, inputs, states


def rows(inputs):
    """Per example: its image and the words of its caption, plain and as the joint view has them."""
    for row in range(len(inputs.text)):
        count = int((inputs.text[row] != 0).sum())
        image = np.asarray(inputs.images[row], np.float64)
        yield row, image, inputs.text[row][:count], np.asarray(inputs.joint_text[row])[:count]


def with_tower(oracle, name):
    """The arm's parameters as those of a single tower, for the oracle."""
    backbone = oracle.p["backbone"]
    return {"inputs": backbone["inputs"], "tower": backbone[name]}


@pytest.mark.parametrize("architecture", ["two_towers", "two_legs"])
def test_each_modality_passes_its_own_tower(architecture):
    _, _, oracle, inputs, states = encoded(architecture)
    for row, image, ids, _ in rows(inputs):
        expected = oracle.view(with_tower(oracle, "image_tower"), image=image)
        close(states["I"].cls[row], expected[0])
        close(states["I"].image[row], expected[1:])
        expected = oracle.view(with_tower(oracle, "text_tower"), ids=np.asarray(ids))
        close(states["T"].cls[row], expected[0])
        close(states["T"].text[row][: len(ids)], expected[1:])


def test_two_legs_fuse_the_states_of_both_legs():
    _, _, oracle, inputs, states = encoded("two_legs")
    for row, image, _, joint_ids in rows(inputs):
        leg = oracle.view(with_tower(oracle, "image_tower"), image=image)
        words = oracle.view(with_tower(oracle, "text_tower"), ids=joint_ids)
        tokens = np.concatenate([(leg[:1] + words[:1]) / 2, leg[1:], words[1:]])
        (expected,) = oracle.tower(with_tower(oracle, "fusion_tower"), tokens)
        close(states["IT"].cls[row], expected[0])
        close(states["IT"].image[row], expected[1 : len(leg)])
        close(states["IT"].text[row][: len(joint_ids)], expected[len(leg) :])


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [
        ("one_tower", {"I": ["projector"], "T": ["projector"], "IT": ["projector"]}),
        (
            "one_tower_two_heads",
            {
                "I": ["image_projector"],
                "T": ["text_projector"],
                "I|T": ["image_projector"],
                "T|I": ["text_projector"],
                "IT": ["image_projector", "text_projector"],
            },
        ),
        ("two_towers", {"I": ["image_projector"], "T": ["text_projector"]}),
        (
            "two_legs",
            {"I": ["image_projector"], "T": ["text_projector"], "IT": ["joint_projector"]},
        ),
    ],
)
def test_views_are_projected_by_their_heads(architecture, heads):
    model, parameters, oracle, _, states = encoded(architecture)
    backbone = model.bind_backbone(parameters["backbone"])
    for view, names in heads.items():
        cls = np.asarray(states[view].cls, np.float64)
        expected = [oracle.head(oracle.p["backbone"][name], cls) for name in names]
        close(backbone.project(states[view].cls, view), np.mean(expected, axis=0))


@pytest.mark.parametrize(
    ("architecture", "millions"),
    [("one_tower", 109), ("one_tower_two_heads", 109), ("two_towers", 194)],
)
def test_sizes_at_vit_b16_are_the_papers(architecture, millions):
    """docs/method.md: about 109 M and 194 M, training heads not counted; BERT's vocabulary."""
    settings = ModelSettings(
        architecture=architecture,
        image_size=224,
        patch_size=16,
        text_tokens=78,
        vocabulary_size=30_522,
        width=768,
        depth=12,
        heads=12,
        mlp_width=3072,
        projection_hidden_width=4096,
        projection_width=256,
        predictor_hidden_width=4096,
    )
    backbone = PureModel(settings).abstract_parameters["backbone"]
    counted = {name: tree for name, tree in backbone.items() if "projector" not in name}
    total = sum(leaf.size for leaf in jax.tree.leaves(counted))
    assert round(total / 1e6) == millions


def test_every_arm_says_which_views_it_has():
    views = {name: arm.views for name, arm in ARCHITECTURES.items()}
    assert views["one_tower"] == views["one_tower_two_heads"] == set(VIEWS)
    assert views["two_towers"] == {"I", "T"}
    assert views["two_legs"] == {"I", "T", "IT"}
