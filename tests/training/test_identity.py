"""What continues a run, what continues it otherwise, and what is another run."""

import json
from pathlib import Path

import pytest
from etils import epath

from configs.oner import get_config
from oner_jax import configuration
from oner_jax.errors import InputError
from oner_jax.training import identity
from oner_jax.training.identity import data_changes, require_same_run

HASH, OTHER, TOKENIZER = "0123456789abcdef", "fedcba9876543210", "tokentokentoken"


def described(train: str = "data/train", content: str = HASH, tokenizer: str = TOKENIZER) -> dict:
    return {
        "records": 7,
        "train": {train: {"hash": content, "records": 7}},
        "tokenizer": tokenizer,
    }


def config_of(**changes) -> configuration.ConfigDict:
    config = get_config("tiny")
    config.update_from_flattened_dict({"data.train": "data/train", **changes})
    return config


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> epath.Path:
    """A finished run of 30 steps."""
    (tmp_path / "config.json").write_text(configuration.to_json(config_of()))
    (tmp_path / "manifest.json").write_text(json.dumps({"data": described()}))
    monkeypatch.setattr(identity, "available_steps", lambda _: [20, 30])
    return epath.Path(tmp_path)


def test_data_and_tokenizer_that_have_moved_continue_the_run(workdir):
    config = config_of(**{"data.train": "moved/train", "data.tokenizer": "moved.model"})
    lines, extended = require_same_run(workdir, config, described("moved/train"))
    assert lines == [
        "data.tokenizer has moved: embedded -> moved.model, same content",
        "data.train has moved: data/train -> moved/train, same content",
    ]
    assert extended is None


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (
            described("moved/train", OTHER),
            "data.train: data/train (7 records, 0123456789ab) -> "
            "moved/train (7 records, fedcba987654)",
        ),
        (described("moved/train", tokenizer="another"), "data.tokenizer: tokentokento -> another"),
    ],
)
def test_other_content_is_another_run_and_named(workdir, data, named):
    config = config_of(**{"data.train": "moved/train", "data.tokenizer": "moved.model"})
    with pytest.raises(InputError) as refused:
        require_same_run(workdir, config, data)
    assert f"holds a run of another config ({named}): " in str(refused.value)


def test_a_tokenizer_whose_content_was_not_kept_is_not_taken_for_the_same(workdir):
    stored = described()
    del stored["tokenizer"]
    (Path(workdir) / "manifest.json").write_text(json.dumps({"data": stored}))
    assert require_same_run(workdir, config_of(), described()) == ([], None)
    with pytest.raises(InputError, match=r"data.tokenizer: embedded -> moved.model"):
        require_same_run(workdir, config_of(**{"data.tokenizer": "moved.model"}), described())


def test_the_order_and_the_weights_of_splits_are_content():
    one, two = {"hash": HASH, "records": 1}, {"hash": OTHER, "records": 2}
    before = {"train": {"a": one, "b": two}}
    assert data_changes(before, {"train": {"x": one, "y": two}}) == []
    assert data_changes(before, {"train": {"b": two, "a": one}}) != []
    weighted = {"train": {"a": one | {"weight": 3}, "b": two | {"weight": 1}}}
    (change,) = data_changes(before, weighted)
    assert change.endswith(
        "a (1 records, 0123456789ab, weight 3), b (2 records, fedcba987654, weight 1)"
    )


def test_a_finished_run_goes_on_with_more_steps_and_says_what_the_schedule_does(workdir):
    lines, extended = require_same_run(workdir, config_of(total_steps=60), described())
    assert extended is not None
    assert extended.total_steps == 30
    (line,) = lines
    # At the end of the first schedule, and half-way down the cosine from 1e-3 after 3 of 60 steps.
    assert "learning rate at step 30 goes from 1e-06 to 0.000542" in line
    assert line.startswith("total_steps  30 -> 60: the schedules are now those of 60 steps")
    faster = {"total_steps": 60, "optimizer.end_learning_rate": 1e-4, "momentum.end": 0.99}
    assert require_same_run(workdir, config_of(**faster), described())[1] is not None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"total_steps": 20}, "total_steps: 30 -> 20"),
        ({"total_steps": 60, "optimizer.weight_decay": 0.2}, "weight_decay: 0.1 -> 0.2"),
        ({"optimizer.end_learning_rate": 1e-4}, "end_learning_rate: 1e-06 -> 0.0001"),
    ],
)
def test_what_is_no_extension_is_refused(workdir, changes, named):
    with pytest.raises(InputError) as refused:
        require_same_run(workdir, config_of(**changes), described())
    assert named in str(refused.value)


def test_a_run_that_is_not_finished_is_not_extended(workdir, monkeypatch):
    monkeypatch.setattr(identity, "available_steps", lambda _: [20])
    with pytest.raises(InputError, match="once it has its 30 steps, it can go on with more"):
        require_same_run(workdir, config_of(total_steps=60), described())
