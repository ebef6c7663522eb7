import io
import sys

import pytest

from oner_jax.data import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "end"), [(Terminal(), "\r"), (io.StringIO(), "\n")])
def test_reports_rate_and_time_left(monkeypatch, stream, end):
    seconds = iter([0.0, 1.0, 60.0, 100.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(sys, "stderr", stream)
    bar = progress.Progress("ingest", 2000)
    bar.advance(10)  # after 1 s: shown on a terminal only
    bar.advance(590)  # after 60 s: 10/s, 1400 to go
    bar.advance(1400)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0)
    bar.finish()
    text = stream.getvalue()
    assert "ingest: 600 of 2,000, 10/s, 2:20 left" in text
    assert "ingest: 2,000 of 2,000, 20/s" in text
    assert ("10 of 2,000" in text.split("600")[0]) == (end == "\r")
    assert text.endswith("\n")
    assert text.count("\n") == (1 if end == "\r" else 3)


def test_what_an_earlier_run_did_says_nothing_of_the_rate(monkeypatch):
    seconds = iter([0.0, 60.0])
    stream = io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(sys, "stderr", stream)
    progress.Progress("ingest", 2000, done_before=1000).advance(600)
    assert stream.getvalue() == "ingest: 1,600 of 2,000, 10/s, 0:40 left\n"
