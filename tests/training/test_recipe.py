"""What a config asks for, checked and laid out before there are arrays."""

import jax
import pytest

from configs.oner import get_config
from oner_jax.configuration import resolve_without_data
from oner_jax.errors import InputError
from oner_jax.objectives.batch import TextFormat
from oner_jax.training.recipe import Recipe
from oner_jax.training.synthetic import synthetic_batch


def recipe(changes, argument: str = "tiny") -> Recipe:
    config = get_config(argument)
    config.batch_size = 16
    config.update_from_flattened_dict(changes)
    config = resolve_without_data(config)
    return Recipe.from_config(config, TextFormat.synthetic(config.model.vocabulary_size))


def test_a_batch_has_the_rows_that_the_config_names():
    found = recipe(
        {
            "data.image_only_batch_size": 8,
            "data.text_only_batch_size": 24,
            "objective.equal_concepts_are_positives": True,
        }
    )
    abstract = found.abstract_batch()
    assert {name: len(leaf) for name, leaf in abstract._asdict().items()} == {
        "image": 16,
        "text": 16,
        "caption_hash": 16,
        "image_only": 8,
        "text_only": 24,
        "concept_hash": 16,
    }

    def look(leaf):
        return leaf.shape, leaf.dtype, leaf.sharding

    assert jax.tree.map(look, synthetic_batch(found)) == jax.tree.map(look, abstract)
    _, metrics = jax.eval_shape(found.step, found.abstract, abstract)
    assert {"loss/mim", "loss/mlm"} <= metrics.keys()
    assert recipe({}).abstract_batch().image_only is None
    assert recipe({}).abstract_batch().concept_hash is None


def test_a_step_with_mosaics_says_how_many_there_are():
    found = recipe({"data.mosaic_fraction": 0.5, "objective.equal_concepts_are_positives": True})
    _, metrics = jax.eval_shape(found.step, found.abstract, found.abstract_batch())
    assert "mosaic_fraction" in metrics


@pytest.mark.parametrize(
    ("argument", "changes", "complaint"),
    [
        (
            "tiny,terms=itc+mlm",
            {"data.image_only_batch_size": 8},
            "data.image_only_batch_size=8: pictures without captions are for MIM, but "
            "objective.weights.mim is 0.0: raise it, or set data.image_only_batch_size to 0",
        ),
        (
            "tiny,terms=itc+mim",
            {"data.text_only_batch_size": 8},
            "data.text_only_batch_size=8: captions without pictures are for MLM, but "
            "objective.weights.mlm is 0.0: raise it, or set data.text_only_batch_size to 0",
        ),
        (
            "tiny",
            {"data.image_only_batch_size": 8, "objective.image_mask_fraction": 0.0},
            "data.image_only_batch_size=8: pictures without captions are for MIM, but "
            "objective.image_mask_fraction is 0.0: raise it, or set data.image_only_batch_size "
            "to 0",
        ),
        (
            "tiny",
            {"data.image_only_batch_size": 12},
            "data.image_only_batch_size=12 cannot be divided over 8 devices x "
            "accumulation_steps=1: choose a multiple of 8",
        ),
        (
            "tiny",
            {"data.mosaic_fraction": 0.3},
            "data.mosaic_fraction=0.3 is not a multiple of 1/8: choose 0.25 or 0.375",
        ),
    ],
)
def test_data_that_a_step_cannot_use_are_refused(argument, changes, complaint):
    with pytest.raises(InputError) as refusal:
        recipe(changes, argument)
    assert str(refusal.value) == complaint
