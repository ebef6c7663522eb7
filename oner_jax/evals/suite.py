"""Checkpoints x datasets x tasks -> one JSON each in `eval/`; finished cells are not made again.

    eval/step-600/val/retrieval.json        eval/untrained/val/geometry.json

A cell carries the fingerprint of what it was made from. A cell with another fingerprint (the
dataset was ingested again, other templates were asked for, the run was repeated with another
config) counts as not finished.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from oner_jax.evals.features import EmbedsViews, Examples, RowsDone
from oner_jax.evals.material import Material
from oner_jax.evals.measurement import Measurement, absent
from oner_jax.evals.scenes import BoxedPictures
from oner_jax.evals.tasks import TASKS, Task
from oner_jax.evals.templates import prompt_template, template_set

CELL_FORMAT = 5  # raise it when a task measures something else than before


@dataclasses.dataclass(frozen=True)
class Subject:
    """One set of weights to evaluate. Nothing is loaded before a cell needs it.

    `label` is the name in tables, `directory` that of its cells: the workdir's `eval/` and the
    checkpoint. `identity` changes when the weights may have changed. `load` gives the embedder of
    the online weights, `load_momentum` that of the momentum twin, where it is to be shown beside.
    """

    label: str
    directory: Path
    identity: str
    load: Callable[[], EmbedsViews]
    tokenize: Callable[[Sequence[str]], Int32[np.ndarray, "n tokens"]]
    load_momentum: Callable[[], EmbedsViews] | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset by its name in tables; `content_hash` tells whether it changed.

    It has examples, or else pictures with boxes, on which only some tasks can be done.
    """

    name: str
    content_hash: str
    load: Callable[[], Examples] | None = None
    load_boxed: Callable[[], BoxedPictures] | None = None

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that are done on it."""
        return [name for name, task in TASKS.items() if self.load is not None or task.boxes]


@dataclasses.dataclass(frozen=True)
class Cell:
    """The finished result of one task: what its JSON file holds."""

    task: str
    dataset: str
    content: dict[str, Any]

    def measurements(self, space: str) -> dict[str, Measurement]:
        """The measurements of one space by their name in the task; empty where there are none."""
        stored = self.content.get("measurements", {}).get(space, {})
        return {name: Measurement.from_json(value) for name, value in stored.items()}


def evaluate_subject(
    subject: Subject,
    datasets: Sequence[Dataset],
    *,
    templates: str,
    tasks: Sequence[str] = tuple(TASKS),
    force: bool = False,
    announce: Callable[[str], RowsDone] = lambda text: lambda done, total: None,
) -> dict[str, dict[str, Cell]]:
    """The cells of one set of weights, by dataset and task; makes those that are missing.

    `tasks` are names from `TASKS`. `announce` is called with what is about to be encoded, and
    returns the progress callback for it.
    """
    return {
        dataset.name: _evaluate_dataset(subject, dataset, templates, tasks, force, announce)
        for dataset in datasets
    }


def _evaluate_dataset(
    subject: Subject,
    dataset: Dataset,
    templates: str,
    tasks: Sequence[str],
    force: bool,
    announce: Callable[[str], RowsDone],
) -> dict[str, Cell]:
    fingerprint = _fingerprint(subject, dataset, templates)
    chosen = [task for task in dataset.tasks if task in tasks]
    paths = {task: subject.directory / dataset.name / f"{task}.json" for task in chosen}
    stored = {} if force else {task: _read(path, fingerprint) for task, path in paths.items()}
    missing = [task for task in chosen if stored.get(task) is None]
    if missing:
        material = _material(subject, dataset, templates, announce)
        pictures, captions = material.size
        for task in missing:
            content = {
                "fingerprint": fingerprint,
                "dataset": dataset.name,
                "weights": subject.label,
                "task": task,
                "pictures": pictures,
                "captions": captions,
                **_measure(TASKS[task], material),
            }
            text = json.dumps(content)
            write_whole(paths[task], text.encode() + b"\n")
            stored[task] = json.loads(text)  # the same whether made now or read
    return {task: Cell(task, dataset.name, stored[task] or {}) for task in chosen}


def _material(
    subject: Subject, dataset: Dataset, templates: str, announce: Callable[[str], RowsDone]
) -> Material:
    return Material(
        load_examples=dataset.load,
        load_boxed=dataset.load_boxed,
        load_model=subject.load,
        load_momentum=subject.load_momentum,
        tokenize=subject.tokenize,
        templates=templates,
        announce=lambda what: announce(f"{dataset.name}: {what} with {subject.label}"),
    )


def _measure(task: Task, material: Material) -> dict[str, Any]:
    lacking = task.needs - material.model.views
    if lacking:
        return absent(f"this architecture has no view {', '.join(sorted(lacking))}")
    return task.measure(material)


def _fingerprint(subject: Subject, dataset: Dataset, templates: str) -> str:
    made_from = [
        CELL_FORMAT,
        subject.identity,
        dataset.content_hash,
        template_set(templates),
        prompt_template(templates),
    ]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def _read(path: Path, fingerprint: str) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):  # not made yet, or not by this program
        return None
    return content if content.get("fingerprint") == fingerprint else None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of `eval/` or `report/` under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)
