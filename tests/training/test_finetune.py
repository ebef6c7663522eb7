"""The recipe for retrieval begins with a pretrained run's weights and keeps its best checkpoint."""

import json

import pytest

from configs import finetune, oner
from oner_jax.errors import InputError
from oner_jax.training.checkpointing.checkpoints import resolve_step
from tests.test_train import run


def test_what_it_changes():
    config = finetune.get_config("b16,source=runs/pretrained,data=data/coco,image_size=384")
    before = oner.get_config("b16")
    assert config.initialise.source == "runs/pretrained"
    assert config.model.image_size == 384
    assert config.data.evaluation.to_dict() == {"val": "data/coco/val"}
    terms = {name for name, weight in config.objective.weights.items() if weight}
    assert terms == {"itc", "cmc"}
    rate = "learning_rate_per_256_examples"
    assert config.optimizer[rate] == pytest.approx(before.optimizer[rate] / 10)
    assert config.checkpoint.best_metric == "eval/retrieval/val/image_R@1"
    with pytest.raises(InputError, match=r"image_size=100: give a multiple of the patch size, 16"):
        finetune.get_config("b16,image_size=100")


@pytest.mark.slow
def test_it_goes_on_from_a_run_and_measures_itself(tmp_path):
    pretrained, tuned = tmp_path / "pretrained", tmp_path / "tuned"
    result = run(pretrained)
    assert result.returncode == 0, result.stderr
    config = f"configs/finetune.py:tiny,source={pretrained},image_size=48"
    result = run(tuned, "--config.total_steps=20", config=config)
    assert result.returncode == 0, result.stderr
    assert "initialised" in result.stdout
    lines = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    measured = {
        line["step"]: line["eval/retrieval/val/image_R@1"]
        for line in lines
        if "eval/retrieval/val/image_R@1" in line
    }
    assert list(measured) == [10, 20]
    assert measured[resolve_step(tuned, "best")] == max(measured.values())
    first = next(line for line in lines if "loss" in line)
    pretraining = json.loads((pretrained / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss/itc"] < pretraining["loss/itc"]
