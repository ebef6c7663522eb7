"""The contrast against a dense float64 one, in value and every gradient, on one device and many."""

import functools
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from oner_jax.objectives import contrastive
from oner_jax.objectives.contrastive import Keys, Queries, contrast, mix
from oner_jax.parallel import mesh as meshes
from tests.oracle import log_softmax
from tests.oracle import unit as unit64


def make_mesh(*sizes):
    """Of `data`, `fsdp` and `tensor`, 1 where not given."""
    named = dict(zip(("data", "fsdp", "tensor"), sizes, strict=False))
    devices = jax.devices()[: int(np.prod(sizes))]
    return meshes.make_mesh(dict.fromkeys(meshes.AXES, 1) | named, devices)


class Case(NamedTuple):
    """Queries (sets, n, d), keys (sets, global, d), which key is whose, and what weighs a loss."""

    queries: np.ndarray
    keys: np.ndarray
    rows: np.ndarray
    captions: np.ndarray
    cotangents: np.ndarray
    scale: float
    bias: float
    concepts: np.ndarray | None = None


def make_case(seed, *, n, keys, d, pairs, scale, bias=-3.0, distinct=10**6, concepts=0, parts=()):
    """Unit vectors; captions take `distinct` hashes, 0 among them, and so do `concepts`, if any.

    A row has one caption or as many as `parts` says.
    """
    random = np.random.default_rng(seed)
    query_sets, key_sets = (1 + max(sets) for sets in zip(*pairs, strict=True))
    return Case(
        unit64(random.normal(size=(query_sets, n, d))),
        unit64(random.normal(size=(key_sets, keys, d))),
        random.permutation(keys)[:n],
        random.integers(0, distinct, (keys, *parts)).astype(np.uint32),
        random.normal(size=(len(pairs), n)),
        scale,
        bias,
        random.integers(0, concepts, keys).astype(np.uint32) if concepts else None,
    )


def dense(case, pairs, form):
    """Losses, whether the own key is first, and the gradients of sum(cotangents * losses).

    "First" is above all negatives. Positives share the target of the softmax.
    """
    own = case.rows[:, None] == np.arange(case.keys.shape[1])
    positive = own
    if case.concepts is not None:
        alike = case.concepts[case.rows][:, None] == case.concepts
        positive = own | (alike & (case.concepts != 0))
    sets = [{*np.atleast_1d(captions).tolist()} - {0} for captions in case.captions]
    equal = [[bool(sets[row] & other) for other in sets] for row in case.rows]
    excluded = np.array(equal) & ~positive
    target = positive / positive.sum(axis=1, keepdims=True)
    gradients = {
        "queries": np.zeros_like(case.queries),
        "keys": np.zeros_like(case.keys),
        "scale": 0.0,
        "bias": 0.0,
    }
    losses, correct = [], []
    for (query_set, key_set), cotangents in zip(pairs, case.cotangents, strict=True):
        q, k = case.queries[query_set], case.keys[key_set]
        logits = case.scale * q @ k.T
        if form == "softmax":
            log_p = log_softmax(np.where(excluded, -np.inf, logits))
            losses.append(-(target * np.where(positive, log_p, 0)).sum(axis=1))
            slopes = np.exp(log_p) - target
        else:
            z = np.where(positive, 1, -1)
            margins = z * (logits + case.bias)
            losses.append(np.where(excluded, 0, np.logaddexp(0, -margins)).sum(axis=1))
            slopes = np.where(excluded, 0, -z / (1 + np.exp(margins)))
        left_out = excluded | (positive & ~own)
        correct.append(np.where(left_out, -np.inf, logits).argmax(axis=1) == case.rows)
        slopes = slopes * cotangents[:, None]
        gradients["queries"][query_set] += case.scale * slopes @ k
        gradients["keys"][key_set] += case.scale * slopes.T @ q
        gradients["scale"] += (slopes * (q @ k.T)).sum()
        gradients["bias"] += slopes.sum() if form == "sigmoid" else 0.0
    return np.stack(losses), np.stack(correct), gradients


