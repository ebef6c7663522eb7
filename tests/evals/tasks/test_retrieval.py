"""Retrieval and zero-shot classification: duplicates, hand-made cases, brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oner_jax.errors import InputError
from oner_jax.evals.inputs.captions import caption_gallery, different_partner, distinct
from oner_jax.evals.inputs.templates import template_set, template_sets
from oner_jax.evals.metrics.ranking import Matches, unit_vectors
from oner_jax.evals.tasks.retrieval import retrieval
from oner_jax.evals.tasks.zeroshot import class_vectors, zeroshot


def test_equal_captions_are_one_gallery_row():
    gallery = caption_gallery([["A Cat", "pet"], ["a  cat"], ["dog", "Pet", "DOG"]])
    assert gallery.texts == ["A Cat", "pet", "dog"]
    assert [gallery.matches.of(picture).tolist() for picture in range(3)] == [[0, 1], [0], [1, 2]]
    assert gallery.main.tolist() == [0, 0, 2]


def test_a_hit_is_any_picture_or_caption_with_an_equal_caption():
    # Both cats are "a cat"; the text lies on the second one, the first one looks like a dog.
    gallery = caption_gallery([["a cat"], ["A cat"], ["dog"]])
    images = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    texts = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = retrieval(images, texts, gallery.matches)
    assert found["text_R@1"].value == pytest.approx(2 / 3)
    assert found["text_R@1"].chance == pytest.approx(1 / 2)
    assert found["text_R@1"].cases == 3
    # "a cat" finds the second cat first; "dog" ties with the first cat, which counts as a miss.
    assert found["image_R@1"].value == pytest.approx(1 / 2)
    assert found["image_R@1"].chance == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["image_R@1"].cases == 2


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), vocabulary=st.integers(1, 12), pictures=st.integers(1, 20))
def test_recalls_equal_a_search_by_caption_text(seed, vocabulary, pictures):
    random = np.random.default_rng(seed)
    captions = [
        [f"caption {word}" for word in random.integers(0, vocabulary, random.integers(1, 4))]
        for _ in range(pictures)
    ]
    gallery = caption_gallery(captions)
    images = unit_vectors(random.normal(size=(pictures, 5)))
    texts = unit_vectors(random.normal(size=(len(gallery.texts), 5)))
    measured = retrieval(images, texts, gallery.matches)
    scores = images @ texts.T
    for k in (1, 5, 10):
        text_hits = [
            any(gallery.texts[column] in captions[row] for column in np.argsort(-scores[row])[:k])
            for row in range(pictures)
        ]
        image_hits = [
            any(text in captions[row] for row in np.argsort(-scores[:, column])[:k])
            for column, text in enumerate(gallery.texts)
        ]
        assert measured[f"text_R@{k}"].value == pytest.approx(np.mean(text_hits))
        assert measured[f"image_R@{k}"].value == pytest.approx(np.mean(image_hits))


@settings(max_examples=25, deadline=None)
@given(captions=st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_the_partner_has_another_caption(captions):
    _, ids = np.unique(captions, return_inverse=True)
    partner = different_partner(ids)
    assert sorted(partner) == list(range(len(ids)))
    if np.bincount(ids).max() <= len(ids) / 2:
        assert (ids[partner] != ids).all()


def test_distinct_keeps_the_first_spelling():
    texts, places = distinct(["Wolf", "fox", "WOLF ", "ﬁsh", "fish"])
    assert texts == ["Wolf", "fox", "ﬁsh"]
    assert places.tolist() == [0, 1, 0, 2, 2]


def test_class_vectors_average_directions_not_lengths():
    prompts = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(class_vectors(prompts), [[0.5**0.5, 0.5**0.5]])


def test_zeroshot_leaves_unlabelled_pictures_out():
    random = np.random.default_rng(0)
    prompts = unit_vectors(random.normal(size=(3, 20, 8)))
    images = unit_vectors(random.normal(size=(100, 8)))
    classes = random.integers(-1, 20, 100)
    measured = zeroshot(images, prompts, classes)
    centres = unit_vectors(prompts.mean(axis=0))
    order = np.argsort(-(images @ centres.T), axis=1)
    kept = classes >= 0
    for k in (1, 5):
        hits = (order[:, :k] == classes[:, None]).any(axis=1)[kept]
        assert measured[f"top{k}"].value == pytest.approx(hits.mean())
        assert measured[f"top{k}"].chance == pytest.approx(k / 20)
        assert measured[f"top{k}"].cases == kept.sum()


def test_chance_of_a_thousand_classes():
    vectors = unit_vectors(np.random.default_rng(0).normal(size=(1000, 4)))
    measured = zeroshot(vectors, vectors[None], np.arange(1000))
    assert measured["top1"].value == 1
    assert measured["top5"].chance == pytest.approx(0.005)


def test_template_sets_have_one_slot_each():
    for templates in template_sets().values():
        assert all(template.count("{}") == 1 for template in templates)
    assert len(template_set("imagenet_slip")) == 7
    assert len(set(template_set("imagenet_clip"))) == 80
    assert set(template_set("imagenet_slip")) < set(template_set("imagenet_clip"))
    with pytest.raises(InputError, match=r"no template set 'nmaes' \(did you mean 'names'"):
        template_set("nmaes")


def test_matches_of_equal_rows_are_counted_once():
    assert Matches.from_pairs(np.array([0, 0]), np.array([3, 3]), 1).counts.tolist() == [1]


@pytest.mark.parametrize("seed", range(3))
def test_equal_pictures_are_one_item_as_if_they_were_one_record(seed):
    """A row for each caption gives the numbers of a record with all captions."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(6, 5)).astype(np.float32)
    together = [[f"caption {c} of {n}" for c in range(1 + n % 3)] for n in range(6)]
    apart = [(n, [text]) for n, own in enumerate(together) for text in own]
    apart = [apart[place] for place in random.permutation(len(apart))]
    rows = np.array([n for n, _ in apart])
    first_equal = np.array([np.flatnonzero(rows == n)[0] for n in rows])
    pictures, numbers = np.unique(first_equal, return_inverse=True)
    gallery = caption_gallery([own for _, own in apart], numbers)
    texts = {text: random.normal(size=5).astype(np.float32) for own in together for text in own}

    def measured(images, gallery, matches):
        text = unit_vectors(np.stack([texts[name] for name in gallery.texts]))
        found = retrieval(unit_vectors(images), text, matches)
        return [number for own in found.values() for number in (own.value, own.chance, own.cases)]

    one = caption_gallery(together)
    expected = measured(vectors, one, one.matches)
    found = measured(vectors[rows[pictures]], gallery, gallery.matches.take(pictures))
    assert found == pytest.approx(expected)
