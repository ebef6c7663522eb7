"""Means, spreads and verdicts against NumPy and SciPy; the claims against what is measured."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from ml_collections import ConfigDict
from scipy.stats import ttest_rel

from configs.ladder import ARMS, ARMS_BY_LENGTH, BASE, get_config, get_sweep
from oner_jax.claims import claims
from oner_jax.claims import figures as ladder_figures
from oner_jax.claims import report as sweep_report
from oner_jax.claims import verdicts as ladder
from oner_jax.claims.claims import Claim, Side
from oner_jax.claims.spread import (
    PRIMARY,
    Row,
    Spread,
    csv_table,
    markdown_table,
    read_rows,
    run_folder,
)
from oner_jax.claims.sweep import Look, Sweep, Trial, grid
from oner_jax.claims.verdicts import Verdict, judge
from oner_jax.errors import InputError
from oner_jax.evals.inputs.pair_views import Views
from oner_jax.evals.metrics.measurement import Measurement
from oner_jax.evals.metrics.ranking import unit_vectors
from oner_jax.evals.tasks import metric_wording
from oner_jax.evals.tasks.geometry import geometry
from oner_jax.evals.tasks.retrieval import RECALL_AT

RECALL = "retrieval/val/text_R@10"
GAP = "geometry/val/centroid_distance"
VALUES = {"plain": [0.10, 0.14, 0.12], "better": [0.30, 0.33, 0.29], "short": [0.2]}
PARAMETERS = {
    "backbone/inputs/word_table": [10, 4],
    "backbone/image_tower/x": [3, 4],
    "backbone/text_tower/x": [5],
    "backbone/image_projector/x": [7],
    "predictor/x": [100],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three trials as `oner_jax.evaluate` leaves them; the last one has only its first seed."""
    for trial, values in VALUES.items():
        for seed, value in enumerate(values):
            workdir = run_folder(tmp_path, trial, seed)
            _write_cell(workdir, "retrieval", "text_R@10", Measurement(value, 0.02, 50))
            gap = Measurement(1 - value, 0.0, fraction=False)
            _write_cell(workdir, "geometry", "centroid_distance", gap)
            manifest = {"parameters": PARAMETERS, "revision": "abc", "device_kind": "cpu"}
            (workdir / "manifest.json").write_text(json.dumps(manifest))
    # An early checkpoint, looked at for its map alone, is no result.
    early = run_folder(tmp_path, "plain", 0) / "eval/step-1/val/map.json"
    early.parent.mkdir(parents=True)
    points = np.random.default_rng(0).normal(size=(2, 30, 2)).tolist()
    early.write_text(json.dumps({"points": {"I": points[0], "T": points[1]}}))
    return tmp_path


def _write_cell(workdir: Path, task: str, name: str, measured: Measurement) -> None:
    path = workdir / f"eval/step-4/val/{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    measurements = {"projected": {name: measured.to_json()}}
    path.write_text(json.dumps({"task": task, "dataset": "val", "measurements": measurements}))


def _rows(folder: Path):
    return read_rows(folder, {name: name.title() for name in [*VALUES, "never_run"]}, (0, 1, 2))


def test_mean_and_spread_are_those_of_numpy(folder):
    plain, better, short = _rows(folder)
    for row in (plain, better):
        spread = row.primary(RECALL)
        assert spread.mean == pytest.approx(np.mean(VALUES[row.name]))
        assert spread.deviation == pytest.approx(np.std(VALUES[row.name], ddof=1))
        assert spread.number == 3
    assert str(better.primary(RECALL)) == "30.7 ± 2.1"
    assert str(better.primary(GAP)) == "0.693 ± 0.021"
    assert (short.primary(RECALL).number, str(short.primary(RECALL))) == (1, "20.0")
    assert np.isnan(short.primary(RECALL).deviation)
    # Training-only heads are no part of the model; projectors and embeddings no part of towers.
    assert (plain.parameters, plain.tower_parameters) == (40 + 12 + 5 + 7, 17)