@functools.partial(
    jax.jit, static_argnames=("pairs", "form", "keys_carry_gradient", "mesh", "blocks")
)
def compiled(
    inputs,
    rows,
    captions,
    concepts,
    cotangents,
    *,
    pairs,
    form,
    keys_carry_gradient,
    mesh,
    blocks,
):
    own_concepts = None if concepts is None else concepts[rows]

    def total(inputs):
        keys = inputs["keys"]
        result = contrast(
            Queries(inputs["queries"], keys[:, rows], rows, captions[rows], own_concepts),
            Keys(keys, jnp.arange(keys.shape[1]), captions, concepts),
            pairs,
            scale=inputs["scale"],
            bias=inputs["bias"],
            form=form,
            keys_carry_gradient=keys_carry_gradient,
            mesh=mesh,
        )
        return jnp.sum(cotangents * result.loss), result

    query_block, key_block = blocks
    with mock.patch.multiple(contrastive, QUERY_BLOCK=query_block, KEY_BLOCK=key_block):
        return jax.grad(total, has_aux=True)(inputs)


def computed(case, pairs, form, mesh, keys_carry_gradient=True, blocks=(1024, 1024)):
    inputs = {
        "queries": jnp.asarray(case.queries, jnp.float32),
        "keys": jnp.asarray(case.keys, jnp.float32),
        "scale": jnp.float32(case.scale),
        "bias": jnp.float32(case.bias),
    }
    gradients, result = compiled(
        inputs,
        jnp.asarray(case.rows),
        jnp.asarray(case.captions),
        None if case.concepts is None else jnp.asarray(case.concepts),
        jnp.asarray(case.cotangents, jnp.float32),
        pairs=pairs,
        form=form,
        keys_carry_gradient=keys_carry_gradient,
        mesh=mesh,
        blocks=blocks,
    )
    return result.loss, result.correct, gradients


def check(case, pairs, form, mesh, tolerance=1e-5, **how):
    losses, correct, gradients = dense(case, pairs, form)
    got_losses, got_correct, got_gradients = computed(case, pairs, form, mesh, **how)
    np.testing.assert_allclose(got_losses, losses, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(got_correct, correct)
    for name, expected in gradients.items():
        size = max(np.abs(expected).max(), 1.0)
        np.testing.assert_allclose(
            got_gradients[name], expected, rtol=tolerance, atol=tolerance * size, err_msg=name
        )


SEVERAL = ((0, 1), (1, 0), (2, 1), (0, 2))


@given(
    seed=st.integers(0, 2**31),
    # Rows and columns, and the blocks that they are processed in.
    shape=st.sampled_from([((4, 4, 4), (1, 4)), ((3, 12, 5), (1024, 1)), ((8, 24, 16), (4, 8))]),
    pairs=st.sampled_from([((0, 0),), SEVERAL]),
    form=st.sampled_from(["softmax", "sigmoid"]),
    scale=st.sampled_from([1.0, 5.0, 14.0, 100.0]),
    distinct=st.integers(1, 30),
    concepts=st.sampled_from([0, 1, 2, 6]),
    parts=st.sampled_from([(), (1,), (3,)]),
)
def test_equal_to_the_dense_form(seed, shape, pairs, form, scale, distinct, concepts, parts):
    (n, keys, d), blocks = shape
    case = make_case(
        seed,
        n=n,
        keys=keys,
        d=d,
        pairs=pairs,
        scale=scale,
        distinct=distinct * max(1, *parts, 1),
        concepts=concepts,
        parts=parts,
    )
    # Logits of float32 are exact to about scale * 1e-7.
    check(case, pairs, form, make_mesh(1), tolerance=max(1e-5, scale * 1e-6), blocks=blocks)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("sizes", "several"),
    [
        ((8, 1, 1), {}),
        ((8, 1, 1), {"concepts": 5, "parts": (4,), "distinct": 60}),
        ((2, 2, 2), {"concepts": 5}),
        ((1, 8, 1), {}),
        ((4, 2, 1), {}),
    ],
    ids=str,
)
def test_any_mesh_equals_one_device_and_the_dense_form(sizes, several, form):
    case = make_case(
        0, **{"n": 16, "keys": 32, "d": 8, "pairs": SEVERAL, "scale": 5.0, "distinct": 12} | several
    )
    check(case, SEVERAL, form, make_mesh(*sizes))
    one, many = (computed(case, SEVERAL, form, mesh) for mesh in (make_mesh(1), make_mesh(*sizes)))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, many, one)


