"""Evaluate a run: `python -m oner_jax.evaluate --workdir=DIR`.

Prints one table of every task on every evaluation dataset, with chance and the untrained model
beside it, and writes `DIR/report/index.html`. Results are kept in `DIR/eval/`; what is finished is
not computed again. `--compare=DIR2,DIR3` adds the last checkpoints of other runs as columns.
`--tasks=retrieval,geometry` does only these, without a report.
`--boxes=FILE.jsonl` measures localisation on pictures with boxes (see `oner_jax.data.boxes`).
"""

import functools
import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict

from oner_jax import configuration
from oner_jax.data.boxes import content_hash, read_boxes
from oner_jax.data.image_files import on_white, open_image
from oner_jax.data.progress import Progress
from oner_jax.data.text import Tokenizer
from oner_jax.errors import InputError, run_program
from oner_jax.evals import wording
from oner_jax.evals.features import EmbedsViews, RowsDone
from oner_jax.evals.history import History
from oner_jax.evals.report import Report
from oner_jax.evals.suite import Dataset, Subject, evaluate_subject
from oner_jax.evals.table import Columns, text_table
from oner_jax.evals.tasks import TASKS
from oner_jax.evals.templates import template_set
from oner_jax.models.embedding import Embedder
from oner_jax.parallel import distributed
from oner_jax.training.checkpoints import available_steps, has_twin, load_run, read_config

if TYPE_CHECKING:
    from PIL.Image import Image

UNTRAINED = "untrained"

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run to evaluate.")
STEP = flags.DEFINE_string("step", "last", "Checkpoint: a step, or last.")
DATASETS = flags.DEFINE_list(
    "datasets", [], "Names from config.data.evaluation, or splits; default: all of the config's."
)
COMPARE = flags.DEFINE_list("compare", [], "Folders of other runs, shown as further columns.")
BOXES = flags.DEFINE_list("boxes", [], "JSONL files of pictures, phrases and boxes.")
TASK_NAMES = flags.DEFINE_list(
    "tasks", [], f"Only these of {', '.join(TASKS)}, and no report; default: all, and the report."
)
UNTRAINED_TOO = flags.DEFINE_bool("untrained", True, "Show the untrained model beside the run.")
TEMPLATES = flags.DEFINE_string("templates", "names", "Prompt templates of zero-shot tasks.")
FORCE = flags.DEFINE_bool("force", False, "Compute finished results again.")


def evaluate(
    workdir: Path,
    *,
    step: str = "last",
    datasets: Sequence[str] = (),
    compare: Sequence[Path] = (),
    boxes: Sequence[Path] = (),
    templates: str = "names",
    untrained: bool = True,
    force: bool = False,
    command: str = "python -m oner_jax.evaluate",
) -> tuple[Columns, Path]:
    """Results of every task by column (as `measure` gives them) and the path of the report.

    Raises InputError as `measure` does.
    """
    columns = measure(
        workdir,
        step=step,
        datasets=datasets,
        compare=compare,
        boxes=boxes,
        templates=templates,
        untrained=untrained,
        force=force,
    )
    number = _checkpoint_step(workdir, step)
    names = _choose_datasets(read_config(workdir), datasets)
    report = Report(
        directory=workdir / "report",
        step=number,
        columns=columns,
        history=History.read(workdir, number),
        pictures=functools.partial(_pictures, names, _box_files(boxes, names)),
        descriptions={
            name: wording.DATASETS[split]
            for name, split in names.items()
            if split in wording.DATASETS
        },
        command=command,
    )
    return columns, report.write()


def measure(
    workdir: Path,
    *,
    step: str = "last",
    datasets: Sequence[str] = (),
    tasks: Sequence[str] = tuple(TASKS),
    compare: Sequence[Path] = (),
    boxes: Sequence[Path] = (),
    templates: str = "names",
    untrained: bool = True,
    force: bool = False,
) -> Columns:
    """Results by column: the run, untrained (where wanted), the compared runs.

    Raises InputError for a folder without a finished checkpoint, an unknown dataset, task or
    template set, a file of boxes that is not right, and a model whose features are not finite.
    """
    template_set(templates)
    for task in tasks:
        if task not in TASKS:
            raise InputError(
                f"--tasks={task}: there is no such task"
                f"{configuration.nearest(task, TASKS)}; tasks are {', '.join(TASKS)}"
            )
    config = read_config(workdir)
    names = _choose_datasets(config, datasets)
    box_files = _box_files(boxes, names)
    number = _checkpoint_step(workdir, step)
    subjects = [
        _subject(workdir, number, f"step {number}"),
        *([_subject(workdir, "init", UNTRAINED)] if untrained else []),
        *(
            _subject(folder, _checkpoint_step(folder, "last"), label)
            for folder, label in zip(compare, _short_names(compare), strict=True)
        ),
    ]
    configuration.use_compilation_cache(config.compilation_cache)
    return {
        subject.label: evaluate_subject(
            subject,
            _datasets(names, image_size) + _boxed_datasets(box_files, image_size),
            templates=templates,
            tasks=tasks,
            force=force,
            announce=_announce,
        )
        for subject, image_size in subjects
    }


def _checkpoint_step(workdir: Path, step: str) -> int:
    steps = available_steps(workdir)
    wanted = str(steps[-1]) if step == "last" and steps else step
    if wanted.isdigit() and int(wanted) in steps:
        return int(wanted)
    if wanted == "init":
        raise InputError("--step=init: the untrained model is always shown; give a checkpoint")
    return load_run(workdir, step).step  # raises, naming what there is


