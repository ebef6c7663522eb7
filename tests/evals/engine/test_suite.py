"""Cells: what is in them, when they are made again, and that none is ever half there."""

import copy
import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from oner_jax.errors import InputError
from oner_jax.evals.engine.evaluation import cut_off
from oner_jax.evals.engine.suite import Dataset, evaluate_subject
from oner_jax.evals.engine.table import Column, metric_rows, text_table
from oner_jax.evals.inputs.features import Corpus, encode
from oner_jax.evals.inputs.scenes import ComposedScenes
from oner_jax.evals.inputs.templates import template_set
from oner_jax.evals.metrics.measurement import Measurement, format_ratio, format_value
from oner_jax.evals.metrics.ranking import unit_vectors
from oner_jax.evals.tasks.catalogue import TASK_SETS, TASKS, Task, most_certain
from tests.evals.conftest import LONGEST, ColourPictures, ColourWorld


def evaluate(world: Any, **options: Any) -> Any:
    subject, embedder = world.subject(**options)
    return evaluate_subject(subject, [world.dataset()]), embedder


def test_a_perfect_model_is_measured_as_perfect(colour_world):
    cells, _ = evaluate(colour_world)
    for space in ("projected", "momentum"):
        found = cells["val"]["retrieval"].measurements(space)
        assert found["text_R@1"].value == found["image_R@1"].value == 1
        assert found["text_R@1"].chance == pytest.approx(1 / 29)  # 2 captions among 58
        assert cells["val"]["zeroshot"].measurements(space)["top1"].value == 1
    assert cells["val"]["zeroshot"].measurements("projected")["top1"].cases == 29
    joint = cells["val"]["geometry"].measurements("projected")
    assert joint["cos_joint_image"].value == pytest.approx(1, abs=1e-4)
    assert joint["change_other_caption"].value > 0.1
    assert not cells["val"]["geometry"].measurements("momentum")


def test_a_model_without_a_joint_view_is_measured_without_it(colour_world):
    cells, _ = evaluate(colour_world, views=frozenset({"I", "T"}))
    whole, _ = evaluate(colour_world, label="whole")
    assert cells["val"]["retrieval"].measurements("projected")["text_R@1"].value == 1
    for space in ("projected", "backbone"):
        separate = cells["val"]["geometry"].measurements(space)
        together = whole["val"]["geometry"].measurements(space)
        assert set(together) - set(separate) == {
            "cos_joint_image",
            "cos_joint_text",
            "change_other_caption",
            "change_other_picture",
        }
        assert {name: together[name] for name in separate} == separate
    assert set(cells["val"]["map"].content["points"]) == {"I", "T"}
    assert cells["val"]["reasoning"].content["absent"] == "this architecture has no view IT"
    assert whole["val"]["reasoning"].measurements("projected")
    assert cells["val"]["localisation"].measurements("projected")["pointing"].value > 0.9


def test_texts_that_are_not_read_to_their_end_are_counted(colour_world):
    """Two classes differ only behind what the model reads, and a third one fits just so."""
    pictures = colour_world.pictures
    for picture, ending in ((3, "a"), (4, "b")):
        pictures.labels[picture] = f"tone 1 2 3{' ' * LONGEST}{ending}"
    pictures.labels[5] = "tone 4 5 6".ljust(LONGEST, "c")
    pictures.captions[6] = ["tone 7 8 9" + "d" * LONGEST]
    cells, _ = evaluate(colour_world)
    templates = template_set("names")
    assert cells["val"]["retrieval"].content["cut"] == {
        "texts": 57,
        "texts_cut": 1,
        "prompts": 29 * len(templates),
        "prompts_cut": 3 * len(templates) - 1,
        "prompts_alike": 2 * len(templates),
    }
    column = Column("step 7", "run", 7, cells)
    assert cut_off([column]) == [
        "val: step 7 does not read to their end 1 of 57 texts, 14 of 145 prompts, 10 of these "
        "prompts are then equal to another class's"
    ]
    whole, _ = evaluate(ColourWorld(colour_world.workdir / "whole", ColourPictures()))
    assert cut_off([Column("step 7", "run", 7, whole)]) == []


