"""Numbers of a recipe that make no sense are refused by name, before anything is computed."""

import fnmatch
import math

import pytest
from ml_collections import ConfigDict

from configs.oner import get_config
from oner_jax import configuration
from oner_jax.errors import InputError
from oner_jax.models.settings import MINIMUM, ModelSettings

KEYS = dict(configuration.flatten(get_config("tiny")))


def with_value(name: str, value: float) -> ConfigDict:
    """The tiny recipe with this number in it."""
    config = configuration.resolve_without_data(get_config("tiny"))
    with config.unlocked():
        *parents, key = name.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        with place.ignore_type():
            place[key] = value
    return config


@pytest.mark.parametrize("pattern", configuration.RANGES)
def test_a_number_out_of_its_range_is_named_with_the_range(pattern):
    names = fnmatch.filter(KEYS, pattern)
    assert names, "a range that no key has"
    least, most = configuration.RANGES[pattern]
    outside = [least - 1, math.nan] + ([most * 2, math.inf] if most < math.inf else [])
    for name in names:
        configuration.check_ranges(with_value(name, least))
        for value in outside:
            with pytest.raises(InputError, match=rf"^{name}=\S+ must be (from|at least)"):
                configuration.resolve_without_data(with_value(name, value))


@pytest.mark.parametrize(
    "name", [key for key, value in KEYS.items() if key.startswith("model.") and type(value) is int]
)
def test_a_size_of_a_model_has_a_least_value(name):
    least = MINIMUM.get(name.removeprefix("model."), 1)
    config = with_value(name, least - 1)
    with pytest.raises(InputError, match=f"^{name}={least - 1} must be at least {least}"):
        ModelSettings.from_config(config.model)
