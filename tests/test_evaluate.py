"""The program from a workdir to table and report, on a real model of the smallest size."""

import csv
import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from oner_jax import evaluate
from oner_jax.data.evaluation import evaluation_set
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError
from oner_jax.evals.engine import checkpoints
from oner_jax.evals.engine.checkpoints import run_names
from oner_jax.evals.engine.evaluation import Request, measure
from oner_jax.evals.engine.following import follow
from oner_jax.evals.engine.table import Columns, by_label
from oner_jax.evals.inputs.features import Corpus, encode
from oner_jax.evals.report import written_pages as outputs
from oner_jax.models.embedding import Embedder
from oner_jax.parallel.mesh import make_mesh
from oner_jax.training.checkpointing.checkpoints import Checkpoints, load_run, read_config
from oner_jax.training.checkpointing.policy import CheckpointPolicy
from tests.evals.runs import recipe_of, tiny_config, tiny_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("run"))


def run(workdir: Path, **options: Any) -> tuple[Columns, Path]:
    """The columns and the report of the checkpoint at step 3."""
    results = evaluate.evaluate(Request([workdir], steps=["3"], **options))
    return by_label(results.columns), workdir / "report/index.html"


def test_from_workdir_to_report(workdir, capsys):
    columns, report = run(workdir)
    assert list(columns) == ["step 3", "untrained"]
    # The checkpoint holds the weights the run started from, so both columns must agree.
    own, untrained = (
        column["toys"]["retrieval"].measurements("projected") for column in columns.values()
    )
    assert own == untrained
    assert own["text_R@1"].chance == pytest.approx(1 / 12)  # 2 captions of 24
    assert own["text_R@1"].cases == 12
    momentum = columns["step 3"]["toys"]["retrieval"].measurements("momentum")
    assert momentum == own
    cell = json.loads((workdir / "eval/step-3/toys/retrieval.json").read_text())
    assert (cell["pictures"], cell["captions"]) == (12, 24)
    page = report.read_text()
    assert "thing numbered" in page
    assert page.count("data:image/webp") >= 30  # 5 captions with 5 pictures each, 5 pictures
    capsys.readouterr()


def test_pictures_with_boxes_become_a_dataset(workdir, tmp_path, capsys):
    shades = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), np.uint8)
    for number, pixels in enumerate(shades):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    lines = [
        json.dumps({"image": f"{number}.png", "phrase": "a <thing>", "box": [0, 0, 20, 15]})
        for number in range(2)
    ]
    (tmp_path / "my boxes.jsonl").write_text("\n".join(lines))
    columns, report = run(workdir, boxes=[tmp_path / "my boxes.jsonl"])
    assert set(columns["untrained"]["my_boxes"]) == {"localisation"}
    found = columns["step 3"]["my_boxes"]["localisation"].measurements("projected")
    assert found["pointing"].chance == pytest.approx(0.25)
    assert found["pointing"].cases == 1  # the first picture is for development
    assert (report.parent / "localisation_my_boxes_plain.png").exists()
    assert "my_boxes: where is it?" in report.read_text()
    with pytest.raises(InputError, match="same name"):
        run(workdir, boxes=[tmp_path / "toys.jsonl"])
    capsys.readouterr()


def test_finished_results_are_not_computed_again(workdir, monkeypatch):
    first, _ = run(workdir)

    def refuse(*arguments, **options):
        raise AssertionError("loaded a model although every cell is there")

    monkeypatch.setattr(checkpoints, "load_run", refuse)
    assert run(workdir)[0] == first


def test_compared_checkpoints_are_named_apart_and_subtracted(workdir, tmp_path):
    options: Any = {"compare": [str(workdir), "@3"], "tasks": ["retrieval"], "untrained": False}
    results = measure(Request([workdir], **options))
    assert [column.label for column in results.columns] == [
        "step 5",
        workdir.name,
        f"{workdir.name} 3",
    ]
    to_itself, to_other = results.compared.values()
    assert {one.difference for one in to_itself} == {0.0}
    assert {one.interval for one in to_itself} == {(0.0, 0.0)}
    assert not any(one.clear for one in to_itself)
    assert list(results.compared) == [
        f"step 5 less {workdir.name}",
        f"step 5 less {workdir.name} 3",
    ]
    for one in to_other:
        low, high = one.interval
        assert low <= one.difference <= high
    folders = [epath.Path(folder) for folder in ("a/x", "b/x", "c/y", "c/momentum", "b/x")]
    assert list(run_names(folders).values()) == ["a/x", "b/x", "y", "c/momentum"]


