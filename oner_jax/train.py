"""Pretrain a model: `python -m oner_jax.train --config=configs/oner.py:tiny --workdir=DIR`.

Override any key with `--config.KEY=VALUE`. The same command again continues from the last
checkpoint; data order, masks and result are those of a run that never stopped.
"""

import functools
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags
from etils import epath
from ml_collections import ConfigDict

from oner_jax import configuration
from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.recipe_files import define_recipe
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError
from oner_jax.files import Access
from oner_jax.objectives.batch import Batch, TextFormat
from oner_jax.parallel import distributed, preflight
from oner_jax.parallel.mesh import LocalRows
from oner_jax.parallel.preemption import StopRequest
from oner_jax.planning import device_memory as memory
from oner_jax.training import identity, workdir
from oner_jax.training.checkpointing.checkpoints import Checkpoints
from oner_jax.training.checkpointing.policy import CheckpointPolicy
from oner_jax.training.initial_state import state_at
from oner_jax.training.loop import Evaluates, Loop
from oner_jax.training.monitoring.damage_log import DamageLog
from oner_jax.training.monitoring.goodput import Goodput
from oner_jax.training.monitoring.metrics import MetricsLog
from oner_jax.training.monitoring.watchdog import Watchdog
from oner_jax.training.recipe import Recipe
from oner_jax.training.rollback import Rollbacks
from oner_jax.training.step import TrainState

if TYPE_CHECKING:
    from oner_jax.data.pipeline import TrainingData


def define_flags() -> None:
    """Define the flags of this program; not at import, where they would be every program's."""
    define_recipe("config", "Recipe, as FILE.py[:argument].")
    flags.DEFINE_bool("verbose", False, "Also print every parameter array and its shape.")
    path_flags.define("workdir", None, "Folder of the run; made if it is not there.", Access.GS)


def train(
    config: ConfigDict, folder: epath.Path, stop: StopRequest, *, verbose: bool = False
) -> TrainState:
    """Train as `config` says, in `folder`, from its last checkpoint if there is one.

    `verbose` prints every parameter array. Raises Preempted, with a checkpoint, when `stop` asks
    for it.
    """
    began = time.monotonic()
    # TensorFlow takes seconds to import and only the input needs it.
    from oner_jax.data import records
    from oner_jax.data.options import DataOptions
    from oner_jax.data.pipeline import TrainingData

    # What there is to train on. Everything is checked before anything is made.
    tokenizer = Tokenizer.load(config.data.tokenizer)
    policy = CheckpointPolicy(**config.checkpoint)
    options = DataOptions.from_config(config)
    training_data = TrainingData.open(options)
    for name in config.data.evaluation.values():
        records.open_split(name)
    config = configuration.resolve(
        config, training_records=training_data.pairs, vocabulary_size=tokenizer.vocabulary_size
    )

    policy.check_evaluated(
        interval_steps=config.evaluation.interval_steps, total_steps=config.total_steps
    )

    # What is trained, and where.
    configuration.use_compilation_cache(config.compilation_cache)
    text = TextFormat(tokenizer.mask_id, tokenizer.word_start, tokenizer.joiner)
    recipe = Recipe.from_config(config, text)
    data = training_data.description() | {"tokenizer": tokenizer.content_hash}
    distributed.check_equal(
        {**dict(configuration.flatten(config)), **dict(configuration.flatten(data))}
    )
    with (
        Goodput(folder if distributed.is_main() else None, began=began) as goodput,
        Watchdog(folder, **config.watchdog) as watchdog,
        workdir.hold_workdir(folder, config, data) as lock,
        memory.out_of_memory_explained(recipe),
        DamageLog(
            folder if distributed.is_main() else None,
            maximum_fraction=config.data.maximum_damaged_fraction,
            examples_per_step=options.examples_per_step(config.batch_size),
        ) as damage,
        Checkpoints(folder, policy, lock) as checkpoints,
    ):
        state, first_step, rollbacks = _first_state(recipe, checkpoints, data, damage)
        goodput.go_back_to(first_step)
        speeds = preflight.measure(recipe.mesh) if config.preflight else None
        if distributed.is_main():
            parameters = recipe.abstract.parameters
            workdir.write_manifest(
                folder,
                command=workdir.command_line("oner_jax.train"),
                mesh=recipe.mesh,
                parameters=parameters,
                data=data,
                preflight=speeds,
            )
            print(workdir.describe(config, parameters, recipe.mesh, data, first_step))
            for warning in workdir.too_many_epochs(config, data):
                print(warning, file=sys.stderr, flush=True)
            if verbose:
                print(workdir.describe_parameters(parameters))
            print(speeds.describe() if speeds else "preflight   off", flush=True)
        log = MetricsLog(
            folder if distributed.is_main() else None,
            first_step=first_step,
            total_steps=config.total_steps,
        )
        with log:
            loop = Loop(
                recipe,
                state,
                first_step,
                batches_from=functools.partial(_batches_from, recipe, training_data, damage),
                data=data,
                rollbacks=rollbacks,
                checkpoints=checkpoints,
                log=log,
                damage=damage,
                stop=stop,
                watchdog=watchdog,
                goodput=goodput,
                evaluates=_evaluates(recipe, folder),
            )
            return loop.run()


