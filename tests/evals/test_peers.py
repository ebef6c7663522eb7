"""The same numbers as the peers on the same features: CLIP_benchmark and scikit-learn.

CLIP_benchmark's definitions are written out here from its documentation in NumPy: a query is right
at k where one of its right answers is among the k highest scores. Where the package is installed,
its own code is asked, too.
"""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from oner_jax.evals.inputs.captions import caption_gallery
from oner_jax.evals.inputs.labelled_splits import SharedClasses
from oner_jax.evals.metrics.ranking import unit_vectors
from oner_jax.evals.tasks.neighbours import few_shot_hits, votes
from oner_jax.evals.tasks.probe import choose_strength, fit, probe
from oner_jax.evals.tasks.retrieval import retrieval
from oner_jax.evals.tasks.zeroshot import zeroshot

CAPTIONS = 5


def pictures_and_captions(pictures: int = 120, width: int = 16, seed: int = 0):
    """Captions near their picture, five each, as COCO has them."""
    random = np.random.default_rng(seed)
    images = unit_vectors(random.normal(size=(pictures, width)))
    noise = random.normal(size=(pictures * CAPTIONS, width))
    texts = unit_vectors(np.repeat(images, CAPTIONS, axis=0) + 0.35 * noise)
    return images.astype(np.float32), texts.astype(np.float32)


def recalls_of_the_peer(images: np.ndarray, texts: np.ndarray, owner: np.ndarray, k: int):
    """CLIP_benchmark's `zeroshot_retrieval`: every caption is a query, any right answer counts."""
    scores = texts.astype(np.float64) @ images.astype(np.float64).T
    positive = owner[:, None] == np.arange(len(images))

    def recall(scores: np.ndarray, positive: np.ndarray) -> float:
        first = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return float(np.take_along_axis(positive, first, axis=1).any(axis=1).mean())

    return {"image": recall(scores, positive), "text": recall(scores.T, positive.T)}


def gallery_of(texts: list[str], pictures: int):
    return caption_gallery([texts[CAPTIONS * p : CAPTIONS * (p + 1)] for p in range(pictures)])


def test_retrieval_is_clip_benchmarks():
    images, texts = pictures_and_captions()
    gallery = gallery_of([f"caption {row}" for row in range(len(texts))], len(images))
    found = retrieval(images, texts, gallery.matches)
    owner = np.repeat(np.arange(len(images)), CAPTIONS)
    for k in (1, 5, 10):
        peer = recalls_of_the_peer(images, texts, owner, k)
        for sought, recall in peer.items():
            assert found[f"{sought}_R@{k}"].value == pytest.approx(recall, abs=1e-6)


def test_equal_captions_are_one_query_and_any_of_their_pictures_is_right():
    """Where captions repeat, ours is CLIP_benchmark's on the distinct captions, its positives being
    all pictures that carry one; where scores tie, ours counts a miss."""
    images, texts = pictures_and_captions()
    names = [f"caption {row % 400}" for row in range(len(texts))]
    texts[400:] = texts[: len(texts) - 400]
    gallery = gallery_of(names, len(images))
    assert len(gallery.texts) == 400
    found = retrieval(images, texts[:400], gallery.matches)
    scores = texts[:400].astype(np.float64) @ images.T.astype(np.float64)
    carried = np.zeros_like(scores, bool)
    for row, name in enumerate(names):
        carried[gallery.texts.index(name), row // CAPTIONS] = True
    for k in (1, 5):
        first = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        expected = np.take_along_axis(carried, first, axis=1).any(axis=1).mean()
        assert found[f"image_R@{k}"].value == pytest.approx(expected, abs=1e-6)
    collapsed = retrieval(np.ones_like(images), np.ones_like(texts[:400]), gallery.matches)
    assert all(one.value == 0 for one in collapsed.values())


def test_clip_benchmarks_own_code_agrees():
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    images, texts = pictures_and_captions()
    gallery = gallery_of([f"caption {row}" for row in range(len(texts))], len(images))
    found = retrieval(images, texts, gallery.matches)
    scores = torch.tensor(texts) @ torch.tensor(images).T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(texts)), torch.arange(len(texts)) // CAPTIONS] = True
    for k in (1, 5, 10):
        own = (peer.recall_at_k(scores, positive, k) > 0).float().mean().item()
        assert found[f"image_R@{k}"].value == pytest.approx(own, abs=1e-6)
        own = (peer.recall_at_k(scores.T, positive.T, k) > 0).float().mean().item()
        assert found[f"text_R@{k}"].value == pytest.approx(own, abs=1e-6)


