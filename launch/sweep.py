"""Run a sweep: `python -m launch.sweep --sweep=configs/ladder.py:epochs11 --workdir=DIR`.

Trains and evaluates every trial of the sweep file (see `oner_jax/claims/sweep.py`) with every seed,
all trials of the first seed first, and writes `DIR/table.csv`, `DIR/table.md` and, where the sweep
asks for them, figures. The same command again skips what is finished and continues what is not.
`--side_by_side=N` runs N at once, each on its share of the cores. A trial that fails does not stop
the others; it is named at the end and the exit code is 1.

`--launcher='launch/slurm.sbatch --topology=h100:8 --gpus-per-node=8'` runs each as a job of that
launcher; DIR then lies on storage that the jobs share with this machine. What only submits is not
waited for: the same command later submits what has failed, and collects what is finished.

    DIR/TRIAL/seed-0/        the run's folder
    DIR/TRIAL/seed-0.log     what its programs printed
    DIR/TRIAL/seed-0.json    that it is finished: the commands and how long they took
"""

import dataclasses
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NoReturn

from absl import flags
from tqdm import tqdm

from launch.jobs import Jobs, NotFinished
from launch.programs import LIBRARIES
from launch.runs import Run, RunFailed, Runner
from oner_jax.claims import report as sweep_report
from oner_jax.claims import spread
from oner_jax.claims.sweep import Sweep
from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.recipe_files import explained, load
from oner_jax.configuration import nearest
from oner_jax.errors import InputError
from oner_jax.files import Access


def define_flags() -> None:
    """Define the flags of this program; not at import, where they would be every program's."""
    path_flags.define("sweep", None, "Sweep file, as FILE.py[:argument].", Access.LOCAL)
    path_flags.define(
        "workdir",
        None,
        "Folder of the sweep; made if it is not there.",
        Access.LOCAL,
    )
    flags.DEFINE_integer("side_by_side", 1, "How many runs at once.", lower_bound=1)
    flags.DEFINE_list("seeds", [], "Seeds in place of the sweep's own.")
    flags.DEFINE_list("only", [], "Names of the trials to run; default: all.")
    flags.DEFINE_string(
        "launcher", "", "Run as jobs of this launcher and its options, {name} being the run's name."
    )


def load_sweep(argument: str) -> Sweep:
    """The sweep of `FILE.py[:argument]`. Raises InputError where there is none."""
    path, _, rest = argument.partition(":")
    module = load(path, f"--sweep={argument}", "get_sweep")
    with explained(path):
        return module.get_sweep(rest) if rest else module.get_sweep()


def plan(sweep: Sweep, folder: Path) -> list[Run]:
    """Every run in order: all trials of the first seed, then those of the next."""
    runs = []
    for seed in sweep.seeds:
        for trial in sweep.trials:
            workdir = spread.run_folder(folder, trial.name, seed)
            train = ("oner_jax.train", *trial.arguments(seed), f"--workdir={workdir}")
            evaluate = ("oner_jax.evaluate", f"--workdir={workdir}", "--untrained=False")
            commands = [train, (*evaluate, f"--tasks={','.join(sweep.tasks)}")]
            for look in sweep.looks:
                if look.trial == trial.name and (look.every_seed or seed == sweep.seeds[0]):
                    at = (f"--steps={look.step}", f"--datasets={look.dataset}")
                    commands.append((*evaluate, f"--tasks={','.join(look.tasks)}", *at))
            runs.append(Run(trial, seed, workdir, tuple(commands)))
    return runs


def run_all(
    runs: Sequence[Run],
    side_by_side: int,
    libraries: Sequence[str] = LIBRARIES,
    launcher: str = "",
) -> dict[str, RunFailed]:
    """Execute what is not finished, with progress; returns the failures by run's name.

    `libraries` are imported once for all programs, unless a `launcher` runs them elsewhere.
    """
    took = {run: seconds for run in runs if (seconds := run.seconds()) is not None}
    waiting = [run for run in runs if run not in took]
    print(f"{len(runs)} runs, {len(took)} of them finished before", flush=True)
    failures: dict[str, RunFailed] = {}
    runner = Jobs(launcher) if launcher else Runner(side_by_side, libraries)
    with ThreadPoolExecutor(side_by_side) as workers:
        started = {workers.submit(runner, run): run for run in waiting}
        try:
            for number, future in enumerate(as_completed(started), len(took) + 1):
                run = started[future]
                try:
                    took[run] = future.result()
                    outcome = f"finished in {took[run]:.0f} s"
                except NotFinished as state:
                    outcome = str(state)
                except RunFailed as failure:
                    failures[run.name] = failure
                    outcome = f"FAILED: {failure}"
                unfinished = [run for future, run in started.items() if not future.done()]
                left = _expected_seconds(unfinished, took) / side_by_side
                print(
                    f"[{number}/{len(runs)}] {run.name}: {outcome}; "
                    f"{len(unfinished)} left, about {tqdm.format_interval(left)}",
                    flush=True,
                )
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            runner.stop()
            raise
        finally:
            runner.close()
    return failures


def _expected_seconds(unfinished: Sequence[Run], took: dict[Run, float]) -> float:
    """As long as the same trial took with another seed, else as the mean of all."""
    by_trial = {run.trial.name: seconds for run, seconds in took.items()}
    mean = sum(took.values()) / max(1, len(took))
    return sum(by_trial.get(run.trial.name, mean) for run in unfinished)


def _choose(sweep: Sweep) -> Sweep:
    """The sweep with `--seeds` and `--only` applied."""
    values = flags.FLAGS
    names = [trial.name for trial in sweep.trials]
    for name in values.only:
        if name not in names:
            raise InputError(
                f"--only={name}: there is no such trial{nearest(name, names)}; "
                f"there are {', '.join(names)}"
            )
    for seed in values.seeds:
        if not seed.isdigit():
            raise InputError(f"--seeds: {seed!r} is no whole number")
    return dataclasses.replace(
        sweep,
        trials=tuple(t for t in sweep.trials if not values.only or t.name in values.only),
        seeds=tuple(map(int, values.seeds)) or sweep.seeds,
    )


def _on_terminate(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def main(_: Sequence[str]) -> None:
    """Run, write the tables, name what failed."""
    values = flags.FLAGS
    if values.sweep is None:
        raise InputError(
            "--sweep is missing: name a sweep file, for example configs/ladder.py:epochs11"
        )
    if values.workdir is None:
        raise InputError("--workdir is missing: name a folder for the sweep")
    sweep, folder = load_sweep(values.sweep), Path(values.workdir)
    chosen = _choose(sweep)
    signal.signal(signal.SIGTERM, _on_terminate)
    failures = run_all(plan(chosen, folder), values.side_by_side, launcher=values.launcher)
    # Tables hold all that was run in this folder, today or before.
    seeds = tuple(dict.fromkeys((*sweep.seeds, *chosen.seeds)))
    for path in sweep_report.write(dataclasses.replace(sweep, seeds=seeds), folder):
        print(path)
    if failures:
        print(f"error: {len(failures)} failed: {', '.join(sorted(failures))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    define_flags()
    run_program(main)
