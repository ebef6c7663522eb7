"""Time the training step: `python -m oner_jax.bench --config=configs/oner.py:b16`.

Synthetic batches that lie on the devices already, so nothing but the step is measured, and no
data, TensorFlow or checkpoint library is needed: jax, flax, optax, numpy, ml_collections, absl and
jaxtyping. Override any key with `--config.KEY=VALUE`.

`--input` times the input alone, without a step: synthetic photographs and captions from records to
batches, beside the bare decoding of the same files and beside webdataset (`data/throughput.py`).
With `--seconds=600` it goes on for so long and shows the memory that is held. `--config` gives the
shapes (224 px, 78 ids and batches of 256 without it).
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from oner_jax import configuration
from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.recipe_files import define_recipe
from oner_jax.errors import InputError
from oner_jax.files import Access
from oner_jax.objectives.batch import Batch, TextFormat
from oner_jax.parallel import distributed
from oner_jax.parallel.chips import Peak
from oner_jax.planning.device_memory import out_of_memory_explained
from oner_jax.training.recipe import Recipe
from oner_jax.training.step import Metrics, TrainState
from oner_jax.training.synthetic import synthetic_batch


def define_flags() -> None:
    """Define the flags of this program; not at import, where they would be every program's."""
    define_recipe("config", "Recipe, as FILE.py[:argument].")
    flags.DEFINE_integer("steps", 10, "Steps of one repeat.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Repeats; the median is reported.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
    flags.DEFINE_bool("input", False, "Time the input instead of the step.")
    flags.DEFINE_float(
        "seconds", 0.0, "With --input: take batches for so long and show memory.", lower_bound=0.0
    )
    path_flags.define("profile", None, "Folder for a profile of one more repeat.", Access.LOCAL)


def measure(config: ConfigDict, *, steps: int, repeats: int, profile: str | None) -> dict[str, Any]:
    """Seconds a step over `repeats` of `steps` each, and what follows from them."""
    config = configuration.resolve_without_data(config)
    configuration.use_compilation_cache(config.compilation_cache)
    recipe = Recipe.from_config(config, TextFormat.synthetic(config.model.vocabulary_size))
    with out_of_memory_explained(recipe):
        state, batch = recipe.init_state(), synthetic_batch(recipe)
        began = time.perf_counter()
        compiled = recipe.step.lower(state, batch).compile()
        compile_seconds = time.perf_counter() - began
        memory = compiled.memory_analysis()
        seconds = []
        # The first round is a warm-up.
        for _ in range(1 + repeats):
            began = time.perf_counter()
            state, metrics = _run(compiled, state, batch, steps)
            seconds.append((time.perf_counter() - began) / steps)
        del seconds[0]
        if profile is not None:
            with jax.profiler.trace(profile):
                state, metrics = _run(compiled, state, batch, steps)
    peak = Peak.of(jax.devices())
    pairs_per_second = config.batch_size / statistics.median(seconds)
    flops = recipe.flops.total
    return {
        "device": jax.devices()[0].device_kind,
        "chips": peak.chips,
        "jax": jax.__version__,
        "batch_size": config.batch_size,
        "step_seconds": statistics.median(seconds),
        "step_seconds_min": min(seconds),
        "step_seconds_max": max(seconds),
        "pairs_per_sec": pairs_per_second,
        "pairs_per_sec_per_chip": pairs_per_second / peak.chips,
        "flops_per_pair": flops,
        "mfu": peak.flops_per_second and pairs_per_second * flops / peak.flops_per_second,
        "compile_seconds": compile_seconds,
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "loss": float(metrics["loss"]),
    }


def _run(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    state: TrainState,
    batch: Batch,
    count: int,
) -> tuple[TrainState, Metrics]:
    """`count` steps on the same batch, to the end of the last."""
    for _ in range(count):
        state, metrics = step(state, batch)
    return jax.block_until_ready((state, metrics))


def describe(figures: dict[str, Any]) -> str:
    """The figures of `measure` for a person."""
    mfu = "" if figures["mfu"] is None else f", MFU {figures['mfu']:.1%}"
    return (
        f"{figures['chips']} x {figures['device']}, JAX {figures['jax']}, batch "
        f"{figures['batch_size']}: {1000 * figures['step_seconds']:.1f} ms a step "
        f"({1000 * figures['step_seconds_min']:.1f} to {1000 * figures['step_seconds_max']:.1f}), "
        f"{figures['pairs_per_sec_per_chip']:.1f} pairs/s/chip{mfu}; "
        f"{figures['flops_per_pair'] / 1e9:.2f} GFLOPs a pair, "
        f"compiled in {figures['compile_seconds']:.0f} s"
    )


def time_input(config: ConfigDict | None) -> None:
    """Time the input at the shapes of `config` and print its figures, as text or JSON."""
    # TensorFlow, which users of the step's benchmark do without.
    values = flags.FLAGS
    from oner_jax.data.timing import throughput

    shape = throughput.InputShape()
    if config is not None:
        shape = throughput.InputShape(
            image_size=config.model.image_size,
            text_tokens=config.model.text_tokens,
            crop_min_fraction=config.data.crop_min_fraction,
            batch_size=config.batch_size,
        )
    with tempfile.TemporaryDirectory() as folder:
        if values.seconds:
            for line in throughput.soak(Path(folder), shape, seconds=values.seconds):
                print(
                    json.dumps(line) if values.json else throughput.describe_soak(line), flush=True
                )
            return
        figures = throughput.measure(
            Path(folder), shape, steps=values.steps, repeats=values.repeats
        )
    print(json.dumps(figures) if values.json else throughput.describe(figures))


def main(_: Sequence[str]) -> None:
    """Time the step of `--config`, or the input, and print its figures, as text or JSON."""
    values = flags.FLAGS
    if values.input:
        time_input(values.config)
        return
    if values.seconds:
        raise InputError("--seconds is for the input: give --input as well")
    if values.config is None:
        raise InputError("--config is missing: name a recipe, for example configs/oner.py:b16")
    with distributed.session():
        figures = measure(
            values.config, steps=values.steps, repeats=values.repeats, profile=values.profile
        )
        if distributed.is_main():
            print(json.dumps(figures) if values.json else describe(figures))


if __name__ == "__main__":
    define_flags()
    run_program(main)