def test_every_cell_is_a_file_and_is_reused(colour_world):
    first, embedder = evaluate(colour_world)
    folder = colour_world.workdir / "eval/step-7/val"
    cells = sorted(path.name for path in folder.glob("*.json"))
    assert cells == sorted(f"{task}.json" for task in TASK_SETS["standard"])
    again, unused = evaluate(colour_world)
    assert embedder.calls > 0
    assert unused.calls == 0
    assert again == first


@pytest.mark.parametrize("change", ["force", "identity", "dataset", "templates", "damage"])
def test_a_cell_is_made_again_when_what_it_was_made_from_changed(colour_world, change):
    evaluate(colour_world)
    cell = colour_world.workdir / "eval/step-7/val/retrieval.json"
    if change == "damage":
        cell.write_text(cell.read_text()[:40])
    subject, embedder = colour_world.subject(identity="new" if change == "identity" else "same")
    dataset = colour_world.dataset(content_hash="two" if change == "dataset" else "one")
    if change == "templates":
        dataset = dataclasses.replace(dataset, templates="imagenet_slip")
    evaluate_subject(subject, [dataset], force=change == "force")
    assert embedder.calls > 0
    assert json.loads(cell.read_text())["task"] == "retrieval"


def test_another_grid_makes_the_cells_of_localisation_again(colour_world):
    evaluate(colour_world)
    subject, _ = colour_world.subject()
    finer = evaluate_subject(subject, [colour_world.dataset()], patches_per_side=20)["val"]
    assert finer["localisation"].content["patches_per_side"] == 20
    plain = finer["localisation"].content["examples"]["plain"]
    read_out = finer["localisation"].content["read_out"]
    sizes = {len(query["map"]) for example in plain for query in example["queries"]}
    assert sizes == {144 if read_out == "windows" else 400}
    again = evaluate_subject(subject, [colour_world.dataset()])["val"]
    assert again["localisation"].content["patches_per_side"] == 12
    assert again["retrieval"] == finer["retrieval"]  # with the time at which it was made


def test_a_failure_leaves_finished_cells_and_no_half_ones(colour_world, monkeypatch):
    def fail(material: Any) -> Any:
        raise RuntimeError("killed")

    monkeypatch.setitem(TASKS, "geometry", Task(fail))
    with pytest.raises(RuntimeError, match="killed"):
        evaluate(colour_world)
    folder = colour_world.workdir / "eval/step-7/val"
    finished = sorted(path.stem for path in folder.glob("*.json"))
    assert finished == ["few_shot", "knn", "probe", "retrieval", "transfer", "zeroshot"]
    assert not list(folder.glob("*.partial"))


def test_features_that_are_not_finite_are_refused(colour_world):
    subject, _ = colour_world.subject(noise=math.inf)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InputError, match=r"not finite; evaluate an earlier checkpoint"),
    ):
        evaluate_subject(subject, [colour_world.dataset()])


