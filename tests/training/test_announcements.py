"""What a person sees of a run: the time left, a progress bar that fits, warnings of its length."""

import io
import os
import re
import shutil
import sys
import time

import pytest
from etils import epath
from ml_collections import ConfigDict

from oner_jax.training import workdir
from oner_jax.training.monitoring.metrics import MetricsLog, fitted

LOSSES = {"loss": 14.2, **{f"loss/{term}": 1.5 for term in ("itc", "cmc", "mim", "mlm", "mmm")}}
METRICS = {**LOSSES, "pairs_per_sec": 1234.0, "mfu": 0.41}


@pytest.fixture
def clock(monkeypatch):
    """The clock of the log, changed only by the test."""
    now = {"seconds": 1000.0}
    monkeypatch.setattr(time, "monotonic", lambda: now["seconds"])
    return now


def steps(log: MetricsLog, clock, numbers: range, seconds: float) -> None:
    for _ in numbers:
        clock["seconds"] += seconds
        log.advance()


@pytest.mark.parametrize("first_step", [0, 90])
def test_the_time_left_is_that_of_steps_without_the_compilation(
    clock, tmp_path, capsys, first_step
):
    total = first_step + 111
    with MetricsLog(epath.Path(tmp_path), first_step=first_step, total_steps=total) as log:
        clock["seconds"] += 300  # compiling, within the first step
        log.advance()
        log.begin(first_step + 1)
        steps(log, clock, range(10), 2.0)
        log.write(first_step + 11, METRICS)
        assert "03:20 left" in capsys.readouterr().out, "100 steps of two seconds"
        log.go_back_to(first_step + 1)  # as after a roll-back, whose steps took their time
        steps(log, clock, range(10), 2.0)
        log.write(first_step + 11, METRICS)
        assert "03:20 left" in capsys.readouterr().out


def test_before_a_pace_is_known_nothing_is_claimed(clock, tmp_path, capsys):
    with MetricsLog(epath.Path(tmp_path), first_step=0, total_steps=100) as log:
        log.write(1, {"eval/val/R@1": 0.5})
    assert "left" not in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_bar_fits_the_terminal_and_keeps_what_matters_most(columns, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    with MetricsLog(epath.Path(tmp_path), first_step=0, total_steps=24_000) as log:
        assert not terminal.getvalue(), "no bar, and no time left, before the first step"
        log.begin(1)
        log.write(1, METRICS)
        log.advance()
    last = re.split(r"[\r\n]", terminal.getvalue().rstrip())[-1]
    assert len(last) <= columns
    assert "loss 14.200" in last
    assert ("1234 pairs/s  MFU 41%" in last) is (columns >= 100)
    assert ("mmm 1.500" in last) is (columns == 200)


def test_parts_that_do_not_fit_are_left_out_whole():
    assert fitted(["abc", "defg", "h"], 9) == "abc  defg"
    assert fitted(["abc", "defg", "h"], 8) == "abc"
    assert fitted(["abc"], 2) == ""


def config_of(**values) -> ConfigDict:
    data = {"image_only_batch_size": 0, "text_only_batch_size": 32}
    return ConfigDict({"batch_size": 64, "total_epochs": 0.0, "data": data, **values})


def test_a_run_of_too_many_epochs_names_the_setting_that_shortens_it():
    data = {"train": {"mine/train": {"records": 113}}}
    (warning,) = workdir.too_many_epochs(config_of(total_steps=2400), data)
    assert "mine/train 1,359 times" in warning, "2,400 x 64 / 113"
    assert warning.endswith("--config.total_steps=176")
    assert not workdir.too_many_epochs(config_of(total_steps=176), data)
    (warning,) = workdir.too_many_epochs(config_of(total_steps=2400, total_epochs=1359.0), data)
    assert warning.endswith("--config.total_epochs=100")


def test_a_small_part_of_a_mixture_is_warned_of_as_well():
    large, small = {"records": 10_000, "weight": 3}, {"records": 100, "weight": 1}
    data = {"train": {"a": large, "b": small}, "text_only": {"c": {"records": 50}}}
    warnings = workdir.too_many_epochs(config_of(total_steps=1000), data)
    assert [warning.split(" ")[4] for warning in warnings] == ["b", "c"]
    assert "b 160 times" in warnings[0]
    assert "c 640 times" in warnings[1]
