"""Many checkpoints at one glance: a table as CSV and Markdown, a page with curves over steps."""

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape

from etils import epath

from oner_jax.evals.engine.differences import HEADER, Difference, difference_rows
from oner_jax.evals.engine.suite import Origin
from oner_jax.evals.engine.table import (
    FEW_MARK,
    LOWER_MARK,
    Column,
    by_label,
    markdown,
    metric_rows,
)
from oner_jax.evals.inputs.features import PRIMARY
from oner_jax.evals.metrics.measurement import Measurement, format_value
from oner_jax.evals.report import figures, wording
from oner_jax.evals.report import html as page
from oner_jax.evals.tasks import metric_wording
from oner_jax.files import write_whole

# Metrics whose curves are drawn, by task: the names' ends.
CURVES: Mapping[str, tuple[str, ...]] = {
    "retrieval": ("text_R@1", "image_R@1"),
    "zeroshot": ("top1",),
    "probe": ("top1",),
    "knn": ("knn_20",),
    "few_shot": ("shots_8",),
    "transfer": ("image_to_text", "text_to_image"),
    "geometry": ("centroid_distance", "modality_classifier"),
    "localisation": ("pointing", "which_object"),
    "reasoning": ("name_flip",),
    "multimodal": ("joint_R@10",),
    "robustness": ("_corrupted",),
}

OPEN_TASKS = ("retrieval", "zeroshot")  # the others' numbers are folded on the page

NO_COLUMN = -1  # of many checkpoints none stands out

CSV_HEADER = (
    *("run", "step", "dataset", "task", "metric", "space", "value", "low", "high", "chance"),
    *("cases", "fraction"),
)


@dataclasses.dataclass(frozen=True)
class Overview:
    """Everything that the tables of a sweep are made of.

    `compared` are differences of columns to others, by what is subtracted from what. `notes`
    say which datasets were not there, and of how many texts the ends were not read; `reports` are
    pages with pictures, by run.
    """

    columns: Sequence[Column]
    compared: Mapping[str, Sequence[Difference]]
    notes: Sequence[str]
    reports: Mapping[str, str]
    origin: Origin

    def write(self, folder: epath.Path, page_name: str = "index.html") -> epath.Path:
        """Write `table.csv`, `table.md` and the page; returns the page's path."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "table.csv", self._csv())
        write_whole(folder / "table.md", self._markdown())
        path = folder / page_name
        body = "\n".join(
            [self._head(), *self._reports(), *self._curves(), *self._tables(), self._foot()]
        )
        write_whole(path, page.document("OneR: checkpoints", body))
        return path

    def _csv(self) -> str:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(CSV_HEADER)
        for column in self.columns:
            for dataset, cells in column.cells.items():
                for task, cell in cells.items():
                    for space in cell.content.get("measurements", {}):
                        for name, one in cell.measurements(space).items():
                            place = (column.run, column.step, dataset, task, name, space)
                            numbers = (one.value, *one.interval, one.chance)
                            shown = ("" if math.isnan(x) else f"{x:.6g}" for x in numbers)
                            table.writerow((*place, *shown, one.cases, int(one.fraction)))
        return text.getvalue()

    def _markdown(self) -> str:
        parts = []
        for dataset, lines in self._by_dataset():
            parts.append(f"## {dataset}\n\n{markdown(lines)}")
        for title, found in self.compared.items():
            parts.append(f"## {title}\n\n{markdown([HEADER, *difference_rows(found)])}")
        parts += [f"- {line}\n" for line in self.notes]
        return "\n".join(parts)

    def _by_dataset(self) -> Iterator[tuple[str, list[list[str]]]]:
        """The lines of each dataset's table, every number with its interval."""
        labels = [column.label for column in self.columns]
        by_dataset: dict[str, list[list[str]]] = {}
        for metric, measured in metric_rows(by_label(self.columns)):
            task, dataset, name = metric.split("/")
            first = next(iter(measured.values()))
            line = [f"{task}/{name}", format_value(first.chance, first.fraction)]
            line += [_with_interval(measured.get(label)) for label in labels]
            by_dataset.setdefault(dataset, [["metric", "chance", *labels]]).append(line)
        yield from by_dataset.items()

    def _head(self) -> str:
        notes = "".join(f'<p class="muted">{escape(line)}</p>' for line in self.notes)
        return (
            '<header><p class="kicker">OneR · evaluation</p><h1>Checkpoints</h1>'
            f'<p class="lead">{escape(wording.OVERVIEW)}</p></header>{notes}'
        )

    def _reports(self) -> Iterator[str]:
        if self.reports:
            links = ", ".join(
                f'<a href="{escape(path)}">{escape(run)}</a>' for run, path in self.reports.items()
            )
            yield f"<p>With pictures, the last of these checkpoints of each run: {links}.</p>"

    def _curves(self) -> Iterator[str]:
        """A panel for each metric that some run has at two steps or more."""
        panels: dict[str, list[str]] = {}
        lines = self._lines()
        for metric, by_run in lines.items():
            if max(len(points) for points in by_run.values()) < 2:
                continue
            dataset = metric.split("/")[1]
            title = metric_wording.wording_of(metric).title
            draw = partial(figures.curves_by_run, title=title, lines=by_run)
            renderings = {theme.name: figures.render(draw(theme)) for theme in figures.THEMES}
            description = f"{metric} over training steps"
            panels.setdefault(dataset, []).append(page.figure(renderings, description))
        for dataset, own in panels.items():
            yield f"<h2>{escape(dataset)}: over training</h2>{page.grid(own)}"

    def _lines(self) -> dict[str, dict[str, list[tuple[int, Measurement]]]]:
        """Metric -> run -> (step, measurement), ascending."""
        lines: dict[str, dict[str, list[tuple[int, Measurement]]]] = {}
        for column in sorted(self.columns, key=lambda column: column.step):
            for dataset, cells in column.cells.items():
                for task, cell in cells.items():
                    for name, one in cell.measurements(PRIMARY).items():
                        if name.endswith(CURVES.get(task, ())) and not math.isnan(one.value):
                            points = lines.setdefault(f"{task}/{dataset}/{name}", {})
                            points.setdefault(column.run, []).append((column.step, one))
        return lines

    def _tables(self) -> Iterator[str]:
        labels = [column.label for column in self.columns]
        by_dataset: dict[str, tuple[list[list[str]], list[list[str]]]] = {}
        for metric, measured in metric_rows(by_label(self.columns)):
            task, dataset, _ = metric.split("/")
            open_rows, folded_rows = by_dataset.setdefault(dataset, ([], []))
            rows = open_rows if task in OPEN_TASKS else folded_rows
            rows.append(_page_row(metric, measured, labels))
        for dataset, both in by_dataset.items():
            shown, others = (
                page.table(["", "chance", *labels], rows, own=NO_COLUMN, kind="explained")
                if rows
                else ""
                for rows in both
            )
            folded = page.folded(f"{dataset}: other tasks", others) if others and shown else others
            yield f"<h2>{escape(dataset)}</h2>{shown}{folded}"
        for title, found in self.compared.items():
            differing = [[escape(text) for text in row] for row in difference_rows(found)]
            yield (
                f"<h2>{escape(title)}</h2><p>{escape(wording.DIFFERENCES)}</p>"
                f"{page.table(HEADER, differing, own=3)}"
            )

    def _foot(self) -> str:
        return (
            f"<footer><p>Made by <code>{escape(self.origin.command)}</code> from source revision "
            f"<code>{escape(self.origin.revision[:12])}</code>. The same as <code>table.csv</code> "
            "and <code>table.md</code>; <code>eval/</code> has a file for each cell.</p></footer>"
        )