def test_a_run_of_the_same_name_is_another_run(workdir, tmp_path):
    """With `--out` the cells of both are in one folder."""
    other = shutil.copytree(workdir, tmp_path / workdir.name)
    with Checkpoints(other, CheckpointPolicy(interval_steps=1, keep=9)) as saved:
        recipe = recipe_of(tiny_config(read_config(other).data.train))
        state, _ = saved.restore(5, recipe.abstract)
        saved.discard_after(3)
        moved = jax.tree.map(lambda x: x + 0.05 * jax.numpy.cos(11 * x), state.parameters)
        saved.save(5, state._replace(parameters=moved), {"step": 5})
    options: Any = {"tasks": ["retrieval"], "untrained": False, "compare": [str(other)]}
    for request in (
        Request([workdir], **options, out=tmp_path / "one"),
        Request([workdir], **options, out=tmp_path / "one", force=True),
    ):
        results = measure(request)
        ((_, found),) = results.compared.items()
        assert any(one.interval != (0.0, 0.0) for one in found)
    cells = [column.cells["toys"]["retrieval"].path for column in results.columns]
    assert len(set(cells)) == 2


def test_many_checkpoints_become_one_table(workdir, tmp_path, capsys):
    request = Request(
        [workdir], steps=["all"], tasks=["retrieval", "geometry"], out=tmp_path / "out"
    )
    (page,) = outputs.write(request, measure(request))
    assert page == tmp_path / "out" / "index.html"
    run = workdir.name
    cells = sorted((tmp_path / "out/eval" / run).glob("*/toys/*.json"))
    assert len(cells) == 3 * 2
    rows = list(csv.DictReader((page.parent / "table.csv").open()))
    stored = json.loads((tmp_path / "out/eval" / run / "step-5/toys/retrieval.json").read_text())
    (row,) = [
        row
        for row in rows
        if (row["step"], row["metric"], row["space"]) == ("5", "text_R@5", "backbone")
    ]
    kept = stored["measurements"]["backbone"]["text_R@5"]
    assert float(row["value"]) == pytest.approx(kept["value"], abs=1e-6)
    assert [float(row["low"]), float(row["high"])] == pytest.approx(kept["interval"], abs=1e-6)
    assert {row["step"] for row in rows} == {"0", "3", "5"}
    text = (page.parent / "table.md").read_text()
    assert "| metric | chance | step 3 | step 5 | untrained |" in text
    assert "retrieval/toys/text_R@1 over training steps" in page.read_text()
    capsys.readouterr()


def test_the_same_command_twice_gives_the_same_bytes_but_for_time(workdir, tmp_path):
    tasks = ["retrieval", "zeroshot", "geometry", "map", "reasoning"]
    for name in ("first", "second"):
        measure(Request([workdir], tasks=tasks, untrained=False, out=tmp_path / name, command="x"))
    files = sorted((tmp_path / "first").rglob("*.json")) + sorted(
        (tmp_path / "first").rglob("*.npz")
    )
    assert len(files) > len(tasks)
    for file in files:
        other = tmp_path / "second" / file.relative_to(tmp_path / "first")
        if file.suffix == ".npz":
            assert file.read_bytes() == other.read_bytes()
            continue
        texts = [re.sub(r'"time": {[^}]*}', "", path.read_text()) for path in (file, other)]
        assert texts[0] == texts[1]
        content = json.loads(file.read_text())
        assert {"seconds", "finished"} == set(content["time"])
        assert content["command"] == "x"
        assert len(content["data_hash"]) == 64
        assert content["revision"]


def test_a_follower_measures_each_checkpoint_as_it_comes(workdir, tmp_path):
    without = shutil.ignore_patterns("eval", "report")
    folder = shutil.copytree(workdir, tmp_path / "going", ignore=without)
    later = shutil.move(folder / "checkpoints/5", tmp_path / "5")
    config = json.loads((folder / "config.json").read_text()) | {"total_steps": 5}
    (folder / "config.json").write_text(json.dumps(config))
    seen = []

    def evaluate_and_go_on(request: Request) -> None:
        results = measure(request)
        seen.append([column.step for column in results.own])
        if len(seen) == 1:  # the run saves its last step, and deletes an old one
            shutil.move(later, folder / "checkpoints/5")
            shutil.rmtree(folder / "checkpoints/3")

    request = Request([folder], tasks=["retrieval"], untrained=False)
    follow(request, evaluate_and_go_on, poll_seconds=0.01)
    assert seen == [[3], [3, 5]]
    cells = sorted(path.parent.parent.name for path in (folder / "eval").rglob("retrieval.json"))
    assert cells == ["step-3", "step-5"]