def _subject(workdir: Path, step: int | str, label: str) -> tuple[Subject, int]:
    """One column: a checkpoint, or "init" for the weights it started from; and its image size."""
    config = read_config(workdir)
    tokenizer = Tokenizer.load(config.data.tokenizer)
    identity = f"{step} {tokenizer.content_hash} {config.to_json(sort_keys=True)}"

    def embedder(weights: str) -> Callable[[], EmbedsViews]:
        def load() -> Embedder:
            run = load_run(workdir, step, weights)
            return Embedder(run.model, run.parameters)

        return load

    subject = Subject(
        label=label,
        directory=workdir / "eval" / (UNTRAINED if step == "init" else f"step-{step}"),
        identity=hashlib.sha256(identity.encode()).hexdigest(),
        load=embedder("online"),
        tokenize=functools.partial(tokenizer.encode, max_tokens=config.model.text_tokens),
        load_momentum=embedder("momentum") if step != "init" and has_twin(config) else None,
    )
    return subject, config.model.image_size


def _choose_datasets(config: ConfigDict, chosen: Sequence[str]) -> dict[str, str]:
    """Name in tables -> split."""
    known: dict[str, str] = config.data.evaluation.to_dict()
    if not chosen and not known:
        raise InputError("config.data.evaluation names no dataset; give --datasets=SPLIT")
    for name in chosen:
        if name not in known and not {"/", ":"} & set(name):
            raise InputError(
                f"--datasets={name}: the run's config has {', '.join(known) or 'none'}; "
                "give one of them, a split's directory or embedded:NAME"
            )
    return {
        re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_"): known.get(name, name)
        for name in chosen or known
    }


def _datasets(names: Mapping[str, str], image_size: int) -> list[Dataset]:
    from oner_jax.data.evaluation import evaluation_set
    from oner_jax.data.records import open_split

    return [
        Dataset(
            name=name,
            content_hash=open_split(split).content_hash,
            load=functools.partial(evaluation_set, split, image_size=image_size),
        )
        for name, split in names.items()
    ]


def _box_files(files: Sequence[Path], taken: Mapping[str, str]) -> dict[str, Path]:
    """Name in tables -> file."""
    named = {re.sub(r"[^A-Za-z0-9.-]+", "_", file.stem): file for file in files}
    if len(named) < len(files) or named.keys() & taken.keys():
        raise InputError("--boxes: two datasets would have the same name; rename a file")
    return named


def _boxed_datasets(files: Mapping[str, Path], image_size: int) -> list[Dataset]:
    return [
        Dataset(
            name=name,
            content_hash=content_hash(file),
            load_boxed=functools.partial(read_boxes, file, image_size),
        )
        for name, file in files.items()
    ]


def _pictures(
    names: Mapping[str, str], files: Mapping[str, Path], dataset: str, indices: Sequence[int]
) -> "dict[int, Image]":
    """Pictures of a dataset as they are stored, by their index in it."""
    if dataset in names:
        return read_pictures(names[dataset], indices)
    boxed = read_boxes(files[dataset], image_size=1)
    return {index: boxed.picture(index) for index in indices}


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path; the whole path where that is not unique."""
    last = [folder.name for folder in folders]
    return [
        name if last.count(name) == 1 and name != UNTRAINED else str(folder)
        for name, folder in zip(last, folders, strict=True)
    ]


def read_pictures(split: str, indices: Sequence[int]) -> dict[int, "Image"]:
    """Pictures of a split as they are stored, transparency on white."""
    from oner_jax.data.records import Record, open_split

    serialised = open_split(split).read(indices)
    return {
        index: on_white(open_image(Record.parse(record).image))
        for index, record in zip(indices, serialised, strict=True)
    }


def _announce(text: str) -> RowsDone:
    """Progress on standard error, with the time left."""
    bar: Progress | None = None
    shown = 0

    def report(done: int, total: int) -> None:
        nonlocal bar, shown
        bar = bar or Progress(text, total)
        for _ in range(done - shown):
            bar.advance()
        shown = done
        if done == total:
            bar.finish()

    return report


def main(_: Sequence[str]) -> None:
    """Evaluate as the flags say; print the table and where the report is."""
    if WORKDIR.value is None:
        raise InputError("--workdir is missing: name the folder of a run")
    with distributed.session():
        # Of several hosts one evaluates, on its own devices; the others wait for it.
        if distributed.is_main():
            _evaluate_as_flags_say(Path(WORKDIR.value))


def _evaluate_as_flags_say(workdir: Path) -> None:
    options: dict[str, Any] = {
        "step": STEP.value,
        "datasets": DATASETS.value,
        "compare": [Path(folder) for folder in COMPARE.value],
        "boxes": [Path(file) for file in BOXES.value],
        "templates": TEMPLATES.value,
        "untrained": UNTRAINED_TOO.value,
        "force": FORCE.value,
    }
    if TASK_NAMES.value:
        print(text_table(measure(workdir, tasks=TASK_NAMES.value, **options)))
        return
    command = " ".join(["python -m oner_jax.evaluate", *sys.argv[1:]])
    columns, report = evaluate(workdir, command=command, **options)
    print(text_table(columns))
    print(f"report: {report}")


if __name__ == "__main__":
    run_program(main)
