"""Is it one space? Instruments for the modality gap and for what the joint view looks at.

docs/method.md: a naive single tower keeps texts on an island of their own (D1) and lets the joint
input ignore its text (D2). Each instrument below shows one of the two as a number, with the value
that a space without any structure would give in the place of chance.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int64

from oner_jax.evals.inputs.pair_views import Views
from oner_jax.evals.metrics.bootstrap import Counts
from oner_jax.evals.metrics.measurement import Measurement
from oner_jax.evals.metrics.ranking import Matches, best_ranks, expected_recall

MAXIMUM_PAIRS = 5000  # the pairwise instruments are quadratic; more pairs change the third digit
HISTOGRAM_BINS = 60


def geometry(views: Views) -> dict[str, Measurement]:
    """Every instrument that the views allow, on at most 5000 of the pairs of a dataset."""
    views = views.sample(MAXIMUM_PAIRS)
    return {
        "centroid_distance": centroid_distance(views.image, views.text),
        "modality_variance": modality_variance(views.image, views.text),
        "modality_classifier": modality_classifier(views),
        **pooled_retrieval(views),
        **joint_attention(views),
        **alignment_and_uniformity(views),
    }


def centroid_distance(
    image: Float[np.ndarray, "images width"], text: Float[np.ndarray, "texts width"]
) -> Measurement:
    """Distance between the mean unit vectors of the two modalities, at most 2.

    Reference: the mean distance after the labels "picture" and "text" were dealt out anew.
    """
    dealt = [_centroid_gap(*halves) for halves in _dealt_anew(image, text)]
    difference = image - text
    return Measurement.of(
        _centroid_gap(image, text),
        lambda counts: np.linalg.norm(counts @ difference, axis=1) / len(image),
        len(image),
        float(np.mean(dealt)),
        fraction=False,
    )


def modality_variance(
    image: Float[np.ndarray, "pairs width"], text: Float[np.ndarray, "pairs width"]
) -> Measurement:
    """Share of the variance of all points that lies between the two modality means.

    The distance of the means in units of how spread out the points are: a space in which everything
    has drawn together has a small distance and may still be two islands. Our choice. Reference:
    labels dealt out anew.
    """
    dealt = [_between_share(*halves) for halves in _dealt_anew(image, text)]
    squares = np.sum(image * image + text * text, axis=1) / 2

    def share(counts: Counts) -> np.ndarray:
        means = [counts @ half / len(image) for half in (image, text)]
        gap = np.linalg.norm(means[0] - means[1], axis=1)
        middle = np.linalg.norm(means[0] + means[1], axis=1) / 2
        total = counts @ squares / len(image) - middle**2
        return gap**2 / 4 / np.maximum(total, np.finfo(np.float32).tiny)

    chance = float(np.mean(dealt))
    return Measurement.of(_between_share(image, text), share, len(image), chance)


def _dealt_anew(image: np.ndarray, text: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Twenty random divisions of all points into two groups of the modalities' sizes."""
    both = np.concatenate([image, text])
    random = np.random.default_rng(0)
    for _ in range(20):
        order = random.permutation(len(both))
        yield both[order[: len(image)]], both[order[len(image) :]]


def _between_share(first: np.ndarray, second: np.ndarray) -> float:
    total = float(np.concatenate([first, second]).var(axis=0).sum())
    return _centroid_gap(first, second) ** 2 / 4 / total if total else 0.0


def _centroid_gap(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)))


