"""Every term of the objective against the float64 oracle; micro-batches against the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oner_jax.errors import InputError
from oner_jax.models.pretraining import PureModel
from oner_jax.models.views import VIEWS
from oner_jax.objectives.settings import ObjectiveSettings
from oner_jax.training.gradients import make_gradient_function
from tests import small
from tests.marks import slow
from tests.oracle import Oracle, float64, mix, nce


def loss_and_masks(model, objective, parameters, momentum, batch, seed=3):
    """The terms as training computes them on one device, and the masks that were drawn."""

    @jax.jit
    def compute(parameters, momentum, batch):
        prepared = objective.prepare(jax.random.key(seed), batch)
        gradients = make_gradient_function(model, objective, micro_batches=1)
        _, metrics = gradients(parameters, momentum, prepared)
        return objective.total(metrics), metrics, prepared

    return compute(parameters, momentum, batch)


EVERY_TERM = small.ALL_TERMS | {"xmc": 1.0, "xmc_mixed": 1.0, "cic": 1.0}


@functools.cache
def case(mask_equal_captions=True, temperature=0.2, weights=(), **shape):
    settings = small.settings(**shape)
    model = PureModel(settings)
    parameters, twin = small.parameters(model, 0), small.parameters(model, 5)["backbone"]
    batch = small.batch(settings)
    objective = small.objective(
        settings,
        dict(weights) or EVERY_TERM,
        mask_equal_captions=mask_equal_captions,
        temperature=temperature,
    )
    computed = loss_and_masks(model, objective, parameters, twin, batch)
    return settings, parameters, twin, batch, computed


def oracle_states(settings, parameters, twin, batch, prepared):
    """Per example: online queries and states, momentum keys, masks, all in float64."""
    oracle = Oracle(parameters, patch_size=settings.patch_size, heads=settings.heads)
    twin = float64(twin)
    rows = []
    for i in range(len(batch.text)):
        image = np.asarray(batch.image[i], np.float64) / 127.5 - 1
        count = int((np.asarray(batch.text[i]) != 0).sum())
        clean = np.asarray(batch.text[i])[:count]
        masked = np.asarray(prepared.words.inputs[i])[:count]
        joint = np.asarray(prepared.joint_words.inputs[i])[:count]
        patch_mask = np.asarray(prepared.patch_mask[i])
        online = oracle.p["backbone"]
        crossed = oracle.crossed_views(online, image=image, ids=masked, patch_mask=patch_mask)
        clean_crossed = oracle.crossed_views(twin, image=image, ids=clean)
        views = {
            "I|T": crossed[0],
            "T|I": crossed[1],
            "I": oracle.view(online, image=image, patch_mask=patch_mask),
            "T": oracle.view(online, ids=masked),
            "IT": oracle.view(online, image=image, ids=joint, patch_mask=patch_mask),
        }
        keys = {
            "I|T": clean_crossed[0],
            "T|I": clean_crossed[1],
            "I": oracle.view(twin, image=image),
            "T": oracle.view(twin, ids=clean),
            "IT": oracle.view(twin, image=image, ids=clean),
        }
        rows.append(
            {
                "states": views,
                "q": {name: oracle.query(view[0]) for name, view in views.items()},
                "k": {name: oracle.key(twin, view[0]) for name, view in keys.items()},
                "pixels": oracle.patches(image),
                "patch_mask": patch_mask,
            }
        )
    return oracle, rows


def stacked(rows, side, view):
    return np.stack([row[side][view] for row in rows])


@pytest.mark.parametrize(
    ("mask_equal_captions", "temperature"),
    [(True, 0.2), slow(False, 0.2), slow(True, 0.07), (False, 0.07)],
)
def test_contrastive_terms_equal_the_equations(mask_equal_captions, temperature):
    settings, parameters, twin, batch, (_, metrics, prepared) = case(
        mask_equal_captions, temperature
    )
    _, rows = oracle_states(settings, parameters, twin, batch, prepared)
    q = {view: stacked(rows, "q", view) for view in VIEWS}
    k = {view: stacked(rows, "k", view) for view in VIEWS}
    q_mixed, k_mixed = mix(q["I"], q["T"]), mix(k["I"], k["T"])
    captions = np.asarray(batch.caption_hash) if mask_equal_captions else None

    def contrast(queries, keys):
        return nce(queries, keys, temperature, captions)

    expected = {
        "itc": contrast(q["I"], k["T"]) + contrast(q["T"], k["I"]),
        "xmc": contrast(q["I"], k_mixed) + contrast(q["T"], k_mixed),
        "xmc_mixed": contrast(q_mixed, k_mixed),
        "cic": contrast(mix(q["I|T"], q["T|I"]), k_mixed)
        + contrast(q_mixed, mix(k["I|T"], k["T|I"])),
        "cmc": contrast(q["IT"], k_mixed) + contrast(q_mixed, k["IT"]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[f"loss/{name}"], value, rtol=2e-5, err_msg=name)


def test_equal_concepts_are_positives_of_every_term():
    settings = small.settings()
    model, weights = PureModel(settings), {"itc": 1.0, "xmc": 1.0, "cmc": 1.0}
    parameters, twin = small.parameters(model, 0), small.parameters(model, 5)["backbone"]
    concepts = np.array([1, 1, 2, 3, 2, 1, 4, 2], np.uint32)
    batch = small.batch(settings)._replace(concept_hash=jnp.asarray(concepts))
    objective = small.objective(settings, weights, equal_concepts_are_positives=True)
    _, metrics, prepared = loss_and_masks(model, objective, parameters, twin, batch)
    _, rows = oracle_states(settings, parameters, twin, batch, prepared)
    q = {view: stacked(rows, "q", view) for view in VIEWS}
    k = {view: stacked(rows, "k", view) for view in VIEWS}
    captions, k_mixed = np.asarray(batch.caption_hash), mix(k["I"], k["T"])
    contrast = functools.partial(nce, temperature=0.2, captions=captions, concepts=concepts)
    expected = {
        "itc": contrast(q["I"], k["T"]) + contrast(q["T"], k["I"]),
        "xmc": contrast(q["I"], k_mixed) + contrast(q["T"], k_mixed),
        "cmc": contrast(q["IT"], k_mixed) + contrast(mix(q["I"], q["T"]), k["IT"]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[f"loss/{name}"], value, rtol=2e-5, err_msg=name)
    with pytest.raises(ValueError, match="the batch has no concepts"):
        objective.prepare(jax.random.key(0), batch._replace(concept_hash=None))


def pixel_loss(oracle, rows, view):
    errors = [
        np.abs(oracle.pixels(row["states"][view][1 : 1 + len(mask)])[mask] - row["pixels"][mask])
        for row in rows
        for mask in [row["patch_mask"]]
    ]
    return np.mean(np.concatenate(errors))


def word_loss(oracle, rows, view, first_word, masked):
    surprises = []
    for row, positions, targets, weights in zip(
        rows, masked.positions, masked.targets, masked.weights, strict=True
    ):
        for position, target, weight in zip(positions, targets, weights, strict=True):
            if weight:
                state = row["states"][view][first_word + int(position)]
                surprises.append(-oracle.word_log_probabilities(state)[int(target)])
    return np.mean(surprises)


def test_reconstruction_terms_equal_the_equations():
    settings, parameters, twin, batch, (loss, metrics, prepared) = case()
    oracle, rows = oracle_states(settings, parameters, twin, batch, prepared)
    first_joint_word = 1 + settings.patches
    mim = pixel_loss(oracle, rows, "I")
    mlm = word_loss(oracle, rows, "T", 1, prepared.words)
    mmm = pixel_loss(oracle, rows, "IT") + word_loss(
        oracle, rows, "IT", first_joint_word, prepared.joint_words
    )
    np.testing.assert_allclose(metrics["loss/mim"], mim, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/mlm"], mlm, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/mmm"], mmm, rtol=1e-5)
    parts = sum(metrics[f"loss/{name}"] for name in EVERY_TERM)
    np.testing.assert_allclose(loss, parts, rtol=1e-6)


def test_a_weight_scales_its_term_and_zero_leaves_it_out():
    settings = small.settings()
    model = PureModel(settings)
    parameters = small.parameters(model)
    objective = small.objective(settings, {"itc": 0.5, "cmc": 0.0, "mlm": 2.0})
    loss, metrics, _ = loss_and_masks(
        model, objective, parameters, parameters["backbone"], small.batch(settings)
    )
    assert {name for name in metrics if name.startswith("loss/")} == {"loss/itc", "loss/mlm"}
    assert [view.name for view in objective.online_views] == ["I", "T"]
    expected = 0.5 * metrics["loss/itc"] + 2 * metrics["loss/mlm"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_captions_without_pictures_join_the_mean_of_mlm():
    settings = small.settings()
    model, objective = PureModel(settings), small.objective(settings, {"itc": 1.0, "mlm": 1.0})
    parameters = small.parameters(model)
    batch = small.batch(settings)._replace(text_only=small.batch(settings, size=5, seed=9).text)
    _, metrics, prepared = loss_and_masks(
        model, objective, parameters, parameters["backbone"], batch
    )
    oracle = Oracle(parameters, patch_size=settings.patch_size, heads=settings.heads)
    surprises = []
    for masked in (prepared.words, prepared.text_only):
        for ids, positions, targets, weights in zip(*masked, strict=True):
            states = oracle.view(oracle.p["backbone"], ids=np.asarray(ids)[: int((ids != 0).sum())])
            for position, target in zip(positions[weights > 0], targets[weights > 0], strict=True):
                logits = oracle.word_log_probabilities(states[1 + int(position)])
                surprises.append(-logits[int(target)])
    np.testing.assert_allclose(metrics["loss/mlm"], np.mean(surprises), rtol=1e-5)


def test_pictures_without_captions_join_the_mean_of_mim():
    settings = small.settings()
    weights = {"itc": 1.0, "mim": 1.0, "mmm": 1.0}
    model, objective = PureModel(settings), small.objective(settings, weights)
    parameters = small.parameters(model)
    pairs = small.batch(settings)
    batch = pairs._replace(image_only=small.batch(settings, size=5, seed=9).image)
    _, metrics, prepared = loss_and_masks(
        model, objective, parameters, parameters["backbone"], batch
    )
    oracle = Oracle(parameters, patch_size=settings.patch_size, heads=settings.heads)
    alone = prepared.image_only
    images = np.concatenate([pairs.image, alone.image]).astype(np.float64) / 127.5 - 1
    errors = []
    for image, mask in zip(images, np.r_[prepared.patch_mask, alone.patch_mask], strict=True):
        states = oracle.view(oracle.p["backbone"], image=image, patch_mask=mask)
        errors.append(np.abs(oracle.pixels(states[1:])[mask] - oracle.patches(image)[mask]))
    np.testing.assert_allclose(metrics["loss/mim"], np.mean(np.concatenate(errors)), rtol=1e-5)
    without = loss_and_masks(model, objective, parameters, parameters["backbone"], pairs)[1]
    for name in ("loss/itc", "loss/mmm"):
        np.testing.assert_allclose(metrics[name], without[name], rtol=1e-6, err_msg=name)


def test_pictures_alone_are_hidden_by_masks_of_their_own():
    settings = small.settings()
    batch = small.batch(settings)
    prepared = small.objective(settings).prepare(
        jax.random.key(0), batch._replace(image_only=batch.image)
    )
    assert prepared.image_only is not None
    own = np.asarray(prepared.image_only.patch_mask)
    np.testing.assert_array_equal(own.sum(axis=1), prepared.patch_mask.sum(axis=1))
    assert (own != prepared.patch_mask).any()


def test_contrast_alone_sees_unmasked_inputs():
    settings = small.settings()
    objective = small.objective(settings, {"itc": 1.0})
    prepared = objective.prepare(jax.random.key(0), small.batch(settings))
    assert not prepared.patch_mask.any()
    np.testing.assert_array_equal(prepared.words.inputs, prepared.text)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": {"itx": 1.0}}, "itx"),
        ({"weights": {"itc": 0.0}}, "weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"form": "hinge"}, "form"),
        ({"key_source": "queue"}, "key_source"),
        ({"word_mask_fraction": 1.0}, "word_mask_fraction"),
        ({"image_mask_block_patches": 0}, "image_mask_block_patches"),
    ],
)
def test_an_impossible_objective_is_refused_by_name(change, named):
    valid = dict(
        weights={"itc": 1.0},
        key_source="momentum",
        form="softmax",
        logit_bias=0.0,
        temperature=0.1,
        mask_equal_captions=True,
        image_mask_fraction=0.6,
        image_mask_block_patches=2,
        word_mask_fraction=0.15,
    )
    with pytest.raises(InputError, match=named):
        ObjectiveSettings(**valid | change)


def test_blocks_that_do_not_tile_a_picture_are_refused_where_pictures_are_rebuilt():
    settings = small.settings()
    small.objective(settings, {"itc": 1.0}, image_mask_block_patches=3)
    with pytest.raises(InputError, match="image_mask_block_patches=3 does not divide the 4"):
        small.objective(settings, {"mim": 1.0}, image_mask_block_patches=3)


@pytest.mark.parametrize(
    ("architecture", "term", "named"),
    [("two_towers", "cmc", "IT"), ("two_towers", "mmm", "IT"), ("two_legs", "cic", "T|I")],
)
def test_a_term_that_the_architecture_cannot_serve_is_refused(architecture, term, named):
    settings = small.settings(architecture=architecture)
    with pytest.raises(InputError, match=term) as refusal:
        small.objective(settings, {"itc": 1.0, term: 1.0})
    assert named in str(refusal.value)
    assert architecture in str(refusal.value)
    assert "possible are itc" in str(refusal.value)


def test_gradient_reaches_every_parameter_but_padding_embeddings():
    settings = small.settings()
    model = PureModel(settings)
    parameters = small.parameters(model)
    objective = small.objective(settings)
    batch = small.batch(settings)

    prepared = objective.prepare(jax.random.key(3), batch)
    gradients, _ = jax.jit(make_gradient_function(model, objective, 1))(
        parameters, parameters["backbone"], prepared
    )
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.any(gradient != 0), jax.tree_util.keystr(path)
