"""Ranks and chance levels against brute force, Monte Carlo and scikit-learn."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from oner_jax.evals.metrics.ranking import (
    Matches,
    best_ranks,
    expected_recall,
    nearest,
    unit_vectors,
)


def random_matches(random: np.random.Generator, queries: int, gallery: int) -> Matches:
    """Between zero and all of the gallery per query."""
    related = random.random((queries, gallery)) < random.random()
    rows, columns = np.nonzero(related)
    return Matches.from_pairs(rows, columns, queries)


def brute_force_rank(scores: np.ndarray, right: np.ndarray, excluded: np.ndarray) -> int:
    """By the definition, one query: wrong answers at least as good as the best right one."""
    if len(right) == 0:
        return len(scores) + 1
    best = max(scores[index] for index in right)
    wrong = set(range(len(scores))) - set(right.tolist()) - set(excluded.tolist())
    return 1 + sum(scores[index] >= best for index in wrong)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 12),
    gallery=st.integers(1, 12),
    maximum_scores=st.sampled_from([1, 7, 30, 10**6]),
)
def test_best_ranks_equal_the_definition(seed, queries, gallery, maximum_scores):
    random = np.random.default_rng(seed)
    # Small integers: products are exact in float32, and there are many ties.
    left = random.integers(-2, 3, (queries, 3)).astype(np.float32)
    right = random.integers(-2, 3, (gallery, 3)).astype(np.float32)
    matches = random_matches(random, queries, gallery)
    others = random.random((queries, gallery)) < 0.2
    others[np.repeat(np.arange(queries), matches.counts), matches.members] = False
    rows, columns = np.nonzero(others)
    excluded = Matches.from_pairs(rows, columns, queries)
    ranks = best_ranks(left, right, matches, excluded, maximum_scores=maximum_scores)
    scores = left.astype(np.float64) @ right.T.astype(np.float64)
    expected = [
        brute_force_rank(scores[query], matches.of(query), excluded.of(query))
        for query in range(queries)
    ]
    np.testing.assert_array_equal(ranks, expected)


def test_one_right_answer_each_agrees_with_scikit_learn():
    random = np.random.default_rng(1)
    left, right = random.normal(size=(200, 8)), random.normal(size=(40, 8))
    labels = random.integers(0, 40, 200)
    ranks = best_ranks(left, right, Matches.from_pairs(np.arange(200), labels, 200))
    for k in (1, 5, 10):
        expected = top_k_accuracy_score(labels, left @ right.T, k=k, labels=np.arange(40))
        assert np.mean(ranks <= k) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_space_that_tells_nothing_apart_scores_nothing(value):
    same = np.full((20, 4), value, np.float32)
    ranks = best_ranks(same, same, Matches.from_pairs(np.arange(20), np.arange(20), 20))
    np.testing.assert_array_equal(ranks, 20)


def test_matches_know_their_reverse():
    random = np.random.default_rng(2)
    related = random.random((9, 14)) < 0.3
    rows, columns = np.nonzero(related)
    doubled = Matches.from_pairs(np.tile(rows, 2), np.tile(columns, 2), 9)
    np.testing.assert_array_equal(doubled.counts, related.sum(axis=1))
    back = doubled.transposed(14)
    for column in range(14):
        np.testing.assert_array_equal(back.of(column), np.flatnonzero(related[:, column]))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_chance_is_what_random_rankings_give(k):
    random = np.random.default_rng(3)
    matches = random_matches(random, 30, 25)
    trials = 400
    hits = 0.0
    for _ in range(trials):
        queries, gallery = random.normal(size=(30, 60)), random.normal(size=(25, 60))
        hits += np.mean(best_ranks(queries, unit_vectors(gallery), matches) <= k)
    assert expected_recall(matches.counts, 25, k) == pytest.approx(hits / trials, abs=0.02)


def test_chance_counted_over_every_ranking():
    gallery, right = 5, 2
    for k in range(1, 8):
        hits = [min(order[:right]) < k for order in itertools.permutations(range(gallery))]
        assert expected_recall(np.array([right]), gallery, k) == pytest.approx(np.mean(hits))


def test_chance_at_the_edges():
    assert expected_recall(np.array([0]), 10, 5) == 0
    assert expected_recall(np.array([1]), 1660, 1) == pytest.approx(1 / 1660)
    assert expected_recall(np.array([1, 1]), np.array([10, 20]), 1) == pytest.approx(0.075)


def test_nearest_sorts_best_first():
    gallery = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    found, scores = nearest(np.array([1.0, 0.0]), gallery, 2)
    np.testing.assert_array_equal(found, [1, 2])
    np.testing.assert_allclose(scores, [1.0, 0.6])


def test_unit_vectors_leave_zero_alone():
    vectors = unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.0, 0.0]])
