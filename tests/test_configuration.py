"""Numbers of a recipe that make no sense are refused by name, before anything is computed."""

import fnmatch
import math

import jax
import pytest
from ml_collections import ConfigDict

from configs.oner import get_config
from oner_jax import configuration
from oner_jax.errors import InputError
from oner_jax.models.settings import MINIMUM, ModelSettings
from oner_jax.objectives.batch import TextFormat
from oner_jax.training import schedule
from oner_jax.training.recipe import Recipe

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


@pytest.fixture
def cache_folder(monkeypatch):
    """What JAX is told; the suite's own folder is back afterwards."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    before = jax.config.values["jax_compilation_cache_dir"]
    yield lambda: jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", before)


def test_compiled_programs_are_kept_where_that_was_said(cache_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, expected in (
        ("~/kept", f"{tmp_path}/kept"),
        ("gs://bucket/kept", "gs://bucket/kept"),
        ("", "gs://bucket/kept"),
    ):
        configuration.use_compilation_cache(given)
        assert cache_folder() == expected
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    configuration.use_compilation_cache("~/kept")
    assert cache_folder() == "gs://bucket/kept", "JAX has read its own variable at its import"


def test_without_a_home_folder_nothing_is_kept(cache_folder, monkeypatch, capsys):
    before = cache_folder()

    def homeless(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(configuration.Path, "expanduser", homeless)
    configuration.use_compilation_cache("~/kept")
    assert cache_folder() == before
    assert capsys.readouterr().err.startswith("compilation_cache=~/kept: there is no home folder")


@pytest.mark.parametrize("fraction", [0.0, 0.99, 1.0])
@pytest.mark.parametrize("total_steps", [1, 2, 10])
def test_any_warm_up_is_a_schedule(fraction, total_steps):
    rate = schedule.learning_rate(
        peak=1.0, end=0.1, total_steps=total_steps, warmup_fraction=fraction
    )
    warmup_steps = max(1, round(fraction * total_steps))
    for step in range(warmup_steps + 1):
        assert float(rate(step)) == pytest.approx(step / warmup_steps)
    if fraction == 0 and total_steps > 1:
        assert float(rate(total_steps)) == pytest.approx(0.1)


def test_64_bit_jax_is_refused_in_one_line():
    jax.config.update("jax_enable_x64", True)
    try:
        with pytest.raises(InputError, match="JAX_ENABLE_X64 is on"):
            Recipe.from_config(
                configuration.resolve_without_data(get_config("tiny")), TextFormat.synthetic(64)
            )
    finally:
        jax.config.update("jax_enable_x64", False)
