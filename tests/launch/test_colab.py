"""The notebooks for Colab, executed here with the CPU in the place of a TPU."""

import csv
import html
import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import nbclient
import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from launch.colab import session
from oner_jax.exporting.folder import write_shared
from oner_jax.exporting.formats import FORMATS
from oner_jax.exporting.source import open_source
from tests.data.samples import record, write_split
from tests.runs import write_run

FOLDER = Path(__file__).parents[2] / "launch" / "colab"
NOTEBOOKS = ["pretrain_tiny", "evaluation_sweep", "explore"]
SET_UP = ["code-text", "code", "check-text", "check"]
SHORT = "--config.total_steps=4 --config.checkpoint.interval_steps=2 --config.log_interval_steps=1"
LIBTPU_MISSING = "INTERNAL: Failed to open libtpu.so: libtpu.so: cannot open shared object file"
LIBTPU_HELD = "ABORTED: The TPU is already in use by process with pid {}. Not attempting to load"
TPU, GPU = ["tpu", "PCI device 0000:00:05.0"], ["gpu", "/dev/nvidia0"]
STRIP = "clear all outputs before you commit (CONTRIBUTING.md)"


def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def parameters_of(opened: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = [cell for cell in opened.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def execute(name: str, until: str = "", **values: object) -> dict[str, nbformat.NotebookNode]:
    """The cells by id after they ran, as papermill runs them: `values` after the parameters."""
    opened = notebook(name)
    lines = "\n".join(f"{key} = {value!r}" for key, value in values.items())
    place = opened.cells.index(parameters_of(opened)) + 1
    opened.cells.insert(place, nbformat.v4.new_code_cell(lines))
    if until:
        ids = [cell.id for cell in opened.cells]
        opened.cells = opened.cells[: ids.index(until) + 1]
    # Where Jupyter starts a kernel: beside the notebook, not at the root of the repository.
    place_of_kernel = {"metadata": {"path": str(FOLDER)}}
    with mock.patch.dict(os.environ):
        os.environ.pop("MPLBACKEND", None)  # the kernel's own shows figures in the notebook
        nbclient.NotebookClient(opened, timeout=1800, resources=place_of_kernel).execute()
    return {cell.id: cell for cell in opened.cells}


def outputs(cell: nbformat.NotebookNode, kind: str) -> list[str]:
    shown = [output.data for output in cell.outputs if "data" in output]
    return [data[kind] for data in shown if kind in data]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_committed_as_somebody_else_opens_them(name):
    opened = notebook(name)
    nbformat.validate(opened)
    code = [cell for cell in opened.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), STRIP
    assert code[0] == parameters_of(opened)
    fields = [line for line in code[0].source.splitlines() if line]
    assert all("  # @param " in line for line in fields), "Colab shows a form of them"
    # Of absolute paths only Colab's own, which are the same for everybody.
    text = "\n".join(cell.source for cell in opened.cells)
    absolute = re.findall(r"(?<![\w.}*])[/~]\w[\w/]*", text)
    assert all(path.startswith("/content") for path in absolute), absolute


def test_all_notebooks_begin_alike():
    begun = [
        {cell.id: cell.source for cell in notebook(name).cells if cell.id in SET_UP}
        for name in NOTEBOOKS
    ]
    assert list(begun[0]) == SET_UP
    assert begun[0] == begun[1] == begun[2]
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


def test_an_accelerator_that_is_not_there_ends_the_notebook_with_the_fix(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(CellExecutionError) as caught:
        execute("pretrain_tiny", until="data", ACCELERATOR="tpu")
    said = "Not ready: this machine has no TPU: choose another ACCELERATOR in the first cell"
    # One line of the notebook's own, below the cell that nbclient repeats.
    assert caught.value.traceback.rpartition("------------------")[2].strip() == said


def test_on_colab_it_is_said_before_anything_is_installed(monkeypatch):
    def install(_):
        raise AssertionError("installed for a runtime that cannot work")

    monkeypatch.setattr(session, "_install", install)
    menu = "no TPU: Runtime > Change runtime type > v5e-1 TPU, then Runtime > Run all"
    with pytest.raises(session.NotReady, match=menu):
        session.start("tpu", colab=True)


def test_the_installation_comes_between_two_questions(monkeypatch, capsys):
    events: list[str] = []
    without: dict[str, Any] = {"devices": [], "failure": LIBTPU_MISSING, "visible": TPU}
    with_it = {"devices": ["TPU v5 lite"], "failure": "", "visible": TPU}
    answers = iter([without, with_it])
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(session, "ask", lambda _: {"jax": "0.11"} | next(answers))
    monkeypatch.setattr(session, "_install", events.append)
    session.start("tpu", colab=True)
    assert events == ["tpu"]
    assert capsys.readouterr().out == "JAX 0.11 on 1 x TPU v5 lite\n"


PIP_TPU = "%pip install --upgrade --requirement=requirements.txt --requirement=requirements-tpu.txt"


@pytest.mark.parametrize(
    ("accelerator", "failure", "visible", "colab", "fix"),
    [
        ("tpu", LIBTPU_MISSING, None, True, "> Change runtime type > v5e-1 TPU"),
        ("tpu", LIBTPU_MISSING, GPU, True, "has a GPU but no TPU: Runtime > Change runtime type"),
        ("gpu", "JAX has no plugin for it", TPU, True, "> Change runtime type > T4 GPU"),
        ("tpu", LIBTPU_MISSING, TPU, True, PIP_TPU),
        ("tpu", LIBTPU_MISSING, TPU, False, "ACCELERATOR=tpu make venv"),
        ("gpu", "JAX has no plugin for it", GPU, False, "ACCELERATOR=cuda12 make venv"),
        ("gpu", "JAX has no plugin for it", None, False, "choose another ACCELERATOR"),
        ("tpu", LIBTPU_HELD.format(4711), TPU, True, "or !kill 4711"),
        ("tpu", "open(/dev/vfio/0): Device or resource busy", TPU, True, "!lsof -w /dev/accel*"),
    ],
)
def test_every_failure_has_its_fix(accelerator, failure, visible, colab, fix):
    answer = {"devices": [], "failure": failure, "visible": visible, "jax": "0.11"}
    assert fix in session.explain(accelerator, answer, colab=colab)
    # Of these the installation repairs what is only missing.
    before = session.explain(accelerator, answer, colab=colab, installed=False)
    assert bool(before) == ("pip install" not in fix and "make venv" not in fix)


def test_a_device_that_is_held_by_the_notebook_itself_or_switched_off(monkeypatch):
    monkeypatch.setattr(session.os, "getpid", lambda: 4711)
    held = {"devices": [], "failure": LIBTPU_HELD.format(4711), "visible": TPU, "jax": "0.11"}
    assert "this notebook holds the TPU itself" in session.explain("tpu", held, colab=True)
    works = {"devices": ["TPU v5 lite"], "failure": "", "visible": TPU, "jax": "0.11"}
    off = {"JAX_PLATFORMS": "cpu"}
    problem = session.explain("tpu", works, colab=True, environment=off)
    assert problem.startswith("JAX_PLATFORMS=cpu keeps JAX from the TPU: Runtime > Restart")
    for free in ({}, {"JAX_PLATFORMS": "tpu,cpu"}):
        assert session.explain("tpu", works, colab=True, environment=free) == ""


def test_a_python_without_jax_is_said_after_the_installation(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'jax'\" >&2\nexit 1\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(session.sys, "executable", str(python))
    answer = session.ask("cpu")
    assert session.explain("cpu", answer, colab=True, installed=False) == ""
    problem = session.explain("cpu", answer, colab=True)
    assert "No module named 'jax'): %pip install" in problem


def test_a_loaded_package_that_the_installation_replaces_asks_for_a_restart(monkeypatch, tmp_path):
    def write(version: str) -> None:
        for old in tmp_path.glob("*.dist-info"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        folder = tmp_path / f"toy_for_colab-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: toy_for_colab\nVersion: {version}\n")
        (folder / "top_level.txt").write_text("toy_for_colab\n")

    (tmp_path / "toy_for_colab.py").write_text("")
    write("1.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("toy_for_colab")

    def pip(command, **_):
        assert command[1:4] == ["-m", "pip", "install"]
        write("2.0")
        return type("Finished", (), {"returncode": 0})

    monkeypatch.setattr(session.subprocess, "run", pip)
    with pytest.raises(session.NotReady, match=r"loaded toy_for_colab in .* > Restart session"):
        session._install("cpu")
    monkeypatch.delitem(sys.modules, "toy_for_colab")
    session._install("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What pretrain_tiny leaves, and its executed cells."""
    folder = tmp_path_factory.mktemp("colab")
    for split, first in (("train", 0), ("val", 40)):
        write_split(folder / "data" / split, [record(first + number) for number in range(24)])
    values = {
        "ACCELERATOR": "cpu",
        "RECIPE": f"configs/oner.py:tiny,data={folder / 'data'}",
        "OPTIONS": f"{SHORT} --config.batch_size=8",
        "WORKDIR": str(folder / "run"),
    }
    return values, execute("pretrain_tiny", **values)


@pytest.mark.slow
def test_pretraining_from_top_to_bottom(trained):
    values, cells = trained
    assert cells["data"].outputs[0].text == "14,024 records\n"  # those in the repository
    assert "JAX" in cells["check"].outputs[0].text
    for picture in ("data", "loss"):
        assert outputs(cells[picture], "image/png"), picture
    page = Path(values["WORKDIR"], "report", "index.html").read_text()
    (shown,) = outputs(cells["report"], "text/html")
    assert html.escape(page) in shown


@pytest.mark.slow
def test_a_sweep_from_top_to_bottom(trained, tmp_path):
    """Over the run of the notebook before, which is found finished."""
    values, _ = trained
    cells = execute(
        "evaluation_sweep",
        **values,
        OTHER_RECIPE=values["RECIPE"].replace("tiny,", "tiny,terms=itc,"),
        OTHER_WORKDIR=str(tmp_path / "itc"),
        OUT=str(tmp_path / "sweep"),
    )
    with (tmp_path / "sweep" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["run"], row["step"]) for row in rows} >= {("run", "0"), ("run", "2"), ("run", "4")}
    (differences,) = outputs(cells["differences"], "text/markdown")
    assert differences.startswith("#### step 4 less itc: ")
    assert "| metric | value | other | difference | 95 % interval | clear |" in differences
    assert outputs(cells["curves"], "image/png")
    for page in ("overview", "report"):
        assert "&lt;h1&gt;" in outputs(cells[page], "text/html")[0]


@pytest.mark.slow
def test_exploring_from_top_to_bottom(tmp_path):
    """An export, as the one in the repository is; of random weights."""
    source = open_source(write_run(tmp_path / "run", steps=(10,)))
    model = tmp_path / "exported"
    model.mkdir()
    write_shared(source, model)
    FORMATS["safetensors"].write(source, model)
    cells = execute("explore", ACCELERATOR="cpu", MODEL=str(model), PICTURES=40)
    assert "views I, IT, T" in cells["load"].outputs[0].text
    for picture in ("pictures", "embed", "search", "change", "map", "localise", "own"):
        assert outputs(cells[picture], "image/png"), picture
    (table,) = outputs(cells["geometry"], "text/markdown")
    assert "| can a straight cut tell pictures from captions? |" in table
    assert json.dumps(cells["own"].outputs[0].text).startswith('"of all captions these fit best:')
