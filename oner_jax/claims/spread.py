"""Mean and spread over seeds of everything that a sweep measured, as CSV and as Markdown.

A sweep's folder holds one run per trial and seed, `TRIAL/seed-N/`, each evaluated as
`oner_jax.evaluate` leaves it.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from oner_jax.evals.inputs.features import PRIMARY
from oner_jax.evals.metrics.measurement import Measurement, format_value
from oner_jax.evals.report.training_history import History


@dataclasses.dataclass(frozen=True)
class Spread:
    """One metric of one trial over its seeds, in the order of `seeds`; nan where not measured."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    chance: float
    fraction: bool

    @property
    def measured(self) -> list[float]:
        return [value for value in self.values if not math.isnan(value)]

    @property
    def number(self) -> int:
        """Of seeds that have a value."""
        return len(self.measured)

    @property
    def mean(self) -> float:
        return float(np.mean(self.measured)) if self.measured else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1 in the denominator); nan below two seeds."""
        return float(np.std(self.measured, ddof=1)) if self.number > 1 else math.nan

    def __str__(self) -> str:
        if not self.number:
            return ""
        scale, digits = (100, 1) if self.fraction else (1, 3)
        if self.number == 1:
            return f"{scale * self.mean:.{digits}f}"
        return f"{scale * self.mean:.{digits}f} ± {scale * self.deviation:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """What a sweep knows of one trial: `metrics` by (space, `task/dataset/name`)."""

    name: str
    label: str
    metrics: Mapping[tuple[str, str], Spread]
    tower_parameters: int
    parameters: int
    revisions: tuple[str, ...]
    devices: tuple[str, ...]

    def primary(self, metric: str) -> Spread | None:
        """The spread of a metric in the space that docs/method.md chooses in advance."""
        return self.metrics.get((PRIMARY, metric))


def run_folder(folder: Path, trial: str, seed: int) -> Path:
    """Where a sweep keeps one run."""
    return folder / trial / f"seed-{seed}"


def read_rows(folder: Path, labels: Mapping[str, str], seeds: Sequence[int]) -> list[Row]:
    """One row for each trial (name -> label) of which at least one seed was measured."""
    rows = []
    for name, label in labels.items():
        workdirs = [run_folder(folder, name, seed) for seed in seeds]
        found = [measurements(workdir) for workdir in workdirs]
        if not any(found):
            continue
        histories = [
            History.read(workdir, step=0)
            for workdir, own in zip(workdirs, found, strict=True)
            if own
        ]
        keys = dict.fromkeys(key for own in found for key in own)
        rows.append(
            Row(
                name,
                label,
                {key: _spread(key, found, seeds) for key in keys},
                tower_parameters=_tower_parameters(histories[0]),
                parameters=histories[0].parameters("backbone/"),
                revisions=_distinct(histories, "revision"),
                devices=_distinct(histories, "device_kind"),
            )
        )
    return rows


def _tower_parameters(history: History) -> int:
    """Of all transformers (`backbone/tower`, `backbone/text_tower`, ...), without embeddings."""
    parts = {name.split("/")[1] for name in history.manifest["parameters"] if "/" in name}
    towers = [part for part in parts if part.endswith("tower")]
    return sum(history.parameters(f"backbone/{part}/") for part in towers)


def _distinct(histories: Sequence[History], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(history.manifest.get(key)) for history in histories))


def measurements(workdir: Path) -> dict[tuple[str, str], Measurement]:
    """Everything measured at the last evaluated step of a run, by space and `task/dataset/name`."""
    steps = sorted(
        int(path.name.removeprefix("step-"))
        for path in (workdir / "eval").glob("step-*")
        if any(path.glob("*/*.json"))
    )
    found = {}
    for path in sorted((workdir / f"eval/step-{steps[-1]}").glob("*/*.json") if steps else []):
        content = json.loads(path.read_text())
        for space, measured in content.get("measurements", {}).items():
            for name, stored in measured.items():
                metric = f"{content['task']}/{content['dataset']}/{name}"
                found[space, metric] = Measurement.from_json(stored)
    return found


def _spread(
    key: tuple[str, str],
    found: Sequence[Mapping[tuple[str, str], Measurement]],
    seeds: Sequence[int],
) -> Spread:
    own = [measured.get(key) for measured in found]
    there = [measurement for measurement in own if measurement is not None]
    return Spread(
        seeds=tuple(seeds),
        values=tuple(math.nan if one is None else one.value for one in own),
        chance=float(np.mean([measurement.chance for measurement in there])),
        fraction=there[0].fraction,
    )


def csv_table(rows: Sequence[Row]) -> str:
    """One line for each trial, space and metric, with the value of every seed."""
    text = io.StringIO()
    seeds = next((spread.seeds for row in rows for spread in row.metrics.values()), ())
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["trial", "label", "tower_parameters", "parameters", "space", "metric", "chance", "n"]
        + ["mean", "standard_deviation"]
        + [f"seed_{seed}" for seed in seeds]
    )
    for row in rows:
        for (space, metric), spread in row.metrics.items():
            numbers = [spread.mean, spread.deviation, *spread.values]
            table.writerow(
                [row.name, row.label, row.tower_parameters, row.parameters, space, metric]
                + [f"{spread.chance:.6g}", spread.number]
                + ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
            )
    return text.getvalue()


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """One line for each trial; `columns` are metrics with their headings.

    Mean ± standard deviation over seeds, fractions in per cent. Chance is the first line.
    """
    header = ["arm", "parameters (towers)", "seeds", *columns.values()]
    chance = ["*chance*", "", "", *(_chance(rows, metric) for metric in columns)]
    lines = [header, ["---"] * len(header), chance]
    for row in rows:
        spreads = [row.primary(metric) for metric in columns]
        number = max((spread.number for spread in spreads if spread), default=0)
        size = f"{row.parameters:,} ({row.tower_parameters:,})"
        lines.append([row.label, size, str(number), *(str(spread or "") for spread in spreads)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def origin_table(rows: Sequence[Row], commands: Mapping[str, str]) -> str:
    """Markdown: how each row was made. `commands` are by trial, with `N` for the seed."""
    lines = [["arm", "command", "seeds", "revision", "device"], ["---"] * 5]
    for row in rows:
        spread = next(iter(row.metrics.values()))
        seeds = [
            str(seed)
            for seed, value in zip(spread.seeds, spread.values, strict=True)
            if not math.isnan(value)
        ]
        made_by = [", ".join(r[:10] for r in row.revisions), ", ".join(row.devices)]
        lines.append([row.label, f"`{commands[row.name]}`", ", ".join(seeds), *made_by])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _chance(rows: Sequence[Row], metric: str) -> str:
    spreads = [spread for row in rows if (spread := row.primary(metric))]
    return format_value(spreads[0].chance, spreads[0].fraction) if spreads else ""