def modality_classifier(views: Views) -> Measurement:
    """Accuracy of a linear classifier that tells picture vectors from text vectors.

    Logistic regression on standardised features, fitted on one half of the captions and scored on
    the other (a caption and all its pictures are in the same half). 50 % means that no straight cut
    separates the modalities; 100 % means two islands.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    number_of_captions = int(views.caption.max()) + 1
    in_first_half = np.zeros(number_of_captions, bool)
    shuffled = np.random.default_rng(0).permutation(np.unique(views.caption))
    in_first_half[shuffled[: (len(shuffled) + 1) // 2]] = True
    fit = in_first_half[views.caption]
    if fit.all():
        return Measurement(float("nan"), 0.5)

    def both(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = np.concatenate([views.image[rows], views.text[rows]])
        return features, np.repeat([0, 1], [rows.sum(), rows.sum()])

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    classifier.fit(*both(fit))
    features, modality = both(~fit)
    pairs = np.tile(np.flatnonzero(~fit), 2)
    return Measurement.mean(classifier.predict(features) == modality, 0.5, pairs)


def pooled_retrieval(views: Views) -> dict[str, Measurement]:
    """Retrieval of the other half of a pair when pictures AND texts stand in one gallery.

    Queries are distinct pictures (`pooled_text_R@1`) and main captions (`pooled_image_R@1`); the
    query itself and pictures with an equal caption are taken out. With a modality gap a picture's
    nearest neighbours are pictures and this falls to zero however good ordinary retrieval is, which
    stands beside it on the same queries (`unpooled_*`).
    """
    captions, first, caption = np.unique(views.caption, return_index=True, return_inverse=True)
    numbers = np.arange(len(views.image)) if views.picture is None else views.picture
    _, distinct, picture = np.unique(numbers, return_index=True, return_inverse=True)
    image, pictures, texts = views.image[distinct], len(distinct), len(captions)
    gallery = np.concatenate([image, views.text[first]])
    own = Matches.from_pairs(picture, caption, pictures)
    carriers = own.transposed(texts)
    own_in_pool = Matches(own.offsets, own.members + pictures)
    equal_pictures = _same_caption(own, carriers)
    itself = Matches(np.arange(texts + 1), np.arange(texts) + pictures)
    searches = {
        "pooled_text_R@1": (image, gallery, own_in_pool, equal_pictures),
        "unpooled_text_R@1": (image, views.text[first], own, None),
        "pooled_image_R@1": (views.text[first], gallery, carriers, itself),
        "unpooled_image_R@1": (views.text[first], image, carriers, None),
    }
    results = {}
    for name, (queries, among, right, excluded) in searches.items():
        size = len(among) - (0 if excluded is None else excluded.counts)
        ranks = best_ranks(queries, among, right, excluded)
        chance = expected_recall(right.counts, size, 1)
        results[name] = Measurement.mean(ranks == 1, chance)
    return results


def _same_caption(own: Matches, carriers: Matches) -> Matches:
    """For each picture, all pictures of an equal caption, itself included."""
    groups = [
        np.unique(np.concatenate([carriers.of(caption) for caption in own.of(picture)]))
        for picture in range(len(own.counts))
    ]
    offsets = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
    return Matches(offsets.astype(np.int64), np.concatenate(groups))


def joint_attention(views: Views) -> dict[str, Measurement]:
    """Which of its two halves the joint view listens to.

    `cos_joint_image` and `cos_joint_text`: mean cosine of IT to its own I and T; the reference is
    the same for pairs that do not belong together. `change_other_caption`: mean cosine distance
    that IT moves when the picture gets another pair's caption (near zero: the text is ignored);
    `change_other_picture`: the same for another picture under the same caption. Their reference is
    the distance between IT of two different pairs. Nothing where there is no joint view.
    """
    if views.joint is None or views.joint_swapped is None:
        return {}
    moved = views.caption != views.caption[views.partner]
    other = views.joint[views.partner][moved]
    joint, swapped = views.joint[moved], views.joint_swapped[moved]
    unrelated = float(np.mean(_distances(joint, other))) if len(joint) else float("nan")
    return {
        "cos_joint_image": _matched_cosine(views.joint, views.image),
        "cos_joint_text": _matched_cosine(views.joint, views.text),
        "change_other_caption": Measurement.mean(
            _distances(joint, swapped), unrelated, fraction=False
        ),
        "change_other_picture": Measurement.mean(
            _distances(other, swapped), unrelated, fraction=False
        ),
    }


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine distance of equal rows."""
    return 1.0 - np.sum(first * second, axis=1)


def _matched_cosine(first: np.ndarray, second: np.ndarray) -> Measurement:
    """Mean inner product of equal rows, beside the mean over all unequal rows."""
    size = len(first)
    cosines = np.einsum("pw,pw->p", first, second, dtype=np.float64)
    everything = float(first.sum(axis=0, dtype=np.float64) @ second.sum(axis=0, dtype=np.float64))
    apart = (everything - cosines.sum()) / (size * (size - 1)) if size > 1 else float("nan")
    return Measurement.mean(cosines, float(apart), fraction=False)


