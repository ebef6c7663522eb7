"""What is learned comes from pictures and their own captions: trained, control and untrained."""

import pytest

from oner_jax.evals.engine.evaluation import Request
from oner_jax.evals.engine.table import by_label
from oner_jax.evaluate import evaluate
from tests.test_train import run

DEMO = "configs/oner.py:demo"


@pytest.mark.slow
def test_training_beats_the_shuffled_control_and_the_untrained_model(tmp_path):
    short = ("--config.total_steps=300", "--config.checkpoint.interval_steps=300")
    trained, control = tmp_path / "trained", tmp_path / "control"
    for workdir, config in ((trained, DEMO), (control, f"{DEMO},shuffle_captions=True")):
        result = run(workdir, *short, config=config)
        assert result.returncode == 0, result.stderr
    columns = by_label(evaluate(Request([trained], compare=[str(control)])).columns)
    recall = {
        label: {
            (split, name): measurement.value
            for split, cells in column.items()
            for name, measurement in cells["retrieval"].measurements("projected").items()
            if name.endswith("R@10")
        }
        for label, column in columns.items()
    }
    chance = {
        (split, name): measurement.chance
        for split, cells in columns["untrained"].items()
        for name, measurement in cells["retrieval"].measurements("projected").items()
    }
    assert len(recall["step 300"]) == 4
    for what, value in recall["step 300"].items():
        assert value > 3 * chance[what], what
        assert value > 2 * recall["untrained"][what], what
        assert value > 2 * recall["control"][what], what
    for what, value in recall["control"].items():
        assert value < 2.5 * chance[what], what
