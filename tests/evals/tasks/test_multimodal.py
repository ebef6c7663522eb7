"""Questions of picture and phrase: which are asked, what is right, and how answers are counted."""

import numpy as np
import pytest

from oner_jax.evals.metrics.ranking import unit_vectors
from oner_jax.evals.tasks.multimodal import (
    Questions,
    changed_word,
    multimodal,
    question_sets,
    same_object,
    same_vendor,
)

CAPTIONS = ["cat", "cat", "a cat", "dog", "dog", "bird", "cat"]
CONCEPTS = ["c", "c", "c", "d", "d", "b", ""]
VENDORS = ["one", "two", "two", "one", "two", "one", "one"]


def test_the_same_object_by_others():
    asked = list(same_object(CAPTIONS, CONCEPTS, VENDORS))
    assert asked == [
        (0, "cat", [1, 2]),
        (1, "cat", [0]),
        (2, "a cat", [0]),
        (3, "dog", [4]),
        (4, "dog", [3]),
    ]


def test_another_object_by_the_same_vendor():
    asked = list(same_vendor(CAPTIONS, CONCEPTS, VENDORS))
    assert [(phrase, right) for _, phrase, right in asked] == [
        ("cat", [0]),
        ("cat", [1, 2]),
        ("a cat", [1, 2]),
        ("dog", [3]),
        ("dog", [4]),
    ]
    for shown, _, right in asked:
        assert all(VENDORS[shown] == VENDORS[answer] for answer in right)
        assert all(CONCEPTS[shown] != CONCEPTS[answer] for answer in right)
    assert asked == list(same_vendor(CAPTIONS, CONCEPTS, VENDORS))


def test_one_word_changed():
    """`red` and `blue` are in five captions each, the things in two."""
    things = ["square", "circle", "heart", "book", "car"]
    captions = [f"{colour} {thing}" for thing in things for colour in ("Red", "blue")]
    captions += ["blue heart", "green", "very red square"]
    asked = list(changed_word(captions))
    assert (0, "blue", [1]) in asked
    assert (4, "blue", [5, 10]) in asked
    assert (10, "red", [4]) in asked
    assert {phrase for _, phrase, _ in asked} == {"red", "blue"}
    assert len(asked) == 11  # every coloured thing once
    assert list(changed_word(["red square", "blue square"])) == []  # too few captions of the word


def test_sets_too_small_are_left_out_and_large_ones_cut():
    metadata = [
        {"concept": str(index // 2), "source": "one" if index % 2 else "two"}
        for index in range(3000)
    ]
    sets = question_sets([f"{index // 2}" for index in range(3000)], metadata)
    assert set(sets) == {"same_object", "same_vendor"}
    assert len(sets["same_object"].phrases) == 1000
    assert len(np.unique(sets["same_object"].pictures)) == 1000
    assert question_sets(["one", "two"], [{}, {}]) == {}


def test_recall_equals_a_search_by_hand():
    random = np.random.default_rng(0)
    gallery = unit_vectors(random.normal(size=(60, 6)))
    asked = [
        (int(random.integers(60)), "", sorted({int(index) for index in random.integers(0, 60, 3)}))
        for _ in range(40)
    ]
    asked = [(shown, text, [i for i in right if i != shown]) for shown, text, right in asked]
    questions = Questions.of(asked)
    joint = unit_vectors(random.normal(size=(40, 6)))
    queries = {"joint": joint, "image": gallery[questions.pictures]}
    found = multimodal(queries, gallery, questions)
    for kind, vectors in queries.items():
        for k in (1, 5, 10):
            hits = []
            for (shown, _, right), vector in zip(asked, vectors, strict=True):
                order = [i for i in np.argsort(-(gallery @ vector)) if i != shown]
                wrong_before = 0
                for index in order:
                    if index in right:
                        break
                    wrong_before += 1
                hits.append(wrong_before < k)
            assert found[f"{kind}_R@{k}"].value == pytest.approx(np.mean(hits))
    sizes = np.array([len(right) for _, _, right in asked])
    assert found["joint_R@1"].chance == pytest.approx(np.mean(sizes / 59))
