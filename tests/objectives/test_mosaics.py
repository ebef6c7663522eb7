"""Mosaics: what each shows, what its caption says, and what it is contrasted with."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from oner_jax.data.tokenizer import Tokenizer, caption_hash
from oner_jax.models.pretraining import PureModel
from oner_jax.models.views import VIEWS
from oner_jax.objectives import mosaics
from oner_jax.parallel.mesh import batch_sharding, make_mesh
from tests import small
from tests.objectives.test_objective import loss_and_masks, oracle_states, stacked
from tests.oracle import nce

ROWS, SIDE, TOKENS = 16, 32, 24
CAPTIONS = [
    *("a red car", "Dog", "two cats", "the tall green tree", "house", "blue bird", "sun", "a cup"),
    *("jigsaw", "smiling face", "moon", "tea-pot", "left arrow", "key", "umbrella", "a red car"),
]
CONCEPTS = np.array([7, 2, 3, 4, 5, 6, 7, 8, 9, 0, 11, 12, 13, 14, 15, 16], np.uint32)


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load("embedded")


def images() -> np.ndarray:
    """Every row's number as the level of red; green grows to the right, blue downwards."""
    pixels = np.empty((ROWS, SIDE, SIDE, 3), np.uint8)
    pixels[..., 0] = 10 * np.arange(ROWS)[:, None, None]
    pixels[..., 1] = 6 * np.arange(SIDE)
    pixels[..., 2] = 6 * np.arange(SIDE)[:, None]
    return pixels


@functools.partial(jax.jit, static_argnames=("fraction", "joiner"))
def composed(key, *batch, fraction, joiner):
    return mosaics.compose(key, *batch, fraction=fraction, joiner=joiner)


def compose(seed=0, tokens=TOKENS, fraction=0.5, concepts=None) -> mosaics.Mosaicked:
    text = tokenizer().encode(CAPTIONS, tokens)
    made = composed(
        jax.random.key(seed),
        images(),
        text,
        caption_hash(CAPTIONS),
        concepts,
        fraction=fraction,
        joiner=tokenizer().joiner,
    )
    return jax.device_get(made)


