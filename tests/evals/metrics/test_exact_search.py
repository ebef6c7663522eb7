"""Exact search on the device against a sort of all scores."""

import numpy as np
import pytest

from oner_jax.evals.metrics.exact_search import COUNTED_COLUMNS, best_of
from oner_jax.evals.metrics.ranking import Matches, best_ranks


@pytest.mark.parametrize(("gallery", "k"), [(7, 10), (64, 3), (500, 20), (500, 1)])
@pytest.mark.parametrize("maximum_scores", [10**6, 1500])
def test_the_best_are_those_of_a_stable_sort(gallery, k, maximum_scores):
    random = np.random.default_rng(gallery + k)
    # Small integers: products are exact, and there are many ties.
    queries = random.integers(-2, 3, (11, 4)).astype(np.float32)
    items = random.integers(-2, 3, (gallery, 4)).astype(np.float32)
    found, scores = best_of(queries, items, k, maximum_scores=maximum_scores)
    everything = queries @ items.T
    expected = np.argsort(-everything, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(everything, expected, axis=1))


def test_many_queries_in_chunks_rank_as_in_one_product():
    random = np.random.default_rng(0)
    texts = random.normal(size=(3000, 8)).astype(np.float32)
    images = random.normal(size=(700, 8)).astype(np.float32)
    owners = random.integers(0, 700, 3000)
    matches = Matches.from_pairs(np.arange(3000), owners, 3000)
    scores = texts @ images.T
    own = scores[np.arange(3000), owners]
    expected = 1 + (scores > own[:, None]).sum(axis=1)
    for maximum_scores in (2**26, 2**16):
        ranks = best_ranks(texts, images, matches, maximum_scores=maximum_scores)
        # Products in other blocks may round differently where two scores are almost equal.
        assert np.mean(ranks == expected) > 0.999
        assert np.abs(ranks - expected).max() <= 1


@pytest.mark.parametrize("items", [COUNTED_COLUMNS, 2 * COUNTED_COLUMNS, 2 * COUNTED_COLUMNS + 7])
def test_wrong_items_are_counted_wherever_they_stand(items):
    random = np.random.default_rng(items)
    # Small integers: products are exact, and there are many ties, which stand in front.
    queries = random.integers(-2, 3, (13, 4)).astype(np.float32)
    gallery = random.integers(-2, 3, (items, 4)).astype(np.float32)
    right = random.integers(0, items, 13)
    scores = queries @ gallery.T
    expected = (scores >= scores[np.arange(13), right][:, None]).sum(axis=1)
    ranks = best_ranks(queries, gallery, Matches.from_pairs(np.arange(13), right, 13))
    np.testing.assert_array_equal(ranks, expected)