@pytest.mark.parametrize("keys_carry_gradient", [True, False])
@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 2, 4), (2, 1, 4)], ids=str)
def test_features_cut_over_tensor(sizes, keys_carry_gradient):
    """As a projection whose kernel is cut over `tensor` leaves them: the same, to the weights."""
    pairs = ((0, 1), (1, 0))
    case = make_case(1, n=16, keys=16, d=8, pairs=pairs, scale=5.0, distinct=12)
    inputs = np.random.default_rng(2).normal(size=(2, 16, 12)).astype(np.float32)
    kernel = np.random.default_rng(3).normal(size=(12, 8)).astype(np.float32)

    def gradients(mesh):
        def placed(x, *axes):
            return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))

        def total(kernel, inputs):
            inputs = placed(inputs, None, meshes.BATCH_AXES)
            features = jnp.einsum("snw,wd->snd", inputs, placed(kernel, "fsdp", "tensor"))
            features = placed(features, None, meshes.BATCH_AXES, "tensor")
            features = placed(contrastive.unit(features), None, meshes.BATCH_AXES, "tensor")
            captions = jnp.asarray(case.captions)
            result = contrast(
                Queries(features, features, jnp.arange(16), captions),
                Keys(features, jnp.arange(16), captions),
                pairs,
                scale=case.scale,
                keys_carry_gradient=keys_carry_gradient,
                mesh=mesh,
            )
            return jnp.sum(jnp.asarray(case.cotangents, jnp.float32) * result.loss)

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(kernel, inputs)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, gradients(make_mesh(*sizes)), gradients(make_mesh(1)))


@pytest.mark.parametrize("concepts", [0, 5])
def test_without_a_gradient_keys_get_none_and_nothing_else_changes(concepts):
    case = make_case(4, n=8, keys=16, d=8, pairs=SEVERAL, scale=5.0, concepts=concepts)
    *values, carried = computed(case, SEVERAL, "softmax", make_mesh(8))
    *same, gradients = computed(case, SEVERAL, "softmax", make_mesh(8), keys_carry_gradient=False)
    jax.tree.map(np.testing.assert_array_equal, values, same)
    np.testing.assert_array_equal(gradients.pop("keys"), 0.0)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, carried[name])


def paired(vectors, form, scale, bias):
    """Every query set with every other key set: images and texts, both carrying gradients."""
    rows = jnp.arange(vectors.shape[1])
    result = contrast(
        Queries(vectors, vectors, rows, jnp.zeros_like(rows, jnp.uint32)),
        Keys(vectors, rows, jnp.zeros_like(rows, jnp.uint32)),
        ((0, 1), (1, 0)) if form == "softmax" else ((0, 1),),
        scale=scale,
        bias=bias,
        form=form,
        keys_carry_gradient=True,
        mesh=make_mesh(4, 2, 1),
    )
    return result.loss.mean()


def clip(vectors, log_scale, bias):
    """Radford et al. 2021, figure 3."""
    del bias
    logits = jnp.exp(log_scale) * vectors[0] @ vectors[1].T
    rows = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
    return -sum(jnp.diagonal(log_p).mean() for log_p in rows) / 2


def siglip(vectors, log_scale, bias):
    """Zhai et al. 2023, algorithm 1."""
    logits = vectors[0] @ vectors[1].T * jnp.exp(log_scale) + bias
    labels = 2 * jnp.eye(len(logits)) - 1
    return -jnp.sum(jax.nn.log_sigmoid(labels * logits)) / len(logits)


@pytest.mark.parametrize(
    ("published", "form", "scale", "bias"),
    [(clip, "softmax", 1 / 0.07, 0.0), (siglip, "sigmoid", 10.0, -10.0)],
)
def test_published_losses(published, form, scale, bias):
    """With their learned temperature and bias at their published first values."""
    vectors = np.random.default_rng(5).normal(size=(2, 24, 16)).astype(np.float32)

    def ours(vectors, log_scale, bias):
        return paired(contrastive.unit(vectors), form, jnp.exp(log_scale), bias)

    def theirs(vectors, log_scale, bias):
        return published(contrastive.unit(vectors), log_scale, bias)

    arguments = (jnp.asarray(vectors), jnp.log(scale), jnp.float32(bias))
    got, expected = (
        jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arguments) for loss in (ours, theirs)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, got, expected)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_a_query_among_equal_captions_only_has_no_negatives(form):
    case = make_case(6, n=4, keys=4, d=4, pairs=((0, 0),), scale=10.0)
    case = case._replace(keys=case.queries[:, np.argsort(case.rows)], captions=np.full(4, 9, "u4"))
    losses, correct, gradients = computed(case, ((0, 0),), form, make_mesh(4))
    own = 0.0 if form == "softmax" else np.log1p(np.exp(-(case.scale + case.bias)))
    np.testing.assert_allclose(losses, own, atol=1e-6)
    assert correct.all()
    assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))


