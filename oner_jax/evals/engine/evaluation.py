"""Checkpoints x datasets x tasks, from what is asked for to the finished cells side by side."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from oner_jax import configuration
from oner_jax.data.progress import Progress
from oner_jax.errors import InputError
from oner_jax.evals.engine.checkpoints import (
    INIT,
    UNTRAINED,
    Checkpoint,
    cells_folder,
    checkpoints_of,
    compared_checkpoints,
    compared_steps,
    run_names,
)
from oner_jax.evals.engine.datasets import Place, available, choose
from oner_jax.evals.engine.differences import Difference, differences
from oner_jax.evals.engine.suite import Origin, evaluate_subject
from oner_jax.evals.engine.table import Column
from oner_jax.evals.inputs.features import RowsDone
from oner_jax.evals.inputs.templates import template_set
from oner_jax.evals.tasks.catalogue import TASK_SETS, TASKS
from oner_jax.parallel import distributed
from oner_jax.training.checkpointing.checkpoints import read_config
from oner_jax.training.workdir import revision


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be evaluated, as the flags of the same names say it.

    Empty `tasks` are the standard ones. `patches_per_side` is the grid on which things are
    localised (0: the default). `out` is where everything goes; without it, cells are in
    the `eval/` of their own run.
    """

    workdirs: Sequence[epath.PathLike]
    steps: Sequence[str] = ("last",)
    tasks: Sequence[str] = ()
    datasets: Sequence[str] = ()
    data_directory: epath.PathLike = "data"
    compare: Sequence[str] = ()
    boxes: Sequence[Path] = ()
    templates: str = ""
    patches_per_side: int = 0
    untrained: bool = True
    force: bool = False
    out: epath.PathLike | None = None
    command: str = "python -m oner_jax.evaluate"

    @property
    def folders(self) -> list[epath.Path]:
        """The runs' folders, local or on object storage."""
        return [epath.Path(workdir) for workdir in self.workdirs]

    @property
    def out_folder(self) -> epath.Path | None:
        """Where everything goes, if not to the runs' own folders."""
        return None if self.out is None else epath.Path(self.out)

    @property
    def task_names(self) -> list[str]:
        """The tasks, sets of them spelt out. Raises InputError for one that there is not."""
        names: list[str] = []
        for name in self.tasks or ("standard",):
            if name not in TASKS and name not in TASK_SETS:
                raise InputError(
                    f"--tasks={name}: there is no such task"
                    f"{configuration.nearest(name, TASKS)}; tasks are {', '.join(TASKS)}, "
                    f"or {' or '.join(TASK_SETS)}"
                )
            names += TASK_SETS.get(name, (name,))
        return list(dict.fromkeys(names))

    @property
    def reported(self) -> bool:
        """Whether the report with pictures is written: it shows every standard task."""
        return set(TASK_SETS["standard"]) <= set(self.task_names)


@dataclasses.dataclass(frozen=True)
class Results:
    """What was measured: the checkpoints asked for, the runs' beginnings, those compared with.

    `checkpoints` are those of every column, by label. `notes` say which datasets were not there,
    and of how many texts the ends were not read. `compared` has the differences of the first
    kind to the last, by what is subtracted from what.
    """

    own: list[Column]
    beginnings: list[Column]
    others: list[Column]
    checkpoints: dict[str, Checkpoint]
    places: dict[str, Place]
    notes: list[str]
    origin: Origin

    @property
    def columns(self) -> list[Column]:
        """All of them."""
        return [*self.own, *self.beginnings, *self.others]

    @functools.cached_property
    def compared(self) -> dict[str, list[Difference]]:
        """Differences of every own column to every other one, by what is less what."""
        return {
            f"{own.label} less {other.label}": differences(own.cells, other.cells)
            for own in self.own
            for other in self.others
        }


