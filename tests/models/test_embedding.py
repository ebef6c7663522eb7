"""The embedder: rows do not depend on batches, and patches are the encoder's own states."""

import jax
import numpy as np
import pytest

from oner_jax.models.architectures import TwoTowers
from oner_jax.models.embedding import Embedder
from oner_jax.models.heads import unit
from oner_jax.models.inputs import _resized_positions, normalize_pixels
from oner_jax.models.pretraining import PureModel
from oner_jax.models.views import VIEWS, PairInputs
from tests import small


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


def test_images_of_another_size_are_taken(parts):
    _, _, embedder = parts
    assert embedder.patches(images_of(2, 32)).backbone.shape == (2, 64, 16)
    assert embedder(images=images_of(2, 32)).projected.shape == (2, 8)


def test_positions_are_interpolated_between_their_neighbours():
    """A table that rises evenly along rows and columns still does, away from the rim."""
    rows, columns = np.mgrid[:6, :6].astype(np.float32)
    table = np.stack([rows, columns], axis=-1).reshape(36, 2)
    np.testing.assert_allclose(_resized_positions(jax.numpy.asarray(table), 36), table, atol=1e-5)
    finer = np.asarray(_resized_positions(jax.numpy.asarray(table), 144)).reshape(12, 12, 2)
    expected = (np.arange(12) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(finer[4:8, 5, 0], expected[4:8], atol=1e-5)
    np.testing.assert_allclose(finer[5, 4:8, 1], expected[4:8], atol=1e-5)


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
    with pytest.raises(ValueError, match="no view IT"):
        embedder(images=images, text=np.ones((3, 6), np.int32))
