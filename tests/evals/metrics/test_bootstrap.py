"""The bootstrap against SciPy's, against theory, and as a paired comparison."""

import numpy as np
import pytest
from scipy import stats

from oner_jax.evals.metrics import bootstrap
from oner_jax.evals.metrics.bootstrap import percentile_interval, resampled_means, resamples_of
from oner_jax.evals.metrics.classification import mean_per_class
from oner_jax.evals.metrics.measurement import Measurement


def test_the_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(0).exponential(size=200)
    peer = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = percentile_interval(resampled_means(values, resamples=4000))
    assert found == pytest.approx(tuple(peer), abs=0.03)


def test_examples_with_several_values_are_drawn_whole():
    """Five equal captions of a picture say no more than one."""
    hits = np.random.default_rng(0).integers(0, 2, 60).astype(np.float64)
    repeated, groups = np.repeat(hits, 5), np.repeat(np.arange(60), 5)
    np.testing.assert_allclose(resampled_means(repeated, groups), resampled_means(hits))
    alone = percentile_interval(resampled_means(repeated))
    together = percentile_interval(resampled_means(repeated, groups))
    ratio = (together[1] - together[0]) / (alone[1] - alone[0])
    assert ratio == pytest.approx(5**0.5, rel=0.15)


def test_chunks_do_not_change_the_draws(monkeypatch):
    values = np.arange(50.0)
    whole = resampled_means(values, resamples=40)
    monkeypatch.setattr(bootstrap, "_COUNTS_KEPT", 0)
    monkeypatch.setattr(bootstrap, "_COUNTS_AT_ONCE", 50 * 7)
    # Chunks draw from the same stream one after the other.
    np.testing.assert_allclose(resampled_means(values, resamples=40), whole)


def test_pairing_takes_out_what_both_models_find_hard():
    random = np.random.default_rng(0)
    difficulty = random.normal(size=500)
    first, second = (difficulty + 0.1 * random.normal(size=500) + shift for shift in (0.05, 0.0))
    draws = [resampled_means(values) for values in (first, second)]
    low, high = percentile_interval(draws[0] - draws[1])
    assert low > 0
    apart = [percentile_interval(own) for own in draws]
    assert apart[0][0] < apart[1][1]  # the intervals of the two overlap
    assert high - low < 0.2 * (apart[0][1] - apart[0][0])


def test_an_interval_needs_a_value_in_every_resample():
    few = resamples_of(lambda counts: np.where(counts[:, 0] > 0, 1.0, np.nan), 3)
    assert np.isnan(percentile_interval(few)).all()


def test_the_mean_over_classes_is_scikit_learns_balanced_accuracy():
    from sklearn.metrics import balanced_accuracy_score

    random = np.random.default_rng(0)
    classes = random.integers(0, 7, 90) ** 2  # unequal numbers, and numbers left out
    answers = np.where(random.random(90) < 0.4, classes, random.integers(0, 7, 90) ** 2)
    found = mean_per_class(answers == classes, classes, 1 / 7)
    assert found.value == pytest.approx(balanced_accuracy_score(classes, answers), abs=1e-6)
    assert found.resampled is not None
    # One resample by hand.
    random = np.random.default_rng(90)
    drawn = random.integers(90, size=(bootstrap.RESAMPLES, 90))[0]
    expected = balanced_accuracy_score(classes[drawn], answers[drawn])
    assert found.resampled[0] == pytest.approx(expected, abs=1e-6)


def test_without_cases_there_is_no_number():
    assert np.isnan(Measurement.mean(np.empty(0), 0.5).value)