def unicl(vectors, targets, scale):
    """Yang et al. 2022, algorithm 1: images to texts and back, with equal targets as positives."""
    logits = scale * vectors[0] @ vectors[1].T
    targets = targets[:, None] == targets
    image_to_text = targets * jax.nn.log_softmax(logits, axis=1)
    text_to_image = targets.T * jax.nn.log_softmax(logits.T, axis=1)
    return -sum((x.sum(1) / targets.sum(1)).mean() for x in (image_to_text, text_to_image)) / 2


def test_equal_concepts_are_positives_as_published():
    vectors = np.random.default_rng(5).normal(size=(2, 24, 16)).astype(np.float32)
    targets = jnp.asarray(np.random.default_rng(6).integers(1, 9, 24), jnp.uint32)
    rows, no_captions = jnp.arange(24), jnp.zeros(24, jnp.uint32)

    def ours(vectors):
        vectors = contrastive.unit(vectors)
        result = contrast(
            Queries(vectors, vectors, rows, no_captions, targets),
            Keys(vectors, rows, no_captions, targets),
            ((0, 1), (1, 0)),
            scale=10.0,
            keys_carry_gradient=True,
            mesh=make_mesh(4, 2, 1),
        )
        return result.loss.mean()

    got, expected = (
        jax.jit(jax.value_and_grad(loss))(jnp.asarray(vectors))
        for loss in (ours, lambda x: unicl(contrastive.unit(x), targets, 10.0))
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, got, expected)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_concepts_of_their_own_cost_what_no_concepts_cost(form):
    case = make_case(8, n=8, keys=16, d=8, pairs=SEVERAL, scale=5.0, distinct=9)
    apart = case._replace(concepts=np.arange(16, dtype=np.uint32))
    without, with_concepts = (computed(c, SEVERAL, form, make_mesh(4)) for c in (case, apart))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    jax.tree.map(close, with_concepts, without)


def test_uniform_keys_cost_the_logarithm_of_their_number():
    keys = np.tile(np.eye(1, 8), (1, 16, 1))
    case = make_case(7, n=16, keys=16, d=8, pairs=((0, 0),), scale=5.0)
    losses, _, _ = computed(case._replace(keys=keys), ((0, 0),), "softmax", make_mesh(8))
    np.testing.assert_allclose(losses, np.log(16), rtol=1e-6)


def temporaries(devices, rows, d=64, concepts=False):
    """Bytes of temporaries of one device holding `rows` queries and keys, gradients and all."""
    mesh = make_mesh(devices)
    sharded = functools.partial(
        jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )
    vectors = jax.ShapeDtypeStruct(
        (2, devices * rows, d),
        jnp.float32,
        sharding=NamedSharding(mesh, PartitionSpec(None, "data")),
    )

    def total(vectors, rows, captions):
        return contrast(
            Queries(vectors, vectors, rows, captions, captions if concepts else None),
            Keys(vectors, rows, captions, captions if concepts else None),
            ((0, 1), (1, 0)),
            scale=10.0,
            keys_carry_gradient=True,
            mesh=mesh,
        ).loss.sum()

    labels = sharded((devices * rows,), jnp.int32), sharded((devices * rows,), jnp.uint32)
    memory = jax.jit(jax.grad(total)).lower(vectors, *labels).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


@pytest.mark.parametrize("concepts", [False, True])
def test_memory_does_not_grow_with_devices(concepts):
    assert temporaries(8, 256, concepts=concepts) <= 1.02 * temporaries(4, 256, concepts=concepts)


def test_logits_of_many_local_rows_never_exist_together():
    rows = 16384
    assert temporaries(1, rows) < 4 * rows * rows / 10


def test_mix_is_the_unit_bisector():
    a, b = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(mix(a, b), [[0.5**0.5, 0.5**0.5]], rtol=1e-6)
    np.testing.assert_array_equal(mix(a), a)
