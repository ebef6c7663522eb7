"""Evaluate a run: `python -m oner_jax.evaluate --workdir=DIR`.

Prints one table of every task on every evaluation dataset, with chance and the untrained model
beside it, and writes `DIR/report/index.html`. Results are kept in `DIR/eval/`; what is finished is
not computed again. `--compare=DIR2,DIR3` adds the last checkpoints of other runs as columns.
"""

import functools
import hashlib
import io
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from oner_jax.data.text import Tokenizer
from oner_jax.errors import InputError, run_program
from oner_jax.evals.features import EmbedsViews, Progress
from oner_jax.evals.history import History
from oner_jax.evals.report import Report
from oner_jax.evals.suite import Dataset, Subject, evaluate_subject
from oner_jax.evals.table import Cells, text_table
from oner_jax.evals.templates import template_set
from oner_jax.models.embedding import Embedder
from oner_jax.training.checkpoints import available_steps, load_run, read_config

if TYPE_CHECKING:
    from PIL.Image import Image

UNTRAINED = "untrained"
LINE_SECONDS = 10.0

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run to evaluate.", required=True)
STEP = flags.DEFINE_string("step", "last", "Checkpoint: a step, or last.")
DATASETS = flags.DEFINE_list(
    "datasets", [], "Names from config.data.evaluation, or splits; default: all of the config's."
)
COMPARE = flags.DEFINE_list("compare", [], "Folders of other runs, shown as further columns.")
TEMPLATES = flags.DEFINE_string("templates", "names", "Prompt templates of zero-shot tasks.")
FORCE = flags.DEFINE_bool("force", False, "Compute finished results again.")


def evaluate(
    workdir: Path,
    *,
    step: str = "last",
    datasets: Sequence[str] = (),
    compare: Sequence[Path] = (),
    templates: str = "names",
    force: bool = False,
    command: str = "python -m oner_jax.evaluate",
) -> tuple[dict[str, Cells], Path]:
    """Results by column (the run, untrained, the compared runs) and the path of the report.

    Raises InputError for a folder without a finished checkpoint, an unknown dataset or template
    set, and a model whose features are not finite.
    """
    template_set(templates)
    config = read_config(workdir)
    names = _choose_datasets(config, datasets)
    number = _checkpoint_step(workdir, step)
    subjects = [_trained(workdir, number, f"step {number}", momentum=True), _untrained(workdir)]
    labels = _short_names(compare)
    subjects += [
        _trained(folder, _checkpoint_step(folder, "last"), label, momentum=False)
        for folder, label in zip(compare, labels, strict=True)
    ]
    columns = {
        subject.label: evaluate_subject(
            subject,
            _datasets(names, image_size),
            templates=templates,
            force=force,
            announce=_announce,
        )
        for subject, image_size in subjects
    }
    report = Report(
        directory=workdir / "report",
        step=number,
        columns=columns,
        history=History.read(workdir, number),
        pictures=lambda dataset, indices: read_pictures(names[dataset], indices),
        descriptions={},
        command=command,
    )
    return columns, report.write()


def _checkpoint_step(workdir: Path, step: str) -> int:
    steps = available_steps(workdir)
    wanted = str(steps[-1]) if step == "last" and steps else step
    if wanted.isdigit() and int(wanted) in steps:
        return int(wanted)
    if wanted == "init":
        raise InputError("--step=init: the untrained model is always shown; give a checkpoint")
    return load_run(workdir, step).step  # raises, naming what there is


def _trained(workdir: Path, step: int, label: str, *, momentum: bool) -> tuple[Subject, int]:
    """The checkpoint of a step, and the size of the pictures it reads."""
    return _subject(workdir, step, label, f"step-{step}", momentum=momentum)


def _untrained(workdir: Path) -> tuple[Subject, int]:
    """The same model with the weights it started from."""
    return _subject(workdir, "init", UNTRAINED, UNTRAINED, momentum=False)


def _subject(
    workdir: Path, step: int | str, label: str, directory: str, *, momentum: bool
) -> tuple[Subject, int]:
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
        directory=workdir / "eval" / directory,
        identity=hashlib.sha256(identity.encode()).hexdigest(),
        load=embedder("online"),
        tokenize=functools.partial(tokenizer.encode, max_tokens=config.model.text_tokens),
        load_momentum=embedder("momentum") if momentum else None,
    )
    return subject, config.model.image_size


def _choose_datasets(config: ConfigDict, chosen: Sequence[str]) -> dict[str, str]:
    """Name in tables -> split."""
    known = dict(config.data.evaluation)
    if not chosen and not known:
        raise InputError("config.data.evaluation names no dataset; give --datasets=SPLIT")
    return {
        re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_"): known.get(name, name)
        for name in chosen or known
    }


def _datasets(names: Mapping[str, str], image_size: int) -> list[Dataset]:
    from oner_jax.data.pipeline import evaluation_set
    from oner_jax.data.records import open_split

    return [
        Dataset(
            name=name,
            content_hash=open_split(split).content_hash,
            load=functools.partial(evaluation_set, split, image_size=image_size),
        )
        for name, split in names.items()
    ]


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path; the whole path where that is not unique."""
    last = [folder.name for folder in folders]
    return [
        name if last.count(name) == 1 and name != UNTRAINED else str(folder)
        for name, folder in zip(last, folders, strict=True)
    ]


def read_pictures(split: str, indices: Sequence[int]) -> dict[int, "Image"]:
    """Pictures of a split as they are stored, transparency on white."""
    from PIL import Image

    from oner_jax.data.records import Record, open_split

    pictures = {}
    for index, serialised in zip(indices, open_split(split).read(indices), strict=True):
        stored = Image.open(io.BytesIO(Record.parse(serialised).image)).convert("RGBA")
        white = Image.new("RGBA", stored.size, "white")
        pictures[index] = Image.alpha_composite(white, stored).convert("RGB")
    return pictures


def _announce(text: str) -> Progress:
    """A progress bar on a terminal; elsewhere a line now and then, with the time left."""
    started = printed = time.monotonic()
    bar = tqdm(desc=text, unit="row", dynamic_ncols=True) if sys.stderr.isatty() else None
    if bar is None:
        print(text, flush=True)

    def progress(done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if bar is not None:
            bar.total = total
            bar.update(done - bar.n)
            if done == total:
                bar.close()
        elif now - printed > LINE_SECONDS:
            printed = now
            left = tqdm.format_interval((now - started) / done * (total - done))
            print(f"  {done}/{total} rows, {left} left", flush=True)

    return progress


def main(_: Sequence[str]) -> None:
    """Evaluate as the flags say; print the table and where the report is."""
    columns, report = evaluate(
        Path(WORKDIR.value),
        step=STEP.value,
        datasets=DATASETS.value,
        compare=[Path(folder) for folder in COMPARE.value],
        templates=TEMPLATES.value,
        force=FORCE.value,
        command=" ".join(["python -m oner_jax.evaluate", *sys.argv[1:]]),
    )
    print(text_table(columns))
    print(f"report: {report}")


if __name__ == "__main__":
    run_program(main)