def test_the_csv_holds_every_value(folder):
    lines = list(csv.DictReader(csv_table(_rows(folder)).splitlines()))
    assert len(lines) == 3 * 2
    (line,) = [x for x in lines if x["trial"] == "better" and x["metric"] == RECALL]
    assert [float(line[f"seed_{seed}"]) for seed in range(3)] == VALUES["better"]
    deviation = float(line["standard_deviation"])
    assert deviation == pytest.approx(np.std(VALUES["better"], ddof=1), rel=1e-5)
    (line,) = [x for x in lines if x["trial"] == "short" and x["metric"] == RECALL]
    assert (line["n"], line["seed_1"], line["standard_deviation"]) == ("1", "", "")


def test_the_table_begins_with_chance(folder):
    table = markdown_table(_rows(folder), {RECALL: "R@10", GAP: "gap"}).splitlines()
    assert table[2].split("|")[4].strip() == "2.00%"
    assert "| Better | 64 (17) | 3 | 30.7 ± 2.1 | 0.693 ± 0.021 |" in table


def _spread(values: list[float]) -> Spread:
    return Spread((0, 1, 2), tuple(values), chance=0.0, fraction=True)


@pytest.mark.parametrize(
    ("more", "less", "word"),
    [
        ([0.30, 0.33, 0.29], [0.10, 0.14, 0.12], "replicated"),
        ([0.10, 0.14, 0.12], [0.30, 0.33, 0.29], "not replicated"),
        ([0.30, 0.10, 0.20], [0.10, 0.20, 0.15], "unclear"),
        ([0.30, float("nan"), float("nan")], [0.1, 0.1, 0.1], "unclear"),
    ],
)
def test_a_verdict_follows_from_the_paired_interval(more, less, word):
    side = Side("any", RECALL)
    difference = _spread((np.array(more) - np.array(less)).tolist())
    verdict = Verdict(Claim("t", "s", side, side), _spread(more), _spread(less), difference)
    assert verdict.word == word
    if difference.number == 3:
        known = ttest_rel(more, less).confidence_interval(0.95)
        assert verdict.interval == pytest.approx((known.low, known.high))


def test_claims_are_judged_by_arm_and_by_chance(folder):
    above_chance = Claim("t", "s", Side("plain", RECALL), Side("plain", RECALL, chance=True))
    margin = Claim("t", "s", Side("better", RECALL), Side("plain", RECALL), margin=0.5)
    absent = Claim("t", "s", Side("better", "no/such/metric"), Side("plain", RECALL))
    first, second = ladder.judge(_rows(folder), [above_chance, margin, absent])
    assert first.less.values == pytest.approx([0.02] * 3)
    assert (first.word, second.word) == ("replicated", "not replicated")
    assert "| 18.7 ± " in ladder.verdict_table([second])


def test_every_claim_names_an_arm_and_something_measured():
    random = np.random.default_rng(0)
    image, text, joint, swapped = (unit_vectors(random.normal(size=(40, 8))) for _ in range(4))
    views = Views(image, text, joint, swapped, np.roll(np.arange(40), 1), np.arange(40))
    measured = {f"geometry/val/{name}" for name in geometry(views)}
    measured |= {f"retrieval/val/{side}_R@{k}" for side in ("text", "image") for k in RECALL_AT}
    measured |= {f"localisation/val/{name}" for name in metric_wording.LOCALISATION}
    measured |= {f"reasoning/val/{name}" for name in metric_wording.REASONING}
    measured |= {
        f"multimodal/val/{question}_{query}_R@10"
        for question in metric_wording.QUESTIONS
        for query in metric_wording.QUERIES
    }
    for claim in (*claims.CLAIMS, *claims.PROPERTY_CLAIMS):
        for side in (claim.more, claim.less):
            assert side.arm in ARMS
            assert side.metric in measured
    drawn = {m for panel in ladder_figures.GAP_PANELS.values() for m in panel}
    assert drawn <= measured


def test_figures_show_every_arm_that_has_the_metric(folder):
    figure = ladder_figures.arm_bars(_rows(folder), {"R": {RECALL: "r"}, "G": {"no/metric": "g"}})
    own, empty = figure.axes
    drawn = [width for width in _bar_widths(own) if width]
    assert drawn == pytest.approx([100 * np.mean(values) for values in VALUES.values()])
    assert [label.get_text() for label in own.get_yticklabels()] == ["Plain", "Better", "Short"]
    assert not any(_bar_widths(empty))
    assert own.get_ylim() == empty.get_ylim() == (2.5, -0.5), "rows at the same height everywhere"


def _bar_widths(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]


