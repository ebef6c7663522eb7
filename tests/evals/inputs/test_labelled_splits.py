"""What classifiers are fitted on, and the tasks that fit them, where the answer is known."""

import dataclasses

import numpy as np
import pytest

from oner_jax.evals.engine.suite import evaluate_subject
from oner_jax.evals.inputs.labelled_splits import shared_classes
from oner_jax.evals.metrics.classification import certain_mistakes, confusion
from tests.evals.conftest import ColourPictures


def pictures_of(labels: list[str], groups: list[str]) -> ColourPictures:
    made = ColourPictures(len(labels))
    made.labels = labels
    made.metadata = [{"group": group} for group in groups]
    return made


def test_classes_are_labels_that_both_splits_have_often_enough():
    training = pictures_of(["Cat"] * 12 + ["dog"] * 10 + ["rare"] * 9 + [""], [""] * 32)
    tested = pictures_of(["dog", "cat ", "rare", "", "new"] * 20, ["x"] * 100)
    assert (
        shared_classes(training, pictures_of(["dog", "cat", "a", "b", "c"] * 20, [""] * 100))
        is None
    )
    shared = shared_classes(training, tested)
    assert shared is not None
    assert (shared.kind, shared.names) == ("label", ["cat", "dog"])
    assert len(shared.train) == 22
    assert shared.test.tolist()[:4] == [0, 1, 5, 6]
    assert shared.test_classes.tolist()[:4] == [1, 0, 1, 0]
    held_out = shared.validation
    assert np.bincount(shared.train_classes[held_out]).tolist() == [2, 2]


def test_where_labels_are_too_many_groups_are_the_classes():
    training = pictures_of([f"thing {n}" for n in range(40)], ["tools", "animals"] * 20)
    tested = pictures_of([f"thing {n}" for n in range(40)], ["animals", "food"] * 20)
    assert shared_classes(training, tested) is None  # animals alone
    tested.metadata[0] = {"group": "tools"}
    assert shared_classes(training, tested) is None  # 20 pictures are too few to be scored
    tested = pictures_of([""] * 40, ["animals", "tools"] * 20)
    shared = shared_classes(training, tested)
    assert shared is not None
    assert (shared.kind, shared.names) == ("group", ["animals", "tools"])


def test_classifiers_know_warm_from_cold_in_either_modality(colour_world):
    colour_world.pictures = ColourPictures(60)
    training = ColourPictures(120)
    training.colours[:, 1] = 255 - training.colours[:, 1]
    for own in (training, colour_world.pictures):
        warmth = ["warm" if red > blue else "cold" for red, _, blue in own.colours]
        own.metadata = [{"group": group} for group in warmth]
    dataset = dataclasses.replace(
        colour_world.dataset(), load_training=lambda: training, training_hash="one"
    )
    subject, _ = colour_world.subject()
    tasks = ["probe", "knn", "few_shot", "transfer"]
    cells = evaluate_subject(subject, [dataset], tasks=tasks)["val"]
    for space in ("projected", "backbone"):
        assert cells["probe"].measurements(space)["top1"].value > 0.95
        assert cells["knn"].measurements(space)["knn_1"].value > 0.85
        few = cells["few_shot"].measurements(space)
        assert 0.6 < few["shots_1"].value < few["shots_8"].value
    across = cells["transfer"].measurements("projected")
    assert len(across) == 5
    assert min(own.value for own in across.values()) > 0.9
    top = cells["probe"].measurements("projected")["top1"]
    assert (top.chance, top.cases) == (0.5, 60)
    assert 0.9 < top.interval[0] <= top.value <= top.interval[1] <= 1
    counts = np.array(cells["probe"].content["confusion"]["counts"])
    assert np.trace(counts) / counts.sum() == pytest.approx(top.value)
    assert cells["probe"].content["target"] == "group"


def test_without_a_training_split_nothing_is_fitted(colour_world):
    subject, _ = colour_world.subject()
    cells = evaluate_subject(subject, [colour_world.dataset()], tasks=["probe", "knn"])["val"]
    assert "no training split" in cells["probe"].content["absent"]
    assert cells["knn"].measurements("projected") == {}


def test_a_confusion_matrix_counts_answers_by_class():
    classes = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    answers = np.array([0, 1, 1, 1, 1, 2, 0, 2, 2])
    found = confusion(classes, answers, ["a", "b", "c"])
    assert found is not None
    assert found["classes"] == ["a", "b", "c"]
    assert found["counts"] == [[1, 2, 0, 0], [0, 2, 0, 0], [1, 0, 3, 0]]
    assert confusion(np.arange(9), np.arange(9), list("abcdefghi")) is None


def test_of_many_classes_those_that_are_confused_are_shown():
    classes = np.repeat(np.arange(100), 5)
    answers = classes.copy()
    answers[classes == 70] = 40
    answers[np.flatnonzero(classes == 3)[:2]] = 99
    found = confusion(classes, answers, [str(number) for number in range(100)])
    assert found is not None
    assert len(found["classes"]) == 25
    assert {"3", "40", "70", "99"} <= set(found["classes"])
    row = found["counts"][found["classes"].index("70")]
    assert row[found["classes"].index("40")] == 5
    assert sum(row) == 5


def test_mistakes_are_shown_from_the_most_certain_on():
    scores = np.array([[0.9, 0.1], [0.2, 0.6], [0.1, 0.8], [0.3, 0.4]])
    classes = np.array([1, 1, 0, 0])
    found = certain_mistakes(scores, classes, np.array([10, 11, 12, 13]), ["a", "b"])
    assert [(one["index"], one["class"], one["answer"]) for one in found] == [
        (10, "b", "a"),
        (12, "a", "b"),  # and not 13, which is the same kind of mistake
    ]
