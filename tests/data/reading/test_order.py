import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from oner_jax.data.reading import order

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(number=st.integers(1, 3000), seed=SEEDS, epoch=st.integers(0, 10**6))
def test_each_epoch_visits_every_example_once(number, seed, epoch):
    positions = np.arange(epoch * number, (epoch + 1) * number)
    indices, epochs = order.example_indices(positions, number, seed)
    assert sorted(indices) == list(range(number))
    assert set(epochs) == {epoch}


def test_the_parts_of_a_shuffle_cover_every_example_once_and_are_random():
    indices = order.shuffled_indices(np.arange(1000), 1000)
    np.testing.assert_array_equal(np.sort(indices), np.arange(1000))
    # The mean of a random part of 250 is 500 with a standard error of 15.8.
    assert abs(indices[:250].mean() - 500) < 80
    np.testing.assert_array_equal(order.shuffled_indices(np.array([3, 7]), 1000), indices[[3, 7]])


def test_epochs_and_seeds_differ():
    positions = np.arange(2000)
    indices, _ = order.example_indices(positions, 1000, seed=0)
    other, _ = order.example_indices(positions, 1000, seed=1)
    assert np.mean(indices[:1000] == indices[1000:]) < 0.01
    assert np.mean(indices == other) < 0.01


@pytest.mark.parametrize("number", [4096, 5000])
def test_order_looks_random(number):
    indices, _ = order.example_indices(np.arange(number), number, seed=7)
    # Independence of place and example, and of neighbours, over a grid of cells.
    for first, second in [(np.arange(number), indices), (indices[:-1], indices[1:])]:
        cells, _, _ = np.histogram2d(first, second, bins=16)
        assert scipy.stats.chi2_contingency(cells).pvalue > 1e-3
    # A random permutation keeps one example in its place on average.
    assert np.sum(indices == np.arange(number)) <= 6


def test_trillions_of_examples_take_no_table():
    number = 10**12 + 39
    indices, epochs = order.example_indices(np.arange(number - 500, number + 500), number, seed=3)
    assert indices.min() >= 0
    assert indices.max() < number
    assert list(epochs) == [0] * 500 + [1] * 500
    assert len(set(indices[:500])) == 500


@settings(max_examples=25, deadline=None)
@given(number=st.integers(1, 500), seed=SEEDS, data=st.data())
def test_a_position_alone_gives_what_it_gives_among_others(number, seed, data):
    positions = np.array(data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=20)))
    indices, _ = order.example_indices(positions, number, seed)
    alone = [
        order.example_indices(positions[i : i + 1], number, seed)[0][0]
        for i in range(len(positions))
    ]
    assert list(indices) == alone


@settings(max_examples=25, deadline=None)
@given(number=st.integers(2, 2000), seed=SEEDS)
def test_derangement_moves_every_example(number, seed):
    deranged = order.deranged_indices(np.arange(number), number, seed)
    assert sorted(deranged) == list(range(number))
    assert not np.any(deranged == np.arange(number))


def test_one_example_has_no_derangement():
    with pytest.raises(ValueError, match="two examples"):
        order.deranged_indices(np.arange(1), 1, seed=0)


def test_uniforms_are_uniform_and_independent():
    uniforms = order.position_uniforms(np.arange(20_000), 3, seed=5)
    for column in uniforms.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-3
    neighbours = np.concatenate([uniforms[:-1], uniforms[1:]], axis=1)
    correlations = np.corrcoef(neighbours.T) - np.eye(6)
    assert np.abs(correlations).max() < 5 / np.sqrt(20_000)


def test_uniforms_depend_on_seed_and_position_alone():
    together = order.position_uniforms(np.array([9, 10**12, 4]), 2, seed=5)
    assert np.array_equal(together[1:2], order.position_uniforms(np.array([10**12]), 2, seed=5))
    assert not np.any(together == order.position_uniforms(np.array([9, 10**12, 4]), 2, seed=6))
