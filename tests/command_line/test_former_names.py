"""Programs whose module moved are still found under the former name."""

import importlib.util
import runpy

import pytest

FORMER = {
    "oner_jax.data.ingest": "oner_jax.ingest",
    "oner_jax.data.ingest_beam": "oner_jax.ingest_beam",
    "oner_jax.data.check": "oner_jax.check",
    "oner_jax.data.text": "oner_jax.data.tokenizer",
}


@pytest.mark.parametrize(("former", "now"), FORMER.items())
def test_a_former_name_runs_the_program_and_prints_the_new_one(former, now, monkeypatch, capsys):
    run = runpy.run_module
    started = []
    monkeypatch.setattr(runpy, "run_module", lambda name, **how: started.append((name, how)))
    run(former, run_name="__main__")
    assert started == [(now, {"run_name": "__main__", "alter_sys": True})]
    assert capsys.readouterr().err == f"note: this program is now python -m {now}\n"
    assert importlib.util.find_spec(now) is not None
