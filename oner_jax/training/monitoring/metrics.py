"""Metrics of a run: `metrics.jsonl`, TensorBoard through clu, and what a person sees."""

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from etils import epath
from tqdm import tqdm

from oner_jax.parallel.chips import Peak
from oner_jax.training.monitoring.goodput import Goodput
from oner_jax.training.monitoring.tensorboard import TensorBoard
from oner_jax.training.storage import Lines, writing

FILE = "metrics.jsonl"
ROLLED_BACK_FILE = "rolled_back.jsonl"

_BAR = "{percentage:3.0f}% {bar:8} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]{postfix}"
_BAR_COLUMNS = 48  # of all that, without the two numbers of steps and what follows


class MetricsLog:
    """Writes one object a log step; without a workdir, nothing. Use as a context manager.

    Continuing a run at `first_step` drops what a killed process logged beyond it, so that every
    step stands in the file once.
    """

    def __init__(self, workdir: epath.Path | None, *, first_step: int, total_steps: int):
        self._file: Lines | None = None
        self._tensorboard: TensorBoard | None = None
        self._workdir = workdir
        if workdir is not None:
            self._file = Lines(workdir / FILE, lines_up_to(workdir / FILE, first_step))
            with writing(workdir):
                self._tensorboard = TensorBoard(workdir, first_step)
        self._total_steps = total_steps
        self._bar: tqdm[NoReturn] | None = None
        self._began: float | None = None
        self._steps_since = 0

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._file:
            self._file.close()
        if self._tensorboard and self._workdir is not None:
            with writing(self._workdir):
                self._tensorboard.close()

    def begin(self, step: int) -> None:
        """Count time and steps for the rate and the time left from now, the end of `step`.

        Called when the step is compiled, which may take longer than all steps together.
        """
        self._began, self._steps_since = time.monotonic(), 0
        if self._file and sys.stderr.isatty():
            self._bar = tqdm(
                total=self._total_steps,
                initial=step,
                unit="step",
                dynamic_ncols=True,
                bar_format=_BAR,
            )

    def write(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Log `metrics` of the finished `step` (counted from 1)."""
        if self._file is None:
            return
        # JSON has no NaN and no infinity; a number that is not there says the same.
        finite = {name: v if math.isfinite(v) else None for name, v in metrics.items()}
        self._file.append(json.dumps({"step": step, **finite}, allow_nan=False))
        if self._tensorboard and self._workdir is not None:
            with writing(self._workdir):
                self._tensorboard.write(step, metrics)
        parts = {name.removeprefix("loss/"): metrics[name] for name in metrics if "loss" in name}
        losses = [f"{name} {value:.3f}" for name, value in parts.items()]
        if "pairs_per_sec" in metrics:
            shown = [*losses[:1], _speed(metrics), *losses[1:]]
        else:  # of an evaluation, what is right at the first attempt
            first = [name for name in metrics if name.endswith(("R@1", "top1"))]
            shown = [*losses, *(f"{name} {metrics[name]:.4f}" for name in first)]
        if self._bar is not None:
            columns = shutil.get_terminal_size().columns
            room = columns - _BAR_COLUMNS - 2 * len(str(self._total_steps))
            self._bar.set_postfix_str(fitted(shown, room))
        else:
            if (left := self._time_left(step)) is not None:
                shown.append(f"{left} left")
            print(f"step {step}/{self._total_steps}", *shown, sep="  ", flush=True)

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._file:
            print(text, flush=True)

    def go_back_to(self, step: int) -> None:
        """The run goes on from `step`: what was logged beyond it moves to a file of its own."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if self._file is None or self._workdir is None:
            return
        self._file.close()
        path, aside = self._workdir / FILE, self._workdir / ROLLED_BACK_FILE
        beyond = [line for line in _lines(path) if _step_of(line) > step]
        Lines(aside, _lines(aside) + beyond).close()
        self._file = Lines(path, lines_up_to(path, step))
        if self._tensorboard:
            with writing(self._workdir):
                self._tensorboard.go_back_to(step)

    def advance(self) -> None:
        """Count one step more."""
        self._steps_since += 1
        if self._bar is not None:
            self._bar.update()

    def _time_left(self, step: int) -> str | None:
        """Return how long the rest takes at the pace since `begin`; None where none is known."""
        if self._began is None or not self._steps_since:
            return None
        pace = (time.monotonic() - self._began) / self._steps_since
        return tqdm.format_interval(pace * (self._total_steps - step))


class Throughput:
    """Pairs a second, MFU and the share of time waiting for data, since the last measurement.

    Of the run's time only what `goodput` has as steps and input counts. `peak` is what the
    devices of the run can do at best; where it is not known (a CPU), `mfu` is left out.
    """

    def __init__(self, batch_size: int, flops_per_pair: float, peak: Peak, goodput: Goodput):
        self.batch_size = batch_size
        self._flops_per_pair, self._peak, self._goodput = flops_per_pair, peak, goodput
        self.start(0)

    def start(self, step: int) -> None:
        """Begin to measure now, at the end of `step`."""
        self._step, self._before = step, self._goodput.so_far()

    def measure(self, step: int) -> dict[str, float]:
        """Figures from the last call to the end of `step`."""
        spent = {
            name: seconds - self._before[name] for name, seconds in self._goodput.so_far().items()
        }
        seconds = max(1e-9, spent["step"] + spent["input"])
        pairs_per_second = (step - self._step) * self.batch_size / seconds
        figures = {
            "pairs_per_sec": pairs_per_second,
            "pairs_per_sec_per_chip": pairs_per_second / self._peak.chips,
            "data_wait_fraction": spent["input"] / seconds,
        }
        if self._peak.flops_per_second is not None:
            figures["mfu"] = pairs_per_second * self._flops_per_pair / self._peak.flops_per_second
        self.start(step)
        return figures


def _speed(metrics: Mapping[str, float | int]) -> str:
    mfu = f"  MFU {metrics['mfu']:.0%}" if "mfu" in metrics else ""
    return f"{metrics['pairs_per_sec']:.0f} pairs/s{mfu}"


def fitted(parts: Sequence[str], columns: int) -> str:
    """Return the first parts that fit into this many columns, in their order."""
    text = ""
    for part in parts:
        longer = f"{text}  {part}" if text else part
        if len(longer) > columns:
            break
        text = longer
    return text


def lines_up_to(path: epath.Path, step: int) -> list[str]:
    """Of a JSONL file, should it exist, those of steps up to `step`."""
    return [line for line in _lines(path) if _step_of(line) <= step]


def _lines(path: epath.Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _step_of(line: str) -> int | float:
    """The line's step; infinity for a line that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")