def test_zero_shot_accuracy_is_clip_benchmarks():
    """Prompts to unit length, averaged, to unit length; the k highest of the scores."""
    from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

    random = np.random.default_rng(0)
    prompts = unit_vectors(random.normal(size=(4, 12, 16))).astype(np.float32)
    classes = random.integers(0, 12, 300)
    images = unit_vectors(prompts[0, classes] + 0.4 * random.normal(size=(300, 16)))
    found = zeroshot(images.astype(np.float32), prompts, classes)
    weights = prompts.astype(np.float64).mean(axis=0)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    logits = 100.0 * images @ weights.T
    for k in (1, 5):
        peer = top_k_accuracy_score(classes, logits, k=k, labels=np.arange(12))
        assert found[f"top{k}"].value == pytest.approx(peer, abs=1e-6)
    peer = balanced_accuracy_score(classes, logits.argmax(axis=1))
    assert found["mean_per_class"].value == pytest.approx(peer, abs=1e-6)


@pytest.fixture(scope="module")
def labelled():
    """Features of 4 classes in train and test, not cleanly apart."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 10))
    classes = [random.integers(0, 4, number) for number in (300, 200)]
    features = [
        unit_vectors(centres[own] + 1.1 * random.normal(size=(len(own), 10))).astype(np.float32)
        for own in classes
    ]
    rows = [np.arange(len(own)) for own in classes]
    shared = SharedClasses("label", list("abcd"), rows[0], classes[0], rows[1], classes[1])
    return shared, *features


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_the_probe_is_scikit_learns_logistic_regression(labelled, strength):
    shared, train, test = labelled
    peer = LogisticRegression(C=1 / (strength * len(train)), max_iter=5000, tol=1e-8)
    peer.fit(train.astype(np.float64), shared.train_classes)
    own = fit(train, shared.train_classes, 4, strength)
    np.testing.assert_array_equal(np.argmax(own(test), axis=1), peer.predict(test))
    scale = np.abs(peer.coef_).max()
    np.testing.assert_allclose(own.kernel.T, peer.coef_, atol=2e-3 * scale)


def test_the_probes_strength_is_the_best_on_validation(labelled):
    shared, train, test = labelled
    validation = shared.validation
    assert validation.sum() == pytest.approx(0.2 * len(train), abs=4)
    assert set(shared.train_classes[validation]) == {0, 1, 2, 3}
    accuracy = {}
    strengths = (1e-2, 1e-4, 1e-6)
    for strength in strengths:
        peer = LogisticRegression(C=1 / (strength * (~validation).sum()), max_iter=5000, tol=1e-8)
        peer.fit(train[~validation], shared.train_classes[~validation])
        accuracy[strength] = peer.score(train[validation], shared.train_classes[validation])
    chosen, _ = choose_strength(train, shared.train_classes, 4, validation, strengths)
    assert accuracy[chosen] == max(accuracy.values())
    found, strength, _ = probe(shared, train, test)
    peer = LogisticRegression(C=1 / (strength * len(train)), max_iter=5000, tol=1e-8)
    peer.fit(train.astype(np.float64), shared.train_classes)
    assert found["top1"].value == pytest.approx(peer.score(test, shared.test_classes), abs=1e-6)


def test_the_neighbours_votes_are_scikit_learns(labelled):
    shared, train, test = labelled
    for k, answers in votes(train, shared.train_classes, test, 4).items():
        peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        peer.fit(train, shared.train_classes)
        np.testing.assert_array_equal(answers, peer.predict(test))


def test_of_tied_classes_the_first_wins():
    train = np.eye(4, dtype=np.float32)
    answers = votes(train, np.array([2, 1, 0, 0]), train[:2], 3, neighbours=(1, 2))
    assert answers[1].tolist() == [2, 1]
    # The second neighbour of each is the first of those at equal distance.
    assert answers[2].tolist() == [1, 1]


def test_few_shots_with_all_pictures_are_the_nearest_class_mean(labelled):
    from sklearn.neighbors import NearestCentroid

    shared, train, test = labelled
    hits = few_shot_hits(shared, train, test, shots=len(train))
    means = np.stack([train[shared.train_classes == c].mean(axis=0) for c in range(4)])
    peer = NearestCentroid().fit(unit_vectors(means), np.arange(4))
    np.testing.assert_array_equal(hits, peer.predict(test) == shared.test_classes)
    fewer = [few_shot_hits(shared, train, test, shots).mean() for shots in (1, 8)]
    assert fewer[0] < fewer[1] < hits.mean() + 0.05
