"""Evaluate checkpoints: `python -m oner_jax.evaluate --workdir=DIR`.

Prints one table of every task on every evaluation dataset, with chance and the untrained model
beside it, and writes `DIR/report/index.html`. Results are kept in `DIR/eval/`, one file for each
checkpoint, dataset and task; what is finished is not computed again, so the same command goes on
after a kill. Of several processes all take part.

`--workdir=DIR,DIR2 --steps=all --out=OUT` evaluates many checkpoints and writes table.csv, table.md
and index.html with curves over steps into OUT. `--compare=DIR2,@1000` adds other checkpoints and
says which differences are more than chance. `--follow` waits for further checkpoints of runs that
still go on, and ends with them. `--datasets=cifar10,coco` takes public benchmarks
(docs/datasets.md), `--boxes=FILE.jsonl` pictures with boxes (see `oner_jax.data.boxes`).
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.errors import InputError
from oner_jax.evals.engine.differences import HEADER, difference_rows
from oner_jax.evals.engine.evaluation import Request, Results, measure
from oner_jax.evals.engine.following import follow
from oner_jax.evals.engine.table import aligned, by_label, text_table
from oner_jax.evals.inputs import readouts
from oner_jax.evals.report import written_pages as outputs
from oner_jax.evals.tasks.catalogue import TASK_SETS, TASKS
from oner_jax.files import Access
from oner_jax.parallel import distributed
from oner_jax.training.workdir import command_line


def define_flags() -> None:
    """Define the flags of this program; not at import, where they would be every program's."""
    path_flags.define_list("workdir", [], "Folders of the runs to evaluate.", Access.STORE)
    flags.DEFINE_list("steps", ["last"], "Checkpoints: numbers, all, best or last.")
    path_flags.define(
        "out", None, "Folder for results and tables; default: the run's own.", Access.STORE
    )
    path_flags.define_list(
        "datasets",
        [],
        "Names from config.data.evaluation, benchmarks (public: all of them) or splits; default: "
        "all of the config's.",
        Access.GS,
    )
    path_flags.define("data_directory", "data", "Where benchmarks were ingested to.", Access.GS)
    path_flags.define_list(
        "compare",
        [],
        "Further columns and the differences to them: FOLDER, FOLDER@STEP or @STEP.",
        Access.STORE,
    )
    path_flags.define_list("boxes", [], "JSONL files of pictures, phrases and boxes.", Access.LOCAL)
    flags.DEFINE_list(
        "tasks",
        ["standard"],
        f"{' or '.join(TASK_SETS)}, with the report, or some of {', '.join(TASKS)}.",
    )
    flags.DEFINE_bool("untrained", True, "Show the untrained model beside the run.")
    flags.DEFINE_string(
        "templates", "", "Prompt templates of zero-shot tasks; default: those of the dataset."
    )
    flags.DEFINE_integer(
        "patches_per_side",
        0,
        f"Grid on which things are localised; 0: {readouts.PATCHES_PER_SIDE}, or the model's own "
        "if that is finer.",
        lower_bound=0,
        upper_bound=readouts.MAXIMUM_PATCHES_PER_SIDE,
    )
    flags.DEFINE_bool("follow", False, "Evaluate further checkpoints as they are saved.")
    flags.DEFINE_bool("force", False, "Compute finished results again.")


def evaluate(request: Request) -> Results:
    """Measure what is asked for, write its pages and print its tables."""
    results = measure(request)
    if distributed.is_main():
        print(_printed(results), flush=True)
        for page in outputs.write(request, results):
            print(f"report: {page}", flush=True)
    return results


def _printed(results: Results) -> str:
    """The table, and the differences to what is compared with."""
    parts = [text_table(by_label(results.columns))]
    for title, found in results.compared.items():
        rows = [(title if cell == "metric" else cell) for cell in HEADER]
        parts.append(aligned([rows, *difference_rows(found)]))
    return "\n\n".join(parts)


def main(_: Sequence[str]) -> None:
    """Evaluate as the flags say, on one process or several."""
    values = flags.FLAGS
    if not values.workdir:
        raise InputError("--workdir is missing: name the folder of a run")
    request = Request(
        workdirs=values.workdir,
        steps=values.steps,
        tasks=values.tasks,
        datasets=values.datasets,
        data_directory=values.data_directory,
        compare=values.compare,
        boxes=[Path(file) for file in values.boxes],
        templates=values.templates,
        patches_per_side=values.patches_per_side,
        untrained=values.untrained,
        force=values.force,
        out=values.out,
        command=command_line("oner_jax.evaluate"),
    )
    with distributed.session():
        if values.follow:
            follow(request, evaluate)
        else:
            evaluate(request)


if __name__ == "__main__":
    define_flags()
    run_program(main)
