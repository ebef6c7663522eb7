"""Where a run's time went, against a clock that the test turns."""

import json
import time

import pytest
from etils import epath

from oner_jax.errors import Preempted
from oner_jax.training.monitoring.goodput import CATEGORIES, FILE, Goodput


@pytest.fixture
def clock(monkeypatch):
    """Both clocks as one number of seconds, changed by the test alone."""
    now = {"seconds": 1000.0}
    monkeypatch.setattr(time, "monotonic", lambda: now["seconds"])
    monkeypatch.setattr(time, "time", lambda: 5e8 + now["seconds"])
    return now


def one_start(goodput: Goodput, clock, steps: range) -> None:
    """5 s of initialisation, 10 s of compiling, then 1 s of input and 3 s of work a step."""
    clock["seconds"] += 5
    goodput.enter("compile")
    clock["seconds"] += 10
    goodput.enter("step")
    for step in steps:
        with goodput.spending("input"):
            clock["seconds"] += 1
        clock["seconds"] += 3
        goodput.record(step)


def test_every_second_is_in_one_category_and_shares_add_up(clock):
    goodput = Goodput()
    one_start(goodput, clock, range(1, 6))
    with goodput.spending("checkpoint"):
        clock["seconds"] += 5
    spent = {"initialisation": 5, "compile": 10, "input": 5, "step": 15, "checkpoint": 5}
    assert goodput.so_far() == dict.fromkeys(CATEGORIES, 0) | spent
    shares = goodput.record(5)
    assert shares["goodput/step"] == 15 / 40
    assert sum(shares.values()) == pytest.approx(1)


def test_after_a_kill_replayed_steps_and_the_time_between_are_told_apart(clock, tmp_path):
    first = Goodput(epath.Path(tmp_path))
    one_start(first, clock, range(1, 10))
    clock["seconds"] += 100  # killed, and started again after a while
    second = Goodput(epath.Path(tmp_path))
    second.go_back_to(6)  # of 9 steps, 3 are done again
    one_start(second, clock, range(7, 11))
    seconds = second.so_far()
    assert seconds["replayed"] == 3 * 3
    assert seconds["step"] == 10 * 3
    assert seconds["down"] == 100
    assert seconds["initialisation"] == 2 * 5
    assert sum(seconds.values()) == clock["seconds"] - 1000
    assert "over 2 starts" in second.describe()


def test_going_back_between_two_marks_is_interpolated(clock):
    goodput = Goodput()
    goodput.enter("step")
    for step in (10, 20):
        clock["seconds"] += 50
        goodput.mark(step)
    clock["seconds"] += 7
    goodput.go_back_to(15)
    assert goodput.so_far()["step"] == 75
    assert goodput.so_far()["replayed"] == 100 + 7 - 75


def test_an_orderly_stop_loses_nothing(clock, tmp_path, capsys):
    goodput = Goodput(epath.Path(tmp_path))
    goodput.enter("step")
    clock["seconds"] += 20
    goodput.mark(4)
    goodput.__exit__(Preempted, None, None)
    assert "goodput     step 100.0% of 20 s over 1 start" in capsys.readouterr().out
    again = Goodput(epath.Path(tmp_path))
    again.go_back_to(4)
    assert again.so_far()["replayed"] == 0
    assert json.loads((tmp_path / FILE).read_text())["starts"] == 1
