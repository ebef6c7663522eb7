"""What a workdir tells about how its model was trained, for the report."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath


@dataclasses.dataclass(frozen=True)
class History:
    """The files of a run up to one step. A file that is not there reads as empty."""

    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    metrics: list[dict[str, Any]]

    @classmethod
    def read(cls, workdir: epath.PathLike, step: int) -> "History":
        """The history behind the checkpoint of `step`."""
        workdir = epath.Path(workdir)
        lines = _text(workdir / "metrics.jsonl").splitlines()
        rows = [row for row in map(_object, lines) if 0 < row.get("step", 0) <= step]
        return cls(
            config=_object(_text(workdir / "config.json")),
            manifest=_object(_text(workdir / "manifest.json")),
            metrics=rows,
        )

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of one metric, where it was logged as a finite number."""
        found = [
            (float(row["step"]), float(row[name]))
            for row in self.metrics
            if isinstance(row.get(name), int | float) and math.isfinite(row[name])
        ]
        return [step for step, _ in found], [value for _, value in found]

    @property
    def last(self) -> Mapping[str, Any]:
        """The last logged row."""
        return self.metrics[-1] if self.metrics else {}

    @property
    def training_seconds(self) -> float:
        """Time spent in training steps: examples over the logged rate, summed over log steps."""
        seconds, before = 0.0, 0.0
        for row in self.metrics:
            examples, rate = row.get("examples_seen", before), row.get("pairs_per_sec", 0.0)
            if rate > 0:
                seconds += (examples - before) / rate
            before = examples
        return seconds

    @property
    def pairs_per_second(self) -> float:
        """Mean throughput over the run; nan if it was not logged."""
        seconds = self.training_seconds
        return float(self.last.get("examples_seen", 0)) / seconds if seconds else math.nan

    @property
    def epochs(self) -> float:
        """Examples seen over examples there are; nan if the manifest does not tell."""
        records = self.manifest.get("data", {}).get("records", 0)
        return float(self.last.get("examples_seen", 0)) / records if records else math.nan

    def parameters(self, prefix: str = "") -> int:
        """Number of parameters whose name begins with `prefix`."""
        table = self.manifest.get("parameters", {})
        return sum(math.prod(shape) for name, shape in table.items() if name.startswith(prefix))


def _text(path: epath.Path) -> str:
    return path.read_text() if path.exists() else ""


def _object(text: str) -> dict[str, Any]:
    """The JSON object in `text`; empty for anything else, such as a line cut short by a kill."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