def alignment_and_uniformity(views: Views) -> dict[str, Measurement]:
    """Wang & Isola (ICML 2020), alpha = 2 and t = 2; both better when lower.

    Alignment: mean squared distance of the two halves of a pair; reference: of two different pairs.
    Uniformity of the pictures and of the distinct main captions: log of the mean over pairs of
    points of exp(-2 |x - y|^2); reference: the lowest value there is, that of points spread evenly
    over the sphere.
    """
    distances = 2.0 * _distances(views.image, views.text)
    apart = 2.0 - 2.0 * _matched_cosine(views.image, views.text).chance
    _, first = np.unique(views.caption, return_index=True)
    return {
        "alignment": Measurement.mean(distances, apart, fraction=False),
        "uniformity_image": _uniformity(views.image),
        "uniformity_text": _uniformity(views.text[first]),
    }


def _uniformity(vectors: np.ndarray, rows_per_chunk: int = 1024) -> Measurement:
    """A point that a resample draws twice is no pair with itself."""
    size, ideal = len(vectors), _even_uniformity(vectors.shape[1])
    if size < 2:
        return Measurement(float("nan"), ideal, fraction=False)

    def uniformity(counts: Counts) -> np.ndarray:
        total = np.zeros(len(counts))
        for first in range(0, size, rows_per_chunk):
            rows = slice(first, first + rows_per_chunk)
            kernel = np.exp(4.0 * (vectors[rows] @ vectors.T) - 4.0)
            kernel[np.arange(len(kernel)), np.arange(size)[rows]] = 0.0
            total += np.sum(counts[:, rows] * (counts @ kernel.T), axis=1, dtype=np.float64)
        pairs = size**2 - np.sum(np.square(counts), axis=1, dtype=np.float64)
        return np.log(total / np.where(pairs > 0, pairs, np.nan))

    everything = float(uniformity(np.ones((1, size), np.float32))[0])
    return Measurement.of(everything, uniformity, size, ideal, fraction=False)


def _even_uniformity(width: int) -> float:
    """Uniformity of the even spread over the unit sphere of R^width.

    E exp(4 x.y) is the confluent hypergeometric limit function 0F1(width / 2; 4), summed here:
    term k is 4^k / (k! (width/2) (width/2 + 1) ... (width/2 + k - 1)).
    """
    k = np.arange(1, 60)
    return float(np.log1p(np.cumprod(4.0 / (k * (width / 2 + k - 1))).sum()) - 4.0)


def similarity_histogram(
    image: Float[np.ndarray, "pairs width"],
    text: Float[np.ndarray, "pairs width"],
    caption: Int64[np.ndarray, "pairs"],
) -> dict[str, list[float]]:
    """Densities of the cosine of matching and of non-matching (picture, main caption) pairs.

    `edges` has one number more than `matching` and `other`. Pairs with equal captions match.
    """
    if len(image) > MAXIMUM_PAIRS:
        kept = np.sort(np.random.default_rng(0).choice(len(image), MAXIMUM_PAIRS, replace=False))
        image, text, caption = image[kept], text[kept], caption[kept]
    cosines = np.clip(image @ text.T, -1.0, 1.0)
    equal = caption[:, None] == caption[None, :]
    edges = np.linspace(
        float(cosines.min()) - 1e-3, float(cosines.max()) + 1e-3, HISTOGRAM_BINS + 1
    )
    matching, _ = np.histogram(cosines[equal], edges, density=True)
    other = np.zeros(HISTOGRAM_BINS)
    if not equal.all():
        other, _ = np.histogram(cosines[~equal], edges, density=True)
    return {"edges": edges.tolist(), "matching": matching.tolist(), "other": other.tolist()}


def tsne_coordinates(
    views: Views, maximum_pairs: int = 400
) -> dict[str, Float[np.ndarray, "pairs 2"]]:
    """A flat map of I, T and, where it is, IT of the same pairs together."""
    views = views.sample(maximum_pairs)
    own = {"I": views.image, "T": views.text, "IT": views.joint}
    return flat_map({name: rows for name, rows in own.items() if rows is not None})


def flat_map(
    vectors: Mapping[str, Float[np.ndarray, "pairs width"]],
) -> dict[str, Float[np.ndarray, "pairs 2"]]:
    """t-SNE (perplexity 30) of the views of the same pairs, all on one map."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    points = np.concatenate(list(vectors.values()))
    perplexity = min(30.0, (len(points) - 1) / 3)
    method = TSNE(perplexity=perplexity, max_iter=500, init="pca", random_state=0)
    # Its many short parallel sections wait for each other: on two busy cores one thread is five
    # times faster, and it makes the map the same everywhere.
    with threadpool_limits(1):
        flat = method.fit_transform(points)
    return dict(zip(vectors, flat.reshape(len(vectors), -1, 2), strict=True))
