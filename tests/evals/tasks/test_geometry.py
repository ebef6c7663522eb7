"""Every instrument against brute force in float64, a known value, or a space made to show it."""

import numpy as np
import pytest
from scipy.special import hyp0f1
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from oner_jax.evals.inputs.pair_views import Views
from oner_jax.evals.metrics.ranking import unit_vectors
from oner_jax.evals.tasks.geometry import (
    alignment_and_uniformity,
    centroid_distance,
    geometry,
    joint_attention,
    modality_classifier,
    modality_variance,
    pooled_retrieval,
    similarity_histogram,
    tsne_coordinates,
)

WIDTH = 16


def make_views(
    pairs: int = 120,
    *,
    gap: float = 0.0,
    noise: float = 0.1,
    text_share: float = 0.5,
    captions: np.ndarray | None = None,
    seed: int = 0,
) -> Views:
    """Pairs around common points: modalities moved `gap` apart, IT mixing in `text_share` of T."""
    random = np.random.default_rng(seed)
    caption = np.arange(pairs) if captions is None else captions
    content = random.normal(size=(caption.max() + 1, WIDTH))[caption]
    offset = gap * np.eye(WIDTH)[0]
    image = unit_vectors(content + noise * random.normal(size=content.shape) + offset)
    text = unit_vectors(content - offset)
    partner = np.roll(np.arange(pairs), 1)
    joint = unit_vectors((1 - text_share) * image + text_share * text)
    swapped = unit_vectors((1 - text_share) * image + text_share * text[partner])
    return Views(image, text, joint, swapped, partner, caption)


def joint_views(views: Views) -> tuple[np.ndarray, np.ndarray]:
    """IT with its own and with another caption, which these views have."""
    assert views.joint is not None
    assert views.joint_swapped is not None
    return views.joint, views.joint_swapped


def test_centroid_distance_between_two_known_points():
    image, text = np.tile([1.0, 0.0], (50, 1)), np.tile([0.0, 1.0], (50, 1))
    measured = centroid_distance(image, text)
    assert measured.value == pytest.approx(2**0.5)
    assert measured.chance < 0.3
    same = centroid_distance(image, image)
    assert same.value == 0


def test_modality_variance_is_what_the_labels_explain():
    views = make_views(300, gap=1.0)
    labels = np.repeat(np.eye(2), len(views.image), axis=0)
    points = np.concatenate([views.image, views.text])
    explained = LinearRegression().fit(labels, points).predict(labels)
    known = r2_score(points, explained, multioutput="variance_weighted")
    measured = modality_variance(views.image, views.text)
    assert measured.value == pytest.approx(known)
    assert measured.chance < 0.01
    # Drawn together around one far point: the distance shrinks, the share stays.
    near = np.eye(WIDTH)[1] * 20
    image, text = unit_vectors(views.image + near), unit_vectors(views.text + near)
    assert centroid_distance(image, text).value < 0.1
    assert modality_variance(image, text).value == pytest.approx(known, rel=0.1)


def test_modality_classifier_sees_islands_and_only_islands():
    assert modality_classifier(make_views(gap=4.0)).value == 1
    blended = modality_classifier(make_views(600, gap=0.0))
    assert blended.value == pytest.approx(0.5, abs=0.06)
    assert blended.chance == 0.5


def test_modality_classifier_is_not_fooled_by_captions_it_has_seen():
    """Few captions, many pictures: the texts of one half would be known by heart in the other."""
    captions = np.random.default_rng(1).integers(0, 60, 600)
    measured = modality_classifier(make_views(600, captions=captions, noise=0.0))
    assert measured.value == pytest.approx(0.5, abs=0.03)


def test_pooled_retrieval_equals_a_search_by_hand():
    captions = np.array([0, 0, 1, 2, 2, 2, 3, 4])
    views = make_views(8, captions=captions, noise=1.0, gap=0.3)
    texts = np.array([views.text[np.flatnonzero(captions == index)[0]] for index in range(5)])
    gallery = [("image", index) for index in captions] + [("text", index) for index in range(5)]
    vectors = np.concatenate([views.image, texts])

    def hits(kind: str, query: np.ndarray, caption: int, pooled: bool) -> bool:
        allowed = [
            place
            for place, (other, index) in enumerate(gallery)
            if (other != kind) or (pooled and index != caption)
        ]
        best = max(allowed, key=lambda place: float(vectors[place] @ query))
        return gallery[best][1] == caption

    measured = pooled_retrieval(views)
    for pooled, prefix in ((True, "pooled"), (False, "unpooled")):
        from_images = [
            hits("image", views.image[row], captions[row], pooled) for row in range(len(captions))
        ]
        from_texts = [hits("text", texts[row], row, pooled) for row in range(5)]
        assert measured[f"{prefix}_text_R@1"].value == pytest.approx(np.mean(from_images))
        assert measured[f"{prefix}_image_R@1"].value == pytest.approx(np.mean(from_texts))
    # Picture 0 chooses among 6 pictures of other captions and 5 texts, one of them right.
    sizes = np.array([11, 11, 12, 10, 10, 10, 12, 12])
    assert measured["pooled_text_R@1"].chance == pytest.approx(np.mean(1 / sizes))
    # Each text among 8 pictures and the 4 other texts.
    right = np.bincount(captions)
    assert measured["pooled_image_R@1"].chance == pytest.approx(np.mean(right / 12))


