"""What an evaluation writes for people to read: the report with pictures, and the overview."""

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from oner_jax.evals.engine.evaluation import Request, Results
from oner_jax.evals.engine.suite import slug
from oner_jax.evals.engine.table import Column, by_label
from oner_jax.evals.report import wording
from oner_jax.evals.report.overview import Overview
from oner_jax.evals.report.run_report import Report
from oner_jax.evals.report.training_history import History

if TYPE_CHECKING:
    from PIL.Image import Image


def write(request: Request, results: Results) -> list[epath.Path]:
    """Write the pages that the request asks for; their paths, the most important one first.

    The report with pictures of the last checkpoint of each run, where all tasks were done that it
    shows; the overview, with its tables beside it, where there are several checkpoints or `--out`.
    """
    out = request.out_folder
    folder = out or request.folders[0] / "report"
    overview_path: epath.Path | None = None
    if out is not None or len(results.own) + len(results.others) > 1:
        overview_path = folder / ("checkpoints.html" if out is None else "index.html")
    reports = {}
    if request.reported:
        last = {column.run: column for column in results.own}  # in ascending order of steps
        reports = {
            run: _report(request, results, column, overview_path) for run, column in last.items()
        }
    pages = list(reports.values())
    if overview_path is not None:
        overview = Overview(
            columns=results.columns,
            compared=results.compared,
            notes=results.notes,
            reports={run: os.path.relpath(path, folder) for run, path in reports.items()},
            origin=results.origin,
        )
        pages.insert(0, overview.write(folder, overview_path.name))
    return pages


def _report(
    request: Request, results: Results, column: Column, overview: epath.Path | None
) -> epath.Path:
    """The report of one checkpoint, beside the beginning of its run and the compared ones."""
    checkpoint = results.checkpoints[column.label]
    out = request.out_folder
    beside = [other for other in results.beginnings if other.run == column.run] + results.others
    directory = checkpoint.workdir / "report" if out is None else out / "report" / slug(column.run)
    report = Report(
        directory=directory,
        overview=None if overview is None else os.path.relpath(overview, directory),
        step=column.step,
        columns=by_label([column, *beside]),
        history=History.read(checkpoint.workdir, column.step),
        pictures=functools.partial(_pictures, results),
        cut_outs=functools.partial(_cut_outs, results),
        descriptions={
            name: wording.DATASETS[place.split]
            for name, place in results.places.items()
            if place.split in wording.DATASETS
        },
        compared={
            title: found
            for title, found in results.compared.items()
            if title.startswith(f"{column.label} less ")
        },
        command=request.command,
    )
    return report.write()


def _pictures(results: Results, dataset: str, indices: Sequence[int]) -> "dict[int, Image]":
    return results.places[dataset].pictures(indices)


def _cut_outs(
    results: Results, dataset: str, indices: Sequence[int], side: int
) -> dict[int, np.ndarray]:
    return results.places[dataset].cut_outs(indices, side)
