"""The embedder: rows do not depend on batches, and patches are the encoder's own states."""

import jax
import numpy as np
import pytest

from oner_jax.models.architectures import TwoTowers
from oner_jax.models.embedding import Embedder
from oner_jax.models.heads import unit
from oner_jax.models.inputs import normalize_pixels
from oner_jax.models.pretraining import PureModel
from oner_jax.models.views import VIEWS, PairInputs
from tests import oracle, small


@pytest.fixture(scope="module")
def parts():
    settings = small.settings()
    model = PureModel(settings)
    parameters = small.parameters(model)
    return model, parameters, Embedder(model, parameters, batch_size=8)


def images_of(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_patches_are_the_last_layer_states(parts):
    model, parameters, embedder = parts
    images = images_of(11, 16)
    found = embedder.patches(images)
    backbone = model.bind_backbone(parameters["backbone"])
    inputs = PairInputs(normalize_pixels(jax.numpy.asarray(images)), None, None)
    states = backbone.encode(inputs, [VIEWS["I"]])["I"].image
    np.testing.assert_allclose(found.backbone, states, atol=1e-5)
    np.testing.assert_allclose(found.projected, unit(backbone.project(states, "I")), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.projected, axis=2), 1, atol=1e-5)


def cubic_weights(before: int, after: int) -> np.ndarray:
    """Keys' cubic convolution (1981, a = -1/2) in float64, [after, before].

    Wider where it shrinks; weights of samples beyond the rim are dealt out to the others.
    """
    scale = max(before / after, 1.0)
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    x = np.abs(np.arange(before)[None] - centres[:, None]) / scale
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("side", [3, 6])
def test_images_of_another_size_have_positions_between_their_neighbours(parts, side):
    """As the oracle, whose table is interpolated in float64, sees them."""
    _, parameters, embedder = parts
    images = images_of(3, 4 * side)
    backbone = oracle.float64(parameters["backbone"])
    weights = cubic_weights(4, side)
    table = backbone["inputs"]["image_positions"].reshape(4, 4, -1)
    table = np.einsum("ai,bj,ijw->abw", weights, weights, table)
    backbone["inputs"]["image_positions"] = table.reshape(side**2, -1)
    reference = oracle.Oracle(parameters, patch_size=4, heads=2)
    found = embedder.patches(images)
    assert found.backbone.shape == (3, side**2, 16)
    for image, states in zip(images, found.backbone, strict=True):
        expected = reference.view(backbone, image=image / 127.5 - 1)[1:]
        np.testing.assert_allclose(states, expected, atol=2e-5)
    assert embedder(images=images).projected.shape == (3, 8)


def test_positions_of_the_models_own_size_are_the_table_bit_for_bit(parts):
    model, parameters, _ = parts
    inputs = model.bind_backbone(parameters["backbone"]).inputs
    table = parameters["backbone"]["inputs"]["image_positions"]
    np.testing.assert_array_equal(inputs._positions(inputs.image_positions, 0, 16), table)


def test_images_that_are_not_whole_patches_are_refused(parts):
    _, _, embedder = parts
    with pytest.raises(ValueError, match=r"18 x 18 pixels: .* multiple of 4"):
        embedder.patches(images_of(1, 18))


def test_values_are_what_cls_becomes_that_attends_to_one_patch(parts):
    """The last layer of the oracle, its attention of [CLS] replaced by one patch's value."""
    _, parameters, embedder = parts
    images = images_of(2, 16)
    reference = oracle.Oracle(parameters, patch_size=4, heads=2)
    backbone = oracle.float64(parameters["backbone"])
    *below, last = reference.layers(backbone["tower"])
    for image, found in zip(images, embedder.patches(images).values, strict=True):
        tokens = reference.image_tokens(backbone, image / 127.5 - 1)
        tokens = np.concatenate([backbone["inputs"]["cls_token"][None], tokens])
        for layer in below:
            normed = oracle.layer_norm(tokens, layer["attention_norm"])
            tokens = tokens + reference.attention(layer["attention"], normed, normed)
            hidden = oracle.linear(
                oracle.layer_norm(tokens, layer["mlp_norm"]), layer["mlp"]["expand"]
            )
            tokens = tokens + oracle.linear(oracle.gelu(hidden), layer["mlp"]["contract"])
        normed = oracle.layer_norm(tokens, last["attention_norm"])
        for patch in range(16):
            # Attention over one token is that token's value.
            alone = reference.attention(last["attention"], normed[:1], normed[[1 + patch]])
            state = tokens[:1] + alone
            hidden = oracle.linear(
                oracle.layer_norm(state, last["mlp_norm"]), last["mlp"]["expand"]
            )
            state = state + oracle.linear(oracle.gelu(hidden), last["mlp"]["contract"])
            state = oracle.layer_norm(state, backbone["tower"]["final_norm"])
            expected = oracle.unit(reference.head(backbone["projector"], state))[0]
            np.testing.assert_allclose(found[patch], expected, atol=2e-5)


def test_words_are_the_mean_of_a_texts_own_states(parts):
    model, parameters, embedder = parts
    ids = np.pad(np.asarray(small.batch(model.settings, size=5).text), [(0, 1), (0, 0)])
    found = embedder.words(ids)
    reference = oracle.Oracle(parameters, patch_size=4, heads=2)
    for row, own in zip(ids[:-1], found, strict=False):
        states = reference.view(reference.p["backbone"], ids=row[row != 0])[1:]
        np.testing.assert_allclose(own, states.mean(axis=0), atol=2e-5)
    np.testing.assert_array_equal(found[-1], 0)


def test_two_towers_have_patches_and_no_joint_view():
    model = PureModel(small.settings(architecture="two_towers"))
    parameters = small.parameters(model)
    embedder = Embedder(model, parameters, batch_size=8)
    assert embedder.views == {"I", "T"}
    images = images_of(3, 16)
    backbone = model.bind_backbone(parameters["backbone"])
    assert isinstance(backbone, TwoTowers)
    inputs = PairInputs(normalize_pixels(jax.numpy.asarray(images)), None, None)
    states = backbone.encode(inputs, [VIEWS["I"]])["I"].image
    assert states is not None
    projected = unit(backbone.image_projector(states))
    np.testing.assert_allclose(embedder.patches(images).projected, projected, atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(embedder.patches(images).values, axis=2), 1, atol=1e-5
    )
    with pytest.raises(ValueError, match="no view IT"):
        embedder(images=images, text=np.ones((3, 6), np.int32))
