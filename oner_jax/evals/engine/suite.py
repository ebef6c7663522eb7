"""Checkpoints x datasets x tasks -> one JSON each in `eval/`; finished cells are not made again.

    eval/step-600/val/retrieval.json        eval/untrained/val/geometry.json

A cell carries the fingerprint of what it was made from. A cell with another fingerprint (the
dataset was ingested again, other templates were asked for, the run was repeated with another
config) counts as not finished. Beside it `retrieval.npz` has every number in all bootstrap
resamples, from which two models are compared. Only the cell's "time" depends on when it was made.

Of several processes all take part, in the same order; the first one reads and writes the files.
"""

import dataclasses
import datetime
import hashlib
import io
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from oner_jax.evals.inputs.features import Cut, EmbedsViews, Examples, RowsDone, Tokenize
from oner_jax.evals.inputs.scenes import BoxedPictures
from oner_jax.evals.inputs.task_inputs import Material
from oner_jax.evals.inputs.templates import prompt_template, template_set
from oner_jax.evals.metrics.measurement import Measurement, Resampled, absent
from oner_jax.evals.tasks.catalogue import TASK_SETS, TASKS, Task
from oner_jax.files import write_whole
from oner_jax.parallel import distributed

CELL_FORMAT = 7  # raise it when a task measures something else than before

_asked = itertools.count()  # how often process 0 was asked what is missing