def test_a_dataset_that_is_not_there_is_said_and_the_rest_is_measured(workdir, tmp_path, capsys):
    request = Request(
        [workdir],
        tasks=["retrieval"],
        datasets=["toys", "cifar10", str(tmp_path / "none")],
        data_directory=tmp_path,
        untrained=False,
    )
    results = measure(request)
    assert list(results.columns[0].cells) == ["toys"]
    said = capsys.readouterr().err.splitlines()  # on a slow machine progress, too
    first, second = (line for line in said if " is left out: " in line)
    folder = tmp_path / "cifar10"
    assert first.startswith(f"cifar10 is left out: there is no {folder}/")
    assert first.endswith(
        "; make it with python -m oner_jax.ingest --source=tfds:cifar10 "
        f"--output={folder} (docs/datasets.md)"
    )
    assert "none is left out: " in second
    with pytest.raises(InputError, match="cifar10 is left out"):
        measure(dataclasses.replace(request, datasets=["cifar10"]))


def test_features_do_not_depend_on_the_number_of_devices(workdir):
    run = load_run(workdir, 5)
    examples = evaluation_set(read_config(workdir).data.evaluation.toys, image_size=32)
    tokenizer = Tokenizer.load(run.config.data.tokenizer)
    tokenize = functools.partial(tokenizer.encode, max_tokens=run.config.model.text_tokens)
    corpus = Corpus.of(examples)
    found = []
    for devices in (1, 8):
        embedder = Embedder(run.model, run.parameters, make_mesh(devices=jax.devices()[:devices]))
        options: Any = {"tokenize": tokenize, "templates": ["{}", "a {}"], "joint": True}
        found.append(encode(examples, corpus, embedder, **options))
    for space in found[0]:
        for field in dataclasses.fields(found[0][space]):
            one, eight = (getattr(spaces[space], field.name) for spaces in found)
            np.testing.assert_allclose(one, eight, atol=1e-5)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(workdir, tmp_path):
    """Every process encodes its part: the numbers are the same, and only one writes them."""
    tasks = "retrieval,zeroshot,geometry,localisation,reasoning"
    own = ["launch/local.py", "--processes=2", "--devices_per_process=2", "--"]
    command = [sys.executable, "-m", "oner_jax.evaluate", f"--workdir={workdir}"]
    options = ["--steps=5", "--untrained=False", f"--tasks={tasks}", f"--out={tmp_path / 'two'}"]
    flags = re.sub(r"(device_count)=\d+", r"\1=2", os.environ["XLA_FLAGS"])
    result = subprocess.run(
        [sys.executable, *own, *command, *options],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("retrieval/toys/text_R@1 ") == 1
    assert f"report: {tmp_path / 'two' / 'index.html'}" in result.stdout
    measure(
        Request(
            [workdir],
            steps=["5"],
            untrained=False,
            tasks=tasks.split(","),
            out=tmp_path / "one",
        )
    )
    cells = sorted((tmp_path / "one").rglob("*.json"))
    assert len(cells) == 5
    for cell in cells:
        other = tmp_path / "two" / cell.relative_to(tmp_path / "one")
        stored = [json.loads(path.read_text())["measurements"] for path in (cell, other)]
        jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5), *stored)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": ["99"]}, r"no checkpoint '99'"),
        ({"steps": ["init"]}, r"give a checkpoint"),
        ({"datasets": ["tyos"]}, r"--datasets=tyos: the run's config has toys"),
        ({"datasets": ["/no/such/place"]}, r"/no/such/place"),
        ({"templates": "nmaes"}, r"no template set 'nmaes'"),
        ({"compare": ["/nowhere"]}, r"/nowhere holds no run"),
        ({"tasks": ["retreival"]}, r"--tasks=retreival: .* \(did you mean 'retrieval'\?\)"),
    ],
)
def test_bad_input_is_one_clear_line(workdir, options, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        measure(Request([workdir], **options))
    assert "\n" not in str(caught.value)


def test_several_runs_need_a_folder_for_their_tables(workdir):
    with pytest.raises(InputError, match="--out is missing"):
        measure(Request([workdir, workdir]))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        measure(Request([tmp_path]))
    assert list(tmp_path.iterdir()) == []


def test_chosen_tasks_are_measured_without_the_rest(workdir):
    columns = by_label(
        measure(Request([workdir], steps=["3"], tasks=["retrieval"], untrained=False)).columns
    )
    assert {label: list(cells["toys"]) for label, cells in columns.items()} == {
        "step 3": ["retrieval"]
    }
