"""Reasoning on models of known habits: one that looks, one that parrots, one that is deaf."""

import numpy as np
import pytest

from oner_jax.evals.inputs.scenes import ComposedScenes, Layout, plan_scenes
from oner_jax.evals.metrics.ranking import unit_vectors
from oner_jax.evals.tasks.localisation import other_picture
from oner_jax.evals.tasks.reasoning import (
    by_category,
    by_name,
    category_queries,
    comes_first,
    places,
)

SCENES, CLASSES, WIDTH = 30, 200, 64


def make_scenes(number: int = SCENES) -> ComposedScenes:
    layouts = plan_scenes(np.arange(3 * number), [""] * (3 * number))
    return ComposedScenes(
        layouts=layouts,
        images=np.zeros((number, 2, 2, 3), np.uint8),
        phrases=[""] * (3 * number),
        pictures=np.repeat(np.arange(number), 3),
        boxes=[],
    )


def classes_and_scenes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    classes = unit_vectors(random.normal(size=(CLASSES, WIDTH)))
    right = random.permutation(CLASSES)[: 3 * SCENES]
    shown = classes[right].reshape(SCENES, 3, WIDTH)
    weights = random.uniform(0.5, 1.0, (SCENES, 3, 1))
    return classes, right, unit_vectors((weights * shown).sum(axis=1))


def test_places_equal_a_sorted_list():
    random = np.random.default_rng(0)
    queries, classes = random.normal(size=(20, 5)), random.normal(size=(11, 5))
    right = random.integers(0, 11, 20)
    found = places(queries, classes, right)
    for query in range(20):
        order = np.argsort(-(classes @ queries[query])).tolist()
        assert found[query] == pytest.approx(order.index(right[query]) / 10)
    assert places(np.zeros((1, 5)), classes, np.array([3])) == 1  # ties count against the model
    assert not comes_first(np.zeros((1, 5)), classes[None, :3], np.array([0])).any()


def test_a_model_that_looks_where_it_is_told():
    classes, right, scene = classes_and_scenes()
    owner = np.repeat(np.arange(SCENES), 3)
    elsewhere = owner[other_picture(owner)]
    prompted = unit_vectors(scene[owner] + classes[right])
    found = by_name(
        make_scenes(),
        classes,
        right,
        unprompted=scene,
        prompted=prompted,
        elsewhere=scene[elsewhere],
    )
    assert found["name_place"].value == 0
    assert found["name_place_no_prompt"].value < 0.05
    assert found["name_place_elsewhere"].value == pytest.approx(0.5, abs=0.1)
    assert found["name_flip"].value == 1
    assert found["name_flip"].cases == 2 * SCENES
    assert found["name_flip"].chance == pytest.approx(1 / 3)
    assert found["name_flip_elsewhere"].value == 0
    assert found["name_gain"].value == pytest.approx(found["name_place_no_prompt"].value)
    assert found["name_gain"].chance == 0  # prompts for something else change nothing here


def test_a_model_that_repeats_its_prompt_shows_it():
    classes, right, scene = classes_and_scenes()
    found = by_name(
        make_scenes(),
        classes,
        right,
        unprompted=scene,
        prompted=classes[right],
        elsewhere=classes[right],
    )
    assert found["name_place"].value == found["name_place_elsewhere"].value == 0
    assert found["name_flip"].value == 1
    # Under somebody else's name the order of the scene's own things is chance.
    assert found["name_flip_elsewhere"].value == pytest.approx(1 / 3, abs=0.2)
    assert found["name_gain"].chance < -0.3


def test_a_model_that_is_deaf_to_prompts():
    classes, right, scene = classes_and_scenes()
    owner = np.repeat(np.arange(SCENES), 3)
    found = by_name(
        make_scenes(),
        classes,
        right,
        unprompted=scene,
        prompted=scene[owner],
        elsewhere=scene[owner[other_picture(owner)]],
    )
    assert found["name_flip"].value == found["name_flip_elsewhere"].value == 0
    assert found["name_gain"].value == 0


def test_by_category_needs_scene_and_prompt():
    classes, right, scene = classes_and_scenes()
    random = np.random.default_rng(1)
    category = unit_vectors(random.normal(size=(3 * SCENES, WIDTH)))
    owner = np.repeat(np.arange(SCENES), 3)
    rivals = classes[right.reshape(-1, 3)][owner]
    asked = np.arange(3 * SCENES) % 3
    found = by_category(
        rivals,
        asked,
        classes,
        right,
        owner,
        unprompted=scene[owner],
        prompted=unit_vectors(scene[owner] + 0.7 * classes[right]),
        prompt_alone=category,
    )
    assert found["category_place"].value < found["category_place_no_prompt"].value < 0.05
    assert found["category_place_words_only"].value == pytest.approx(0.5, abs=0.1)
    assert found["category_flip"].value > 0.5


def test_categories_of_their_own_in_their_scene():
    groups = ["animals-nature", "animals", "food", "Food & drink", "my_icons", "tools"]
    groups += ["", "body", "x"]
    metadata = [{"group": group, "source": "my-icons"} for group in groups]
    tiles = ((0.0, 0.0, 0.4),) * 3
    scenes = ComposedScenes(
        layouts=[Layout((0, 1, 2), tiles), Layout((3, 4, 5), tiles), Layout((6, 7, 8), tiles)],
        images=np.zeros((3, 2, 2, 3), np.uint8),
        phrases=[""] * 9,
        pictures=np.repeat(np.arange(3), 3),
        boxes=[],
    )
    queries, names = category_queries(metadata, scenes)
    assert dict(zip(queries.tolist(), names, strict=True)) == {
        2: "food",
        3: "food drink",
        5: "tools",
        7: "body",
        8: "x",
    }
