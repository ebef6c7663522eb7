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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from oner_jax.evals.features import Corpus, EmbedsViews, Examples, RowsDone, Space, encode
from oner_jax.evals.measurement import Measurement
from oner_jax.evals.tasks import TASKS
from oner_jax.evals.templates import template_set

CELL_FORMAT = 3  # raise it when a task measures something else than before


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
    """A dataset by its name in tables; `content_hash` tells whether its records changed."""

    name: str
    content_hash: str
    load: Callable[[], Examples]


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
    force: bool = False,
    announce: Callable[[str], RowsDone] = lambda text: lambda done, total: None,
) -> dict[str, dict[str, Cell]]:
    """Every cell of one set of weights, by dataset and task; makes those that are missing.

    `announce` is called with what is about to be encoded and returns the progress callback for it.
    """
    return {
        dataset.name: _evaluate_dataset(subject, dataset, templates, force, announce)
        for dataset in datasets
    }


def _evaluate_dataset(
    subject: Subject,
    dataset: Dataset,
    templates: str,
    force: bool,
    announce: Callable[[str], RowsDone],
) -> dict[str, Cell]:
    fingerprint = _fingerprint(subject, dataset, templates)
    paths = {task: subject.directory / dataset.name / f"{task}.json" for task in TASKS}
    stored = {} if force else {task: _read(path, fingerprint) for task, path in paths.items()}
    missing = [task for task in TASKS if stored.get(task) is None]
    if missing:
        examples = dataset.load()
        corpus = Corpus.of(examples)
        spaces = _encode(subject, dataset, examples, corpus, templates, announce)
        for task in missing:
            content = {
                "fingerprint": fingerprint,
                "dataset": dataset.name,
                "weights": subject.label,
                "task": task,
                "pictures": len(corpus.main_captions),
                "captions": len(corpus.gallery.texts),
                **TASKS[task](corpus, spaces),
            }
            write_whole(paths[task], json.dumps(content).encode() + b"\n")
            stored[task] = content
    return {task: Cell(task, dataset.name, stored[task] or {}) for task in TASKS}


def _encode(
    subject: Subject,
    dataset: Dataset,
    examples: Examples,
    corpus: Corpus,
    templates: str,
    announce: Callable[[str], RowsDone],
) -> Mapping[str, Space]:
    prompts = template_set(templates)
    spaces = encode(
        examples,
        corpus,
        subject.load(),
        subject.tokenize,
        prompts,
        joint=True,
        progress=announce(f"{dataset.name}: encoding with {subject.label}"),
    )
    if subject.load_momentum is not None:
        twin = encode(
            examples,
            corpus,
            subject.load_momentum(),
            subject.tokenize,
            prompts,
            joint=False,
            progress=announce(f"{dataset.name}: encoding with {subject.label}, momentum weights"),
        )
        spaces["momentum"] = twin["projected"]
    return spaces


def _fingerprint(subject: Subject, dataset: Dataset, templates: str) -> str:
    made_from = [
        CELL_FORMAT,
        subject.identity,
        dataset.content_hash,
        template_set(templates),
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