def _evaluates(recipe: Recipe, folder: epath.Path) -> Evaluates | None:
    """What evaluates the run while it goes on; None where the config does not ask for it."""
    if not recipe.config.evaluation.interval_steps:
        return None
    from oner_jax.evals.engine.in_loop import InLoop
    from oner_jax.evals.engine.suite import Origin

    return InLoop(
        recipe, folder, Origin(workdir.command_line("oner_jax.train"), workdir.revision())
    )


def _first_state(
    recipe: Recipe, checkpoints: Checkpoints, data: dict[str, Any], damage: DamageLog
) -> tuple[TrainState, int, Rollbacks]:
    """The state to begin with, restored where there is a checkpoint; its step; its roll-backs."""
    step = checkpoints.last_good()
    state, position = state_at(step, recipe, checkpoints)
    if changes := identity.data_changes(position.get("data", data), data):
        raise InputError(
            f"the training data changed since step {step} ({'; '.join(changes)}): bring the old "
            "data back, or start in another --workdir"
        )
    step, rollbacks = step or 0, Rollbacks(recipe.guard, position)
    damage.go_back_to(step + rollbacks.data_offset_steps, position.get("damaged", {}))
    return state, step, rollbacks


def _batches_from(
    recipe: Recipe, training_data: "TrainingData", damage: DamageLog, first_step: int
) -> Iterator[Batch]:
    """The global batches of `first_step` and on; this process makes the rows that it holds."""
    from oner_jax.data import pipeline
    from oner_jax.data.options import DataOptions

    config = recipe.config
    rows = {
        name: LocalRows(recipe.mesh, leaf.shape[0])
        for name, leaf in recipe.abstract_batch()._asdict().items()
        if leaf is not None
    }
    batches = pipeline.training_batches(
        DataOptions.from_config(config),
        global_batch_size=config.batch_size,
        seed=config.seed,
        first_step=first_step,
        rows={"train": rows["text"].numbers} | {name: own.numbers for name, own in rows.items()},
        opened=training_data,
    )
    for arrays in batches:
        damage.add(batches.take_losses())
        yield Batch(**{name: own.globally(arrays[name]) for name, own in rows.items()})


def main(_: Sequence[str]) -> None:
    """Train `--config` in `--workdir`, on one process or several."""
    values = flags.FLAGS
    if values.config is None:
        raise InputError("--config is missing: name a recipe, for example configs/oner.py:tiny")
    if values.workdir is None:
        raise InputError("--workdir is missing: name a folder for the run")
    started = time.monotonic()
    with distributed.session(), StopRequest() as stop:
        train(values.config, epath.Path(values.workdir), stop, verbose=values.verbose)
        if distributed.is_main():
            print(f"finished in {time.monotonic() - started:.0f} s: {values.workdir}")
            following = ["python", "-m", "oner_jax.evaluate", f"--workdir={values.workdir}"]
            print(f"next        {shlex.join(following)}")


if __name__ == "__main__":
    define_flags()
    run_program(main)