def test_everything_is_written_even_while_runs_are_missing(folder):
    sweep = Sweep(
        tuple(Trial(name, "recipe") for name in VALUES),
        seeds=(0, 1, 2),
        looks=(Look("plain", ("map",), "val", 1), Look("better", ("map",), "val", 4)),
        report="ladder",
    )
    written = {path.name for path in sweep_report.write(sweep, folder)}
    assert {"table.csv", "table.md", "origin.md", "retrieval.png", "maps.png"} <= written
    assert "recipe --config.seed=N" in (folder / "origin.md").read_text()
    assert (folder / "maps.png").read_bytes().startswith(b"\x89PNG")
    assert sweep_report.write(sweep, folder / "nothing") == []


def test_a_claim_may_compare_what_two_arms_gain(tmp_path):
    gains = {"a": 0.20, "a_base": 0.15, "b": 0.11, "b_base": 0.10}
    rows = [
        Row(name, name, {(PRIMARY, RECALL): _spread([value, value + 0.01, value])}, 0, 0, (), ())
        for name, value in gains.items()
    ]
    claim = Claim("t", "s", Side("a", RECALL, over="a_base"), Side("b", RECALL, over="b_base"))
    (verdict,) = judge(rows, [claim])
    np.testing.assert_allclose(verdict.difference.values, 0.04)
    assert judge(rows[:3], [claim]) == []


def test_arms_differ_only_in_what_they_are_about():
    """Against `oner`: a change outside what an arm is about would spoil every comparison."""
    about = {
        "clip": {"model.projection_layers", "model.learned_logits", "objective.key_source"},
        "transfer": {"data.paired_fraction", "data.text_only_batch_size"},
        "predictor": {"model.predictor_hidden_width"},
        "temperature": {"objective.temperature"},
    }
    about["clip"] |= {"objective.temperature"}
    own = _flat(get_config("epochs11"))
    for name in ARMS:
        other = _flat(get_config(f"epochs11,arm={name}"))
        differing = {key for key in own if other[key] != own[key]}
        differing = {key for key in differing if not key.startswith("objective.weights.")}
        allowed = {"model.architecture"}
        for part, keys in about.items():
            allowed |= keys if part in name else set()
        assert differing <= allowed, name
        assert ("predictor" in name) == (other["model.predictor_hidden_width"] > 0)


def _flat(config: ConfigDict) -> dict[str, Any]:
    return {
        f"{group}.{key}" if isinstance(part, ConfigDict) else group: value
        for group, part in config.items()
        for key, value in (_flat(part) if isinstance(part, ConfigDict) else {"": part}).items()
    }


def test_the_demo_may_change_without_moving_the_ladder():
    """BASE names every key in which the ladder differs from the recipe it is laid upon."""
    for key, value in BASE.items():
        assert _flat(get_config("epochs40"))[key] == value


@pytest.mark.parametrize("length", ARMS_BY_LENGTH)
def test_the_sweep_trains_every_arm_as_a_recipe(length):
    sweep = get_sweep(length)
    assert [trial.name for trial in sweep.trials] == list(ARMS_BY_LENGTH[length])
    config = get_config(length)
    for look in sweep.looks:
        assert look.trial in ARMS_BY_LENGTH[length]
        if look.step != "last":
            assert isinstance(look.step, int)
            saved = look.step % config.checkpoint.interval_steps == 0
            assert saved or look.step == config.total_steps
            assert look.step <= config.total_steps
    assert config.total_steps / config.checkpoint.interval_steps <= config.checkpoint.keep


def test_an_unknown_arm_is_refused_by_name():
    with pytest.raises(InputError, match=r"unknown arm 'xmcc' \(did you mean 'xmc'\?\)"):
        get_config("epochs11,arm=xmcc")


def test_a_grid_has_every_combination():
    sweep = grid("r.py:s", {"a.b": (1, 2), "c": ("x",)}, seeds=(3,))
    assert [trial.name for trial in sweep.trials] == ["b=1,c=x", "b=2,c=x"]
    assert sweep.trials[1].arguments(3) == [
        *("--config=r.py:s", "--config.a.b=2", "--config.c=x", "--config.seed=3")
    ]
    with pytest.raises(InputError, match="must do for a folder"):
        Trial("../up", "r.py")
    with pytest.raises(InputError, match="different names"):
        Sweep((Trial("same", "a"), Trial("same", "b")))