def test_a_gap_breaks_pooled_retrieval_and_leaves_the_ordinary_one():
    measured = pooled_retrieval(make_views(gap=3.0))
    assert measured["unpooled_text_R@1"].value > 0.6
    assert measured["pooled_text_R@1"].value == 0


def test_joint_view_that_ignores_its_text():
    measured = joint_attention(make_views(text_share=0.0))
    assert measured["cos_joint_image"].value == pytest.approx(1)
    assert measured["change_other_caption"].value == pytest.approx(0)
    assert measured["change_other_picture"].value == pytest.approx(
        measured["change_other_picture"].chance
    )


def test_joint_view_cosines_equal_loops():
    views = make_views(30, text_share=0.3, noise=0.5)
    joint, swapped = joint_views(views)
    measured = joint_attention(views)
    own = [float(joint[i] @ views.text[i]) for i in range(30)]
    other = [float(joint[i] @ views.text[j]) for i in range(30) for j in range(30) if i != j]
    assert measured["cos_joint_text"].value == pytest.approx(np.mean(own))
    assert measured["cos_joint_text"].chance == pytest.approx(np.mean(other))
    moved = [1 - float(joint[i] @ swapped[i]) for i in range(30)]
    assert measured["change_other_caption"].value == pytest.approx(np.mean(moved))


def test_pairs_that_share_a_caption_with_their_partner_do_not_count_as_changed():
    captions = np.array([0, 0, 1, 2])
    views = make_views(4, captions=captions)
    joint, swapped = joint_views(views)
    measured = joint_attention(views)
    moved = [1 - float(joint[i] @ swapped[i]) for i in (0, 2, 3)]
    assert measured["change_other_caption"].value == pytest.approx(np.mean(moved))


def test_alignment_and_uniformity_equal_their_definition():
    views = make_views(40, noise=0.5)
    measured = alignment_and_uniformity(views)
    aligned = np.mean([np.sum((views.image[i] - views.text[i]) ** 2) for i in range(40)])
    assert measured["alignment"].value == pytest.approx(aligned)
    spread = [
        np.exp(-2 * np.sum((views.text[i] - views.text[j]) ** 2))
        for i in range(40)
        for j in range(i)
    ]
    assert measured["uniformity_text"].value == pytest.approx(np.log(np.mean(spread)))


@pytest.mark.parametrize("width", [2, 16, 256])
def test_even_uniformity_is_that_of_the_sphere(width):
    points = np.random.default_rng(0).normal(size=(2500, width))
    points = unit_vectors(points)
    index = np.arange(len(points))
    measured = alignment_and_uniformity(Views(points, points, points, points, index, index))
    ideal = measured["uniformity_image"].chance
    assert ideal == pytest.approx(np.log(hyp0f1(width / 2, 4.0)) - 4)
    assert measured["uniformity_image"].value == pytest.approx(ideal, abs=0.01)


def test_sampling_keeps_pairs_and_partners_together():
    views = make_views(100)
    few = views.sample(60)
    assert len(few.image) == 60
    np.testing.assert_allclose(np.sum(few.image * few.text, axis=1) > 0.9, True)
    inside = few.partner != np.arange(60)
    swapped = unit_vectors(few.image + few.text[few.partner])
    np.testing.assert_allclose(joint_views(few)[1][inside], swapped[inside])


def test_every_instrument_reports_on_a_tiny_dataset():
    measured = geometry(make_views(2))
    assert len(measured) == 14
    assert all(np.isfinite(value.chance) for value in measured.values())


def test_histograms_integrate_to_one_and_separate_pairs():
    views = make_views()
    drawn = similarity_histogram(views.image, views.text, views.caption)
    width = np.diff(drawn["edges"])
    assert np.sum(width * drawn["matching"]) == pytest.approx(1)
    assert np.sum(width * drawn["other"]) == pytest.approx(1)
    middle = (np.array(drawn["edges"][1:]) + drawn["edges"][:-1]) / 2
    assert np.sum(width * middle * drawn["matching"]) > 0.9
    assert np.sum(width * middle * drawn["other"]) < 0.1


def test_map_of_two_islands_shows_two_islands():
    flat = tsne_coordinates(make_views(90, gap=4.0, text_share=0.0), maximum_pairs=40)
    assert list(flat) == ["I", "T", "IT"]
    assert all(points.shape == (40, 2) for points in flat.values())
    image, text, joint = flat.values()
    apart = np.linalg.norm(image.mean(axis=0) - text.mean(axis=0))
    assert apart > np.linalg.norm(image.mean(axis=0) - joint.mean(axis=0)) * 3