@dataclasses.dataclass(frozen=True)
class Origin:
    """Who makes a cell: the command, and the revision of the source."""

    command: str = ""
    revision: str = ""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One set of weights to evaluate. Nothing is loaded before a cell needs it.

    `label` is the name in tables, `directory` that of its cells: the workdir's `eval/` and the
    checkpoint. `identity` changes when the weights may have changed. `load` gives the embedder of
    the online weights, `load_momentum` that of the momentum twin, where it is to be shown beside.
    `cut` says which texts are longer than the model reads.
    Weights that are not `there` any more are shown as far as they were measured.
    """

    label: str
    directory: epath.PathLike
    identity: str
    load: Callable[[], EmbedsViews]
    tokenize: Tokenize
    cut: Cut
    load_momentum: Callable[[], EmbedsViews] | None = None
    there: bool = True


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset by its name in tables; `content_hash` tells whether it changed.

    It has examples, or else pictures with boxes, on which only some tasks can be done.
    `load_boxed` takes the side in pixels. `load_training` gives the training split beside it,
    `templates` names the prompt templates of its zero-shot tasks.
    """

    name: str
    content_hash: str
    load: Callable[[], Examples] | None = None
    load_boxed: Callable[[int], BoxedPictures] | None = None
    load_training: Callable[[], Examples] | None = None
    training_hash: str = ""
    templates: str = "names"

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that are done on it."""
        return [name for name, task in TASKS.items() if self.load is not None or task.boxes]


@dataclasses.dataclass(frozen=True)
class Cell:
    """The finished result of one task: what its JSON file at `path` holds."""

    task: str
    dataset: str
    content: dict[str, Any]
    path: epath.Path | None = dataclasses.field(default=None, compare=False)

    def measurements(self, space: str) -> dict[str, Measurement]:
        """The measurements of one space by their name in the task; empty where there are none."""
        stored = self.content.get("measurements", {}).get(space, {})
        return {name: Measurement.from_json(value) for name, value in stored.items()}

    def resampled(self, space: str) -> dict[str, Resampled]:
        """The bootstrap resamples of these measurements, as far as they were kept."""
        if self.path is None or not self.path.with_suffix(".npz").exists():
            return {}
        with np.load(io.BytesIO(self.path.with_suffix(".npz").read_bytes())) as kept:
            prefix = f"{space}/"
            return {
                name.removeprefix(prefix): kept[name]
                for name in kept.files
                if name.startswith(prefix)
            }


def evaluate_subject(
    subject: Subject,
    datasets: Sequence[Dataset],
    *,
    tasks: Sequence[str] = TASK_SETS["standard"],
    force: bool = False,
    origin: Origin = Origin(),
    announce: Callable[[str], RowsDone] = lambda text: lambda done, total: None,
    patches_per_side: int = 0,
) -> dict[str, dict[str, Cell]]:
    """The cells of one set of weights, by dataset and task; makes those that are missing.

    `tasks` are names from `TASKS`. `announce` is called with what is about to be encoded, and
    returns the progress callback for it. Things are localised on `patches_per_side` patches (0:
    the default).
    """
    return {
        dataset.name: _evaluate_dataset(
            subject, dataset, tasks, force, origin, announce, patches_per_side
        )
        for dataset in datasets
    }


def _evaluate_dataset(
    subject: Subject,
    dataset: Dataset,
    tasks: Sequence[str],
    force: bool,
    origin: Origin,
    announce: Callable[[str], RowsDone],
    patches_per_side: int,
) -> dict[str, Cell]:
    chosen = [task for task in dataset.tasks if task in tasks]
    fingerprints = {
        task: _fingerprint(subject, dataset, patches_per_side if TASKS[task].boxes else 0)
        for task in chosen
    }
    folder = epath.Path(subject.directory) / dataset.name
    paths = {task: folder / f"{task}.json" for task in chosen}
    stored = (
        {} if force else {task: _read(path, fingerprints[task]) for task, path in paths.items()}
    )
    # Processes may see a shared file at different times: one says what there is.
    missing = distributed.from_main(
        f"missing cells {next(_asked)}",
        lambda: [task for task in chosen if stored.get(task) is None],
    )
    if not subject.there:
        chosen = [task for task in chosen if task not in missing]
    elif missing:
        material = _material(subject, dataset, announce, patches_per_side)
        pictures, captions = material.size
        for task in missing:
            started = time.monotonic()
            content = {
                "fingerprint": fingerprints[task],
                "dataset": dataset.name,
                "data_hash": dataset.content_hash,
                "weights": subject.label,
                "task": task,
                **dataclasses.asdict(origin),
                "pictures": pictures,
                "captions": captions,
                "cut": material.cut_texts,
                **_measure(TASKS[task], material),
            }
            seconds = time.monotonic() - started
            stored[task] = _write_cell(paths[task], content, seconds)
    return {task: Cell(task, dataset.name, stored[task] or {}, paths[task]) for task in chosen}


def _write_cell(path: epath.Path, content: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Write the cell and its resamples; the cell as it will be read. Processes but one write none.

    Features that a task was the first to ask for count into its seconds.
    """
    spaces: Mapping[str, Mapping[str, Measurement]] = content.get("measurements", {})
    text = json.dumps(
        {
            **content,
            "measurements": {
                space: {name: measurement.to_json() for name, measurement in own.items()}
                for space, own in spaces.items()
            },
            "time": {
                "seconds": round(seconds, 3),
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
        }
    )
    if distributed.is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {
            f"{space}/{name}": measurement.resampled
            for space, own in spaces.items()
            for name, measurement in own.items()
            if measurement.resampled is not None
        }
        if kept:
            file = io.BytesIO()
            np.savez_compressed(file, allow_pickle=False, **kept)
            write_whole(path.with_suffix(".npz"), file.getvalue())
        write_whole(path, text + "\n")
    return json.loads(text)  # the same whether made now or read


def _material(
    subject: Subject,
    dataset: Dataset,
    announce: Callable[[str], RowsDone],
    patches_per_side: int,
) -> Material:
    return Material(
        load_examples=dataset.load,
        load_boxed=dataset.load_boxed,
        load_training=dataset.load_training,
        load_model=subject.load,
        load_momentum=subject.load_momentum,
        tokenize=subject.tokenize,
        cut=subject.cut,
        templates=dataset.templates,
        announce=lambda what: announce(f"{dataset.name}: {what} with {subject.label}"),
        patches_per_side=patches_per_side,
    )


def _measure(task: Task, material: Material) -> dict[str, Any]:
    lacking = task.needs - material.model.views
    if lacking:
        return absent(f"this architecture has no view {', '.join(sorted(lacking))}")
    return task.measure(material)


def _fingerprint(subject: Subject, dataset: Dataset, patches_per_side: int) -> str:
    made_from = [
        CELL_FORMAT,
        subject.identity,
        dataset.content_hash,
        dataset.training_hash,
        template_set(dataset.templates),
        prompt_template(dataset.templates),
        patches_per_side,
    ]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def _read(path: epath.Path, fingerprint: str) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):  # not made yet, or not by this program
        return None
    return content if content.get("fingerprint") == fingerprint else None


def slug(name: str) -> str:
    """A name as part of that of a file."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_") or "run"