def parts_of(made: mosaics.Mosaicked, row: int) -> list[int]:
    """Which rows a row shows, in the order of its captions."""
    hashes = caption_hash(CAPTIONS).tolist()
    group = range(row // 8 * 8, row // 8 * 8 + 8)
    return [next(r for r in group if hashes[r] == h) for h in made.captions[row, :4] if h]


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
def test_the_part_that_was_asked_for_becomes_mosaics_and_the_rest_stays(fraction):
    made = compose(fraction=fraction)
    assert made.is_mosaic.reshape(2, 8).sum(axis=1).tolist() == [8 * fraction] * 2
    alone = ~made.is_mosaic
    np.testing.assert_array_equal(made.image[alone], images()[alone])
    np.testing.assert_array_equal(made.text[alone], tokenizer().encode(CAPTIONS, TOKENS)[alone])
    np.testing.assert_array_equal(made.captions[alone, 0], caption_hash(CAPTIONS)[alone])
    assert not made.captions[alone, 1:].any()
    for row in np.flatnonzero(made.is_mosaic):
        parts = parts_of(made, int(row))
        assert parts[0] == row
        assert 2 <= len(parts) == len(set(parts)) <= 4


def test_every_row_and_every_number_of_images_is_drawn():
    rows, numbers, partners = set(), [], set()
    for seed in range(12):
        made = compose(seed)
        for row in np.flatnonzero(made.is_mosaic).tolist():
            parts = parts_of(made, row)
            rows.add(row)
            numbers.append(len(parts))
            partners |= set(parts[1:])
    assert rows == partners == set(range(ROWS))
    assert [round(3 * numbers.count(n) / len(numbers)) for n in (2, 3, 4)] == [1, 1, 1]


def test_captions_are_joined_as_their_text_would_be():
    made = compose(1, fraction=1.0)
    joined = [" and ".join(CAPTIONS[r] for r in parts_of(made, row)) for row in range(ROWS)]
    assert all(re.search(r"\w and \w", text) for text in joined)
    np.testing.assert_array_equal(made.text, tokenizer().encode(joined, 99)[:, :TOKENS])


@pytest.mark.parametrize("tokens", [4, 6, 9])
def test_no_caption_is_cut_to_be_joined(tokens):
    made = compose(2, tokens, fraction=1.0)
    joined = [" and ".join(CAPTIONS[r] for r in parts_of(made, row)) for row in range(ROWS)]
    np.testing.assert_array_equal(made.text, tokenizer().encode(joined, tokens))
    lengths = tokenizer().lengths(joined)
    assert (lengths[made.is_mosaic] <= tokens).all()
    assert 0 < made.is_mosaic.sum() < ROWS if tokens < 9 else made.is_mosaic.any()
    alone = ~made.is_mosaic
    np.testing.assert_array_equal(made.image[alone], images()[alone])


def test_each_image_is_shrunk_into_a_quadrant_of_its_own():
    order = []
    for seed in range(4):
        made = compose(seed, fraction=1.0)
        for row in range(ROWS):
            shown, ground = parts_of(made, row), np.ones((SIDE, SIDE), bool)
            cells = []
            for part in shown:
                there = made.image[row, ..., 0] == images()[part, 0, 0, 0]
                rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
                top, left, height, width = rows[0], columns[0], len(rows), len(columns)
                assert there[top : top + height, left : left + width].all()
                assert 0.3 * SIDE <= min(height, width) <= max(height, width) <= 0.5 * SIDE
                cells.append(
                    (int(2 * (top + height / 2) // SIDE), int(2 * (left + width / 2) // SIDE))
                )
                small_one = Image.fromarray(images()[part]).resize((width, height))
                got = made.image[row, top : top + height, left : left + width].astype(int)
                assert np.abs(got - np.asarray(small_one)).max() <= 12
                ground &= ~there
            assert (made.image[row][ground] == 255).all()
            assert len(set(cells)) == len(cells)
            order.append(cells[0] < cells[1])
    assert 0.3 < np.mean(order) < 0.7, "places tell nothing of the order of captions"


def test_a_mosaic_has_the_concepts_of_its_parts_and_none_itself():
    made = compose(3, concepts=CONCEPTS)
    assert made.concept is not None
    np.testing.assert_array_equal(made.concept, np.where(made.is_mosaic, 0, CONCEPTS))
    hashes = made.captions[:, 4:]
    known = {int(c): h for c, h in zip(CONCEPTS, hashes[:, 0], strict=True)}
    for row in range(ROWS):
        expected = [known[int(CONCEPTS[part])] for part in parts_of(made, row)]
        assert sorted(filter(None, expected)) == sorted(filter(None, hashes[row]))
    assert not set(known.values()) & (set(CONCEPTS.tolist()) - {0})


def test_many_devices_compose_the_same_and_move_no_image():
    batch = (images(), tokenizer().encode(CAPTIONS, TOKENS), caption_hash(CAPTIONS), CONCEPTS)
    one = compose(4, concepts=CONCEPTS)
    mesh = make_mesh(dict(slice=1, data=8, fsdp=1, tensor=1))
    batch = jax.device_put(batch, batch_sharding(mesh))
    how = dict(fraction=0.5, joiner=tokenizer().joiner)
    many = composed(jax.random.key(4), *batch, **how)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(many), one)
    # With whole groups on every device.
    mesh = make_mesh(dict(slice=1, data=2, fsdp=1, tensor=1), jax.devices()[:2])
    batch = jax.device_put(batch, batch_sharding(mesh))
    program = composed.lower(jax.random.key(4), *batch, **how).compile().as_text()
    assert program is not None
    moved = re.findall(
        r"= u8\S* (?:all-gather|all-to-all|collective-permute|all-reduce)\(", program
    )
    assert not moved


def test_contrast_leaves_out_rows_that_share_an_image_with_a_mosaic():
    settings = small.settings(text_tokens=12)
    model, weights = PureModel(settings), {"itc": 1.0}
    parameters, twin = small.parameters(model, 0), small.parameters(model, 5)["backbone"]
    batch = small.batch(settings)
    batch = batch._replace(text=batch.text.at[:, 5:].set(0))  # so that any two captions fit
    objective = small.objective(settings, weights, mosaic_fraction=0.25)
    _, metrics, prepared = loss_and_masks(model, objective, parameters, twin, batch)
    assert np.asarray(prepared.is_mosaic).sum() == 2
    assert (np.asarray(prepared.image) != batch.image).any(axis=(1, 2, 3)).sum() == 2
    _, rows = oracle_states(settings, parameters, twin, prepared, prepared)
    sets = [set(row[row != 0].tolist()) for row in np.asarray(prepared.caption_hash)]
    shares = np.array([[bool(mine & theirs) for theirs in sets] for mine in sets])
    assert shares.sum() > len(sets) + 2, "also where captions differ"
    q = {view: stacked(rows, "q", view) for view in VIEWS}
    k = {view: stacked(rows, "k", view) for view in VIEWS}
    expected = nce(q["I"], k["T"], 0.2, shares) + nce(q["T"], k["I"], 0.2, shares)
    np.testing.assert_allclose(metrics["loss/itc"], expected, rtol=2e-5)


def test_without_mosaics_hashes_stay_what_they_were():
    settings = small.settings()
    batch = small.batch(settings)
    prepared = small.objective(settings).prepare(jax.random.key(0), batch)
    assert prepared.is_mosaic is None
    np.testing.assert_array_equal(prepared.caption_hash, batch.caption_hash)
    assert jnp.array_equal(prepared.image, batch.image)