def _page_row(metric: str, measured: Mapping[str, Measurement], labels: Sequence[str]) -> list[str]:
    """Return a row of the page's table: plain name, chance, every checkpoint, the best marked."""
    words = metric_wording.wording_of(metric)
    first = next(iter(measured.values()))
    best = best_of(metric, {label: measured[label] for label in labels if label in measured})
    lower = f" {LOWER_MARK}" if metric_wording.better(metric) == metric_wording.LOWER else ""
    name = f'<span class="name">{escape(words.title)}{lower}</span><small>{escape(metric)}</small>'
    cells = []
    for label in labels:
        shown = escape(_with_interval(measured.get(label)))
        cells.append(f'<strong class="best">{shown}</strong>' if label in best else shown)
    return [name, format_value(first.chance, first.fraction), *cells]


def best_of(metric: str, measured: Mapping[str, Measurement]) -> set[str]:
    """Return the labels of the best value; none where no direction is better, or there is one."""
    better = metric_wording.better(metric)
    values = {label: one.value for label, one in measured.items() if not math.isnan(one.value)}
    if better == metric_wording.NEITHER or len(values) < 2:
        return set()
    best = (max if better == metric_wording.HIGHER else min)(values.values())
    found = {label for label, value in values.items() if value == best}
    return found if len(found) < len(values) else set()


def _with_interval(measurement: Measurement | None) -> str:
    if measurement is None:
        return ""
    few = FEW_MARK if measurement.few else ""
    value = format_value(measurement.value, measurement.fraction) + few
    low, high = measurement.interval
    if math.isnan(low):
        return value
    scale, digits = (100, 1) if measurement.fraction else (1, 3)
    return f"{value} ({scale * low:.{digits}f}–{scale * high:.{digits}f})"