def measure(request: Request) -> Results:
    """Make the cells that are missing, and gather all.

    Raises InputError for a folder without a finished checkpoint, an unknown step, dataset, task or
    template set, where no dataset can be read, and for a model whose features are not finite.
    Datasets of which others are left are said on stderr instead.
    """
    if request.templates:
        template_set(request.templates)
    tasks = request.task_names
    if request.out is None and len(request.workdirs) > 1:
        raise InputError("--out is missing: name a folder for the tables of several runs")
    checkpoints = _labelled(request)
    configs = [read_config(workdir) for workdir in request.folders]
    chosen = choose(
        configs,
        request.datasets,
        data_directory=request.data_directory,
        boxes=request.boxes,
        templates=request.templates,
    )
    places, left_out = available(chosen)
    if distributed.is_main():
        for line in left_out:
            print(line, file=sys.stderr, flush=True)
    configuration.use_compilation_cache(configs[0].compilation_cache)
    origin = Origin(request.command, revision())

    def column(label: str, checkpoint: Checkpoint) -> Column:
        cells = evaluate_subject(
            checkpoint.subject(
                label, cells_folder(request.out_folder, checkpoint.workdir, checkpoint.run)
            ),
            [place.dataset(name, checkpoint.image_size) for name, place in places.items()],
            tasks=tasks,
            force=request.force,
            origin=origin,
            announce=_announce,
            patches_per_side=request.patches_per_side,
        )
        return Column(label, checkpoint.run, checkpoint.number, cells)

    own, beginnings, others = (
        [column(label, checkpoint) for label, checkpoint in kind.items()] for kind in checkpoints
    )
    # In curves and tables a compared checkpoint stands for itself, not for the rest of its run.
    others = [dataclasses.replace(other, run=other.label) for other in others]
    for line in (cut := cut_off([*own, *others])) if distributed.is_main() else ():
        print(line, file=sys.stderr, flush=True)
    every = {label: one for kind in checkpoints for label, one in kind.items()}
    return Results(own, beginnings, others, every, places, [*left_out, *cut], origin)


def cut_off(columns: Sequence[Column]) -> list[str]:
    """Say of each dataset how many texts a model does not read to their end."""
    lines = []
    for column in columns:
        for dataset, cells in column.cells.items():
            counts = [cell.content["cut"] for cell in cells.values() if cell.content]
            found: dict[str, int] = counts[0] if counts else {}
            parts = [
                f"{found[f'{kind}_cut']:,} of {found[kind]:,} {kind}"
                for kind in ("texts", "prompts")
                if found.get(f"{kind}_cut")
            ]
            if alike := found.get("prompts_alike"):
                parts.append(f"{alike:,} of these prompts are then equal to another class's")
            if parts:
                lines.append(
                    f"{dataset}: {column.label} does not read to their end {', '.join(parts)}"
                )
    return lines


def _labelled(
    request: Request,
) -> tuple[dict[str, Checkpoint], dict[str, Checkpoint], dict[str, Checkpoint]]:
    """The runs' checkpoints, their beginnings and the compared ones, by what tables call them."""
    compared = compared_steps(request.compare, request.folders[0])
    # One name for each folder: results of two runs must not meet in a file or a column.
    names = run_names([*request.folders, *(folder for folder, _ in compared)])
    own = checkpoints_of(request.folders, request.steps, names, request.out_folder)
    alone = len(request.workdirs) == 1
    runs = {one.workdir: one for one in own} if request.untrained else {}
    return (
        {f"step {one.step}" if alone else f"{one.run} {one.step}": one for one in own},
        {
            UNTRAINED if alone else f"{one.run} {UNTRAINED}": Checkpoint(one.workdir, INIT, one.run)
            for one in runs.values()
        },
        compared_checkpoints(compared, names),
    )


def _announce(text: str) -> RowsDone:
    """Progress on standard error, with the time left; of several processes only the first's."""
    bar: Progress | None = None
    shown = 0

    def report(done: int, total: int) -> None:
        nonlocal bar, shown
        if not distributed.is_main():
            return
        bar = bar or Progress(text, total)
        for _ in range(done - shown):
            bar.advance()
        shown = done
        if done == total:
            bar.finish()

    return report
