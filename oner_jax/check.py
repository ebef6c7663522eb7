"""Are a recipe's data there, sound, and fast enough:

    python -m oner_jax.check --config=configs/oner.py:b16,data=DIR --topology=v5e:16x16

Lists every dataset that the recipe names with what is in it, decodes a sample of each, says how
long captions are beside the model's input, and times the input on this machine beside what the
step needs. `--output=DIR` adds pictures to look at: a grid of samples of each dataset
(`sample_train.png`, `sample_val.png`, ...) and the lengths of captions (`token_lengths.png`).

Ends with 2 if something is missing or damaged, or the input is too slow. What a step needs follows
from `--topology` at an assumed MFU, or is given as `--needed_pairs_per_second`.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Int32
from ml_collections import ConfigDict

from oner_jax import configuration
from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.recipe_files import define_recipe
from oner_jax.data.checking import delivery_rate, drawings
from oner_jax.data.checking.delivery_rate import Need
from oner_jax.data.checking.inventory import Inventory
from oner_jax.data.checking.sample import Sample, length_line
from oner_jax.data.options import DataOptions
from oner_jax.data.pipeline import TrainingData
from oner_jax.errors import InputError
from oner_jax.files import Access
from oner_jax.planning.topology import Topology

# Tokens of each sampled caption, by key of the config.
Lengths = Mapping[str, Int32[np.ndarray, " captions"]]


def sample_all(inventory: Inventory, number: int) -> dict[str, Sample]:
    """A sample of every split, by its key of the config."""
    return {
        key: Sample.take(split, number, inventory.kinds[key])
        for key, split in inventory.splits.items()
    }


def describe(samples: dict[str, Sample], lengths: Lengths, text_tokens: int) -> Iterator[str]:
    """What the samples say of records and of captions."""
    for key, sample in samples.items():
        yield from sample.fault_lines()
        if key in lengths:
            yield length_line(sample.split.name, lengths[key], text_tokens)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each key, or all but `data.` where others end alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    counts = collections.Counter(last.values())
    return {
        key: name if counts[name] == 1 else key.removeprefix("data.") for key, name in last.items()
    }


def draw_all(
    output: epath.Path, samples: dict[str, Sample], lengths: Lengths, text_tokens: int
) -> None:
    """Writes the pictures of what could be read, and says where they are."""
    output.mkdir(parents=True, exist_ok=True)
    names = short_names(samples)
    figures = {
        f"sample_{names[key]}.png": drawings.sample_grid(sample.split.name, sample.records)
        for key, sample in samples.items()
        if sample.records
    }
    if lengths:
        named = {f"{names[key]} ({samples[key].split.name})": own for key, own in lengths.items()}
        figures["token_lengths.png"] = drawings.token_lengths(named, text_tokens)
    for file, figure in figures.items():
        drawings.write(figure, output / file)
    print(f"wrote {', '.join(figures)} to {output}")


def require_sound(samples: dict[str, Sample]) -> None:
    """Raise InputError where records of a sample cannot be used."""
    damaged = [sample.split.name for sample in samples.values() if sample.faults]
    if damaged:
        raise InputError(f"damaged records in {', '.join(damaged)}: ingest the data again")


def needed(config: ConfigDict) -> Need | None:
    """What the command line says, if it does."""
    topology, given = flags.FLAGS.topology, flags.FLAGS.needed_pairs_per_second
    if topology is not None and given is not None:
        raise InputError("--topology and --needed_pairs_per_second: give one of them")
    if topology is not None:
        return Need.of_step(config, Topology.parse(topology), flags.FLAGS.assumed_mfu)
    return None if given is None else Need(given)


def main(_: Sequence[str]) -> None:
    """Checks the data of `--config`."""
    values = flags.FLAGS
    if values.config is None:
        raise InputError("--config is missing: name a recipe, for example configs/oner.py:b16")
    # Accelerators are left to training.
    jax.config.update("jax_platforms", "cpu")
    inventory = Inventory.take(values.config)
    for line in inventory.lines():
        print(line)
    tokenizer = inventory.require_all()
    config = configuration.resolve(
        values.config,
        training_records=TrainingData.open(DataOptions.from_config(values.config)).pairs,
        vocabulary_size=tokenizer.vocabulary_size,
    )
    need, text_tokens = needed(config), config.model.text_tokens
    samples = sample_all(inventory, values.sample)
    lengths = {
        key: tokenizer.lengths(sample.captions)
        for key, sample in samples.items()
        if sample.captions
    }
    for line in describe(samples, lengths, text_tokens):
        print(line)
    if values.output is not None:
        draw_all(epath.Path(values.output), samples, lengths, text_tokens)
    require_sound(samples)
    rate = delivery_rate.delivered(config, 1 if need is None else need.hosts, values.seconds)
    print(delivery_rate.describe(rate, need))
    if need is not None:
        delivery_rate.require_enough(rate, need)


def define_flags() -> None:
    """The program's command line; not at import, where it would be every program's."""
    define_recipe("config", "recipe, as FILE.py[:argument]")
    path_flags.define("output", None, "directory for pictures of what is in the data", Access.STORE)
    flags.DEFINE_integer("sample", 1000, "records of each dataset to decode", lower_bound=1)
    flags.DEFINE_float("seconds", 10.0, "seconds for which the input is timed", lower_bound=0.1)
    flags.DEFINE_string("topology", None, "where to train, as v5e:16x16 or h100:8")
    flags.DEFINE_float("assumed_mfu", 0.5, "fraction of the peak that the step reaches", 0.01, 1.0)
    flags.DEFINE_float(
        "needed_pairs_per_second",
        None,
        "what the step needs on each host, instead of --topology",
        lower_bound=0.0,
    )


if __name__ == "__main__":
    define_flags()
    run_program(main)
