"""The program from a workdir to table and report, on a real model of the smallest size."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs.oner import get_config
from oner_jax import configuration, evaluate
from oner_jax.data.text import Tokenizer
from oner_jax.errors import InputError
from oner_jax.objectives.batch import TextFormat
from oner_jax.training.checkpoint_policy import CheckpointPolicy
from oner_jax.training.checkpoints import Checkpoints
from oner_jax.training.recipe import Recipe
from tests.data.samples import record, write_split

# ConfigDict is a mapping in all but name; signatures that ask for one are checked in tests.
Mapping.register(ConfigDict)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the `tiny` recipe with a checkpoint at step 3, as training would have left it."""
    folder = tmp_path_factory.mktemp("run")
    split = write_split(folder / "pictures", [record(number) for number in range(12)])
    config = _tiny_config(split)
    tokenizer = Tokenizer.load(config.data.tokenizer)
    text = TextFormat(tokenizer.mask_id, tokenizer.word_start)
    recipe = Recipe.from_config(config, text)
    (folder / "config.json").write_text(configuration.to_json(config))
    with Checkpoints(folder, CheckpointPolicy(**config.checkpoint)) as checkpoints:
        checkpoints.save(3, recipe.init_state(), {"step": 3})
    return folder


def _tiny_config(split: str) -> ConfigDict:
    config = get_config("tiny")
    with config.unlocked():
        config.model.depth = 1
        config.data.train = split
        config.data.evaluation = {"toys": split}
        config.compilation_cache = ""
    vocabulary_size = Tokenizer.load(config.data.tokenizer).vocabulary_size
    return configuration.resolve(config, training_records=12, vocabulary_size=vocabulary_size)


def test_from_workdir_to_report(workdir, capsys):
    columns, report = evaluate.evaluate(workdir)
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
    columns, report = evaluate.evaluate(workdir, boxes=[tmp_path / "my boxes.jsonl"])
    assert set(columns["untrained"]["my_boxes"]) == {"localisation"}
    found = columns["step 3"]["my_boxes"]["localisation"].measurements("projected")
    assert found["pointing"].chance == pytest.approx(0.25)
    assert found["pointing"].cases == 2
    assert (report.parent / "localisation_my_boxes_backbone.png").exists()
    assert "my_boxes: where is it?" in report.read_text()
    with pytest.raises(InputError, match="same name"):
        evaluate.evaluate(workdir, boxes=[tmp_path / "toys.jsonl"])
    capsys.readouterr()


def test_finished_results_are_not_computed_again(workdir, monkeypatch):
    first, _ = evaluate.evaluate(workdir)

    def refuse(*arguments, **options):
        raise AssertionError("loaded a model although every cell is there")

    monkeypatch.setattr(evaluate, "load_run", refuse)
    assert evaluate.evaluate(workdir)[0] == first


def test_compared_runs_are_named_apart(workdir):
    columns, _ = evaluate.evaluate(workdir, compare=[workdir])
    assert list(columns) == ["step 3", "untrained", workdir.name]
    assert evaluate._short_names([Path("a/x"), Path("b/x"), Path("c/y")]) == ["a/x", "b/x", "y"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"step": "99"}, r"no checkpoint '99'"),
        ({"step": "init"}, r"give a checkpoint"),
        ({"datasets": ["tyos"]}, r"--datasets=tyos: the run's config has toys"),
        ({"datasets": ["/no/such/place"]}, r"/no/such/place"),
        ({"templates": "nmaes"}, r"no template set 'nmaes'"),
        ({"compare": [Path("/nowhere")]}, r"/nowhere holds no run"),
    ],
)
def test_bad_input_is_one_clear_line(workdir, options, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        evaluate.evaluate(workdir, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        evaluate.evaluate(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_chosen_tasks_are_measured_without_the_rest(workdir):
    columns = evaluate.measure(workdir, tasks=["retrieval"], untrained=False)
    assert {label: list(cells["toys"]) for label, cells in columns.items()} == {
        "step 3": ["retrieval"]
    }
    with pytest.raises(InputError, match=r"--tasks=retreival: .* \(did you mean 'retrieval'\?\)"):
        evaluate.measure(workdir, tasks=["retreival"])
