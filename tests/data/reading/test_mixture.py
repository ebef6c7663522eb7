from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data import records
from oner_jax.data.reading import mixture, order
from oner_jax.data.reading.mixture import Mixture, Part
from oner_jax.errors import InputError
from tests.data.samples import record, write_split

SEEDS = st.integers(0, 2**32 - 1)


class NamedSplit(records.Split):
    """As much of a split as the order of examples needs."""

    def __init__(self, name: str, examples: int):
        self.name, self._examples = name, examples

    def __len__(self) -> int:
        return self._examples


def mixed(sizes: list[int], weights: list[int] | None = None) -> Mixture:
    parts = [Part(NamedSplit(str(n), size), 0, size) for n, size in enumerate(sizes)]
    return Mixture(tuple(parts), None if weights is None else tuple(weights))


def by_hosts(whole: Mixture, seed: int, steps: range, batch: int, hosts: int) -> np.ndarray:
    """Examples of these steps by position, each read by the host that has its row."""
    found = np.full(len(steps) * batch, -1)
    for host in range(hosts):
        rows = np.arange(batch)[host::hosts]
        for step in steps:
            places = (step - steps.start) * batch + rows
            found[places] = whole.examples(step * batch + rows, seed)
    return found


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    batch=st.integers(1, 40),
    hosts=st.integers(1, 4),
    seed=SEEDS,
    first_step=st.integers(0, 10**6),
)
def test_each_joint_epoch_shows_every_example_once_on_any_hosts(
    sizes, batch, hosts, seed, first_step
):
    whole, total = mixed(sizes), sum(sizes)
    # From somewhere within an epoch to the end of the second one that is whole.
    steps = range(first_step, first_step + 3 * total // batch + 2)
    shown = by_hosts(whole, seed, steps, batch, hosts)
    begin = -first_step * batch % total
    for epoch in shown[begin : begin + 2 * total].reshape(2, total):
        assert sorted(epoch) == list(range(total))
    middle = range(steps.start + len(steps) // 2, steps.stop)
    resumed = by_hosts(whole, seed, middle, batch, 1)
    np.testing.assert_array_equal(shown[-len(resumed) :], resumed)


@given(
    weights=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    data=st.data(),
    seed=SEEDS,
    first=st.integers(0, 10**9),
    count=st.integers(1, 300),
)
def test_proportions_are_exact_and_every_source_has_epochs_of_its_own(
    weights, data, seed, first, count
):
    sizes = [data.draw(st.integers(1, 20)) for _ in weights]
    whole = mixed(sizes, weights)
    shown = whole.examples(np.arange(count), seed)
    starts = np.cumsum([0, *sizes])
    sources = np.searchsorted(starts, shown, side="right") - 1
    for length in range(1, count + 1):
        for source, weight in enumerate(weights):
            exact = Fraction(length * weight, sum(weights))
            assert abs((sources[:length] == source).sum() - exact) < 1
    for source, size in enumerate(sizes):
        own = shown[sources == source] - starts[source]
        for begin in range(0, len(own) - size + 1, size):
            assert sorted(own[begin : begin + size]) == list(range(size))
    # Far away nothing has to be counted up to there.
    far = whole.examples(np.arange(first, first + count), seed)
    np.testing.assert_array_equal(far[-1:], whole.examples(np.array([first + count - 1]), seed))


def test_three_to_one_is_three_to_one_in_every_four():
    sources, earlier = order.interleaving([3, 1])
    assert sorted(sources) == [0, 0, 0, 1]
    assert sorted(earlier[sources == 0]) == [0, 1, 2]
    shown = mixed([5, 100], [3, 1]).examples(np.arange(400), seed=1)
    assert [(window < 5).sum() for window in shown.reshape(100, 4)] == [3] * 100


def test_splits_of_equal_size_are_not_shown_in_the_same_order():
    shown = mixed([1000, 1000], [1, 1]).examples(np.arange(2000), seed=4)
    first, second = shown[shown < 1000], shown[shown >= 1000] - 1000
    assert np.mean(first == second) < 0.01


@given(size=st.integers(1, 40), position=st.integers(0, 10**9), seed=SEEDS)
def test_replacements_try_every_example_of_the_same_split(size, position, seed):
    whole = mixed([7, size, 5], [1, 1, 1])
    tried = [whole.replacement(7, position, attempt, seed) for attempt in range(1, size + 1)]
    assert sorted(tried) == list(range(7, 7 + size))


@given(size=st.integers(2, 400), fraction=st.floats(0.01, 0.99))
def test_the_rest_is_what_the_first_part_leaves(size, fraction):
    split = NamedSplit("split", size)
    first, rest = Part.first_of(split, fraction), Part.rest_of(split, fraction)
    indices = [part.indices(np.arange(part.number)) for part in (first, rest)]
    assert sorted(np.concatenate(indices)) == list(range(size))
    assert first.number == max(1, round(fraction * size))


@pytest.mark.parametrize(
    ("text", "names", "weights"),
    [
        ("a", ["a"], None),
        ("a=3", ["a"], None),
        ("a, b ,c", ["a", "b", "c"], None),
        ("a=3,b=1", ["a", "b"], (3, 1)),
        ("a=0.75,b=0.25", ["a", "b"], (3, 1)),
        ("a=300,b=1e2", ["a", "b"], (3, 1)),
        ("gs://x/date=today/train,b", ["gs://x/date=today/train", "b"], None),
    ],
)
def test_a_mixture_as_it_is_written(text, names, weights):
    assert mixture.parse("data.train", text) == (names, weights)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,,b", "empty name"),
        ("", "empty name"),
        ("a,a", "names 'a' twice"),
        ("a=2,b", "every split a weight"),
        ("a=2,b=0", "every split a weight above 0"),
        ("a=1,b=1000000", "fewer digits"),
    ],
)
def test_what_is_no_mixture_is_refused(text, problem):
    with pytest.raises(InputError, match=f"^data.train='{text}'.*{problem}"):
        mixture.parse("data.train", text)


def test_records_without_a_picture_or_a_caption_are_no_pairs(tmp_path):
    name = write_split(tmp_path / "split", [record(0)])
    manifest = tmp_path / "split" / records.MANIFEST
    for count, lacking in (("images_only", "caption"), ("texts_only", "picture")):
        text = manifest.read_text()
        manifest.write_text(text.replace('"examples"', f'"{count}": 12, "examples"', 1))
        with pytest.raises(InputError, match=f"data.train: .* 12 records without a {lacking};"):
            mixture.open_mixture("data.train", name, lane=0, pictures=True, captions=True)
        wanted = {"pictures": count == "images_only", "captions": count == "texts_only"}
        mixture.open_mixture("data.other", name, lane=0, **wanted)
        manifest.write_text(text)
