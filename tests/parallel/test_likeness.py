"""What processes compare before they start."""

import jax

from oner_jax.parallel.likeness import facts


def test_settings_that_change_numbers_are_compared_and_those_of_a_host_are_not():
    before = facts({"XLA_FLAGS": "--xla_force_host_platform_device_count=4 --a=1 --b=2"})
    after = facts({"XLA_FLAGS": "--b=2 --a=1 --xla_dump_to=/tmp/here"})
    assert before == after
    for name, value in (("jax_default_matmul_precision", "high"), ("jax_random_seed_offset", 3)):
        kept = jax.config.values[name]
        jax.config.update(name, value)
        differing = {key for key, found in facts({}).items() if found != before[key]}
        jax.config.update(name, kept)
        assert differing == {name, "XLA_FLAGS"}
    kept = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    assert facts({"XLA_FLAGS": "--a=1 --b=2"}) == before
    jax.config.update("jax_compilation_cache_dir", kept)


def test_versions_and_source_are_compared():
    found = facts({})
    assert found["jax"] == jax.__version__
    assert len(found["source of oner_jax"]) == 12