def test_progress_reaches_its_end(colour_world):
    subject, embedder = colour_world.subject()
    seen = []
    corpus = Corpus.of(colour_world.pictures)
    encode(
        colour_world.pictures,
        corpus,
        embedder,
        tokenize=subject.tokenize,
        templates=["{}"],
        joint=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    # 58 distinct captions, 29 class names (one picture has no label, two share one), 30 pictures.
    assert seen[-1] == (58 + 29 + 30, 58 + 29 + 30)


def test_a_dataset_without_labels_has_no_zeroshot_numbers(colour_world):
    colour_world.pictures.labels = [""] * colour_world.pictures.number
    cells, _ = evaluate(colour_world)
    assert cells["val"]["zeroshot"].measurements("projected") == {}
    assert cells["val"]["zeroshot"].content["absent"] == "fewer than two labels"
    assert "zeroshot" not in text_table({"step 7": cells})


def test_certain_queries_are_those_of_highest_csls():
    random = np.random.default_rng(0)
    queries = unit_vectors(random.normal(size=(40, 6)))
    gallery = unit_vectors(random.normal(size=(30, 6)))
    cosines = queries @ gallery.T
    to_pictures = np.sort(cosines, axis=1)[:, -10:].mean(axis=1)
    to_captions = np.sort(cosines, axis=0)[-10:].mean(axis=0)
    best = cosines.argmax(axis=1)
    mutual = 2 * cosines.max(axis=1) - to_pictures - to_captions[best]
    certain = most_certain(queries, gallery, 40).tolist()
    assert certain[0] == mutual.argmax()
    assert mutual[certain].tolist() == sorted(mutual[certain], reverse=True)
    for place, query in enumerate(certain):
        earlier = np.argsort(-cosines[certain[:place]], axis=1)[:, :5]
        assert best[query] not in earlier


def test_examples_mark_right_answers(colour_world):
    found = evaluate(colour_world)[0]["val"]["examples"].content
    for kind in ("text_to_image", "certain"):
        for query in found[kind]:
            assert query["answers"][0]["hit"]
            assert query["answers"][0]["caption"] == query["caption"]
    for query in found["image_to_text"]:
        assert {answer["caption"] for answer in query["answers"] if answer["hit"]} == set(
            query["captions"]
        )


def test_the_table_puts_chance_and_ratio_beside_every_number(colour_world):
    columns = {
        "step 7": evaluate(colour_world)[0],
        "untrained": evaluate(colour_world, label="untrained", noise=1e6)[0],
    }
    lines = text_table(columns).splitlines()
    assert lines[0].split() == [
        *("metric", "chance", "step", "7", "×", "chance"),
        *("its", "backbone", "its", "momentum", "untrained"),
    ]
    row = next(line.split() for line in lines if line.startswith("retrieval/val/text_R@1 "))
    assert row[1:4] == ["3.45%", "100.0%", "29×"]
    assert float(row[-1].rstrip("%")) < 20
    everything = [name for name, _ in metric_rows(columns)]
    by_read_out = [name for name in everything if "_by_" in name]
    assert len(by_read_out) == 2 * 2 * 4  # two numbers, two grounds, four read-outs
    shown = [line for line in lines if "/" in line]
    # Without mean_per_class.
    assert len(shown) == len(everything) - len(by_read_out) - 1
    assert "zeroshot/val/mean_per_class" in everything


def test_the_table_marks_where_lower_is_better_and_where_cases_are_few(colour_world):
    cells = evaluate(colour_world)[0]
    lines = text_table({"step 7": cells}).splitlines()
    alignment = next(line.split() for line in lines if "/alignment " in line)
    assert alignment[3] == "↓"
    assert "↓  lower is better" in lines
    cosine = next(line for line in lines if "/cos_joint_image " in line)
    assert "×" not in cosine, "a control, which no direction makes better"
    flips = cells["val"]["reasoning"].measurements("projected")["name_flip"]
    few = next(line for line in lines if "/name_flip " in line).split()[2].endswith("?")
    assert few is (0 < flips.cases < 30)


def test_a_dataset_of_boxes_has_the_tasks_on_boxes_alone(colour_world):
    colour_world.pictures.number = 4
    images = np.full((2, 4, 4, 3), 255, np.uint8)
    images[0, :2, :2] = images[1, 2:, :3] = [200, 10, 10]
    boxed = ComposedScenes(
        layouts=[],
        images=images,
        phrases=["tone 200 10 10"] * 2,
        pictures=np.array([0, 1]),
        boxes=[np.array([[0.0, 0.0, 0.5, 0.5]]), np.array([[0.0, 0.5, 0.75, 1.0]])],
    )
    subject, _ = colour_world.subject()
    dataset = Dataset("own", "hash", load_boxed=lambda size: boxed)
    cells = evaluate_subject(subject, [dataset])
    assert set(cells["own"]) == {"localisation"}
    content = cells["own"]["localisation"].content
    assert (content["pictures"], content["captions"]) == (2, 1)
    assert cells["own"]["localisation"].measurements("projected")["box"].value == 1
    assert "localisation/own/pointing " in text_table({"step 7": cells})


@pytest.mark.parametrize(
    ("number", "fraction", "shown"),
    [
        (0.0006, True, "0.06%"),
        (0.126, True, "12.6%"),
        (0.0, True, "0.0%"),
        (1.0, True, "100.0%"),
        (-0.00001, False, "0.000"),
        (math.nan, False, "n/a"),
    ],
)
def test_numbers_as_shown(number, fraction, shown):
    assert format_value(number, fraction) == shown


def test_ratio_and_interval():
    measured = Measurement.mean(np.arange(100) < 50, chance=0.01)
    assert format_ratio(measured.ratio) == "50×"
    # The bootstrap of a share is binomial: scipy.stats.binom(100, 0.5).interval(0.95).
    assert measured.interval == pytest.approx((0.40, 0.60), abs=0.011)
    assert Measurement.mean(np.zeros(20), 0.1).interval == (0, 0)
    assert math.isnan(Measurement(0.5, 0.0).ratio)
    again = Measurement.from_json(json.loads(json.dumps(measured.to_json())))
    assert again == measured
    stored = json.loads(json.dumps(Measurement(math.nan, 0.5).to_json()))
    assert math.isnan(Measurement.from_json(stored).value)


def test_a_row_for_each_caption_measures_as_one_row_for_each_picture(colour_world, tmp_path):
    """The second caption of every picture in a row of its own, with an equal picture."""
    apart = dataclasses.replace(colour_world, workdir=tmp_path / "apart")
    pictures = apart.pictures = copy.copy(colour_world.pictures)
    number = pictures.number
    pictures.captions = [[own[c]] for c in (0, 1) for own in pictures.captions]
    pictures.colours = np.tile(pictures.colours, (2, 1))
    pictures.labels, pictures.metadata = 2 * pictures.labels, 2 * pictures.metadata
    pictures.number *= 2
    pictures.first_equal = np.tile(np.arange(number), 2)
    separate, _ = evaluate(apart)
    perfect, _ = evaluate(dataclasses.replace(colour_world, workdir=tmp_path / "perfect"))
    for space in ("projected", "momentum"):
        found, expected = (
            cells["val"]["retrieval"].measurements(space) for cells in (separate, perfect)
        )
        for name in ("text_R@1", "image_R@1"):
            assert found[name].value == 1
            assert found[name].chance == pytest.approx(expected[name].chance)
            assert found[name].cases == expected[name].cases
    pooled = separate["val"]["geometry"].measurements("projected")
    assert pooled["pooled_text_R@1"].value == pooled["unpooled_text_R@1"].value == 1
    examples = separate["val"]["examples"].content
    for query in (*examples["text_to_image"], *examples["certain"]):
        shown = [answer["index"] % number for answer in query["answers"]]
        assert len(set(shown)) == len(shown)
    assert examples["mistaken"] == []


def test_equal_pictures_are_asked_and_sought_once(colour_world):
    """Where a phrase asks for another picture, too."""
    pictures = colour_world.pictures
    pictures.metadata = [
        {"concept": str(row // 2), "source": str(row % 2)} for row in range(pictures.number)
    ]
    before, _ = evaluate(colour_world)
    pictures.colours = np.concatenate([pictures.colours, pictures.colours])
    pictures.captions, pictures.labels = 2 * pictures.captions, 2 * pictures.labels
    pictures.metadata = 2 * pictures.metadata
    pictures.first_equal = np.tile(np.arange(pictures.number), 2)
    pictures.number *= 2
    cells, _ = evaluate(colour_world, label="twice")
    for space in ("projected", "backbone"):
        found = cells["val"]["multimodal"].measurements(space)
        assert found == before["val"]["multimodal"].measurements(space)
        assert found["same_object_text_R@1"].cases == 30
