"""All measurements of an evaluation as one plain table."""

import dataclasses
from collections.abc import Mapping, Sequence

from oner_jax.evals.engine.suite import Cell
from oner_jax.evals.inputs.features import PRIMARY
from oner_jax.evals.metrics.measurement import FEWEST_CASES, Measurement, format_ratio, format_value
from oner_jax.evals.tasks import metric_wording
from oner_jax.evals.tasks.catalogue import TASKS

Cells = Mapping[str, Mapping[str, Cell]]  # by dataset and task
Columns = Mapping[str, Cells]  # by label, the run itself first


@dataclasses.dataclass(frozen=True)
class Column:
    """The cells of one checkpoint: of which run, and after how many steps (0: untrained)."""

    label: str
    run: str
    step: int
    cells: Cells


def by_label(columns: Sequence[Column]) -> Columns:
    """The cells alone."""
    return {column.label: column.cells for column in columns}


BESIDE = ("backbone", "momentum")  # other features of the same run
BESIDE_TITLES = {"backbone": "its backbone", "momentum": "its momentum"}

LOWER_MARK, FEW_MARK = "↓", "?"


def metric_rows(columns: Columns) -> list[tuple[str, dict[str, Measurement]]]:
    """One row per metric `task/dataset/name`: its measurement in every column that has it.

    `columns` are results by label, the run itself first; its other features follow under their own
    names ("backbone", "momentum").
    """
    run = next(iter(columns.values()))
    rows = []
    for dataset in dict.fromkeys(dataset for cells in columns.values() for dataset in cells):
        for task in TASKS:
            sources = {
                label: _find(cells, dataset, task, PRIMARY) for label, cells in columns.items()
            }
            names = dict.fromkeys(name for found in sources.values() for name in found)
            sources |= {space: _find(run, dataset, task, space) for space in BESIDE}
            for name in names:
                row = {label: found[name] for label, found in sources.items() if name in found}
                rows.append((f"{task}/{dataset}/{name}", row))
    return rows


def _find(cells: Cells, dataset: str, task: str, space: str) -> dict[str, Measurement]:
    cell = cells.get(dataset, {}).get(task)
    return cell.measurements(space) if cell else {}


def _is_printed(metric: str) -> bool:
    task, _, name = metric.split("/")
    return TASKS[task].printed(name)


def text_table(columns: Columns) -> str:
    """Return the table that `oner_jax.evaluate` prints, and below it what its marks mean.

    Its columns are chance, the run, its ratio to chance, its other features, then other runs.
    """
    own, *others = columns
    others = [*BESIDE, *others]
    rows = [row for row in metric_rows(columns) if _is_printed(row[0])]
    names = [BESIDE_TITLES.get(label, label) for label in others]
    header = ["metric", "chance", own, "× chance", *names]
    lines: list[Sequence[str]] = [header]
    dataset = None
    for name, measured in rows:
        if dataset is not None and name.split("/")[1] != dataset:
            lines.append([""] * len(header))
        dataset = name.split("/")[1]
        main = measured[own]
        value = format_value(main.value, main.fraction) + (FEW_MARK if main.few else "")
        cells = [format_value(main.chance, main.fraction), value]
        ratio = shown_ratio(name, main)
        beside = [
            format_value(measured[label].value, measured[label].fraction)
            if label in measured
            else ""
            for label in others
        ]
        lines.append([name, *cells, ratio, *beside])
    return "\n".join([aligned(lines), *_marks(lines)])


def shown_ratio(metric: str, measured: Measurement) -> str:
    """Return how many times chance a metric is where higher is better; a mark where lower is."""
    better = metric_wording.better(metric)
    if better == metric_wording.HIGHER:
        return format_ratio(measured.ratio)
    return LOWER_MARK if better == metric_wording.LOWER else ""


def _marks(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each mark that these rows use."""
    used = [cell for line in lines for cell in line[1:]]
    explained = []
    if LOWER_MARK in used:
        explained.append(f"{LOWER_MARK}  lower is better")
    if any(cell.endswith(FEW_MARK) for cell in used):
        explained.append(f"{FEW_MARK}  fewer than {FEWEST_CASES} cases: too few to judge")
    return ["", *explained] if explained else []


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows as plain text, the first column to the left and the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Rows, the header first, as a Markdown table."""
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled) + "\n"
