"""Mosaics: two to four images of the batch on one white ground, their captions joined with "and".

They are composed on the device, from the whole global batch and the step's key, like masks: so the
number of hosts, resuming and micro-batches cannot change them, and no image is read twice. The
batch is cut into groups of eight rows, which are random examples already, and a mosaic takes its
images from its row's group: where a device holds whole groups, no image moves between devices.

    row i of the batch:  image i, caption i  ->  +-----+-----+
                                                 |  k  |     |    "caption i and caption k and
                                                 +-----+-----+     caption j", each image at a
                                                 |  j  |  i  |     random size and place in a
                                                 +-----+-----+     quadrant of its own

A caption is never cut: where joined captions exceed the text's length, the mosaic takes fewer
images, and a row whose caption goes together with no other stays as it is. (Our choice throughout:
docs/method.md has no mosaics.)
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8, UInt32

from oner_jax.models.inputs import PAD_ID

# Rows that mosaics take their images from, and the most that one takes.
GROUP = 8
MOST = 4

# Part of a quadrant's side that an image takes at least.
SMALLEST = 0.7

_WHITE = 255.0

# Tells hashes of concepts from those of captions where both are compared as one set.
_CONCEPT_SALT = 0x9E3779B9


class Mosaicked(NamedTuple):
    """Rows of a global batch, some of them mosaics.

    `captions` are the hashes of the captions that a row joins, 0 where there are fewer, and with
    concepts also theirs: rows that share one are not clean negatives of each other. `concept` is 0
    for a mosaic, which is a positive of no other row.
    """

    image: UInt8[Array, "b h w 3"]
    text: Int[Array, "b length"]
    captions: UInt32[Array, "b parts"]
    concept: UInt32[Array, "b"] | None
    is_mosaic: Bool[Array, "b"]


class _Plan(NamedTuple):
    """What is drawn for the mosaics of every group.

    `slot` says which of a group's mosaics a row becomes, none at `mosaics` and beyond; `parts` are
    the rows of the group that a mosaic would take, its own first; `number` how many it takes.
    """

    slot: Int[Array, "groups rows"]
    parts: Int[Array, "groups mosaics most"]
    number: Int[Array, "groups mosaics"]


def compose(
    key: Key[Array, ""],
    image: UInt8[Array, "b h w 3"],
    text: Int[Array, "b length"],
    caption_hash: UInt32[Array, "b"],
    concept_hash: UInt32[Array, "b"] | None,
    *,
    fraction: float,
    joiner: tuple[int, ...],
) -> Mosaicked:
    """Turn `fraction` of the rows into mosaics, as far as their captions fit.

    `fraction` is a multiple of 1 / GROUP, and rows are a multiple of GROUP. `joiner` are the ids
    that go between captions.
    """
    plan_key, place_key = jax.random.split(key)
    groups = functools.partial(_grouped, groups=len(text) // GROUP)
    texts = groups(text)
    lengths = (texts != PAD_ID).sum(axis=2)
    plan = _draw_plan(plan_key, lengths, round(fraction * GROUP), text.shape[1], len(joiner))
    takes_part = jnp.arange(MOST) < plan.number[..., None]
    joins = plan.number > 1

    def placed(mosaics: Array, rows: Array, joins: Bool[Array, "groups mosaics"] = joins) -> Array:
        """The rows with those replaced that become mosaics."""
        last = mosaics.shape[1] - 1
        replaced = (plan.slot <= last) & _take(joins, jnp.minimum(plan.slot, last))
        replaced = replaced.reshape(replaced.shape + (1,) * (rows.ndim - 2))
        chosen = jnp.where(replaced, _take(mosaics, jnp.minimum(plan.slot, last)), rows)
        return chosen.reshape(-1, *rows.shape[2:])

    def of_parts(hashes: UInt32[Array, "b"]) -> UInt32[Array, "b most"]:
        rows = groups(hashes)
        alone = jnp.pad(rows[..., None], ((0, 0), (0, 0), (0, MOST - 1)))
        return placed(jnp.where(takes_part, _take(rows, plan.parts), jnp.uint32(0)), alone)

    images = _paste(place_key, _take(groups(image), plan.parts), takes_part)
    captions = _join(_take(texts, plan.parts), _take(lengths, plan.parts), takes_part, joiner)
    hashes, concept = of_parts(caption_hash), None
    is_mosaic = placed(joins, jnp.zeros_like(plan.slot, bool))
    if concept_hash is not None:
        concept = jnp.where(is_mosaic, jnp.uint32(0), concept_hash)
        salted = jnp.where(concept_hash == 0, 0, concept_hash ^ jnp.uint32(_CONCEPT_SALT))
        hashes = jnp.concatenate([hashes, of_parts(salted)], axis=1)
    return Mosaicked(
        placed(images, groups(image)), placed(captions, texts), hashes, concept, is_mosaic
    )


def _draw_plan(
    key: Key[Array, ""],
    lengths: Int[Array, "groups rows"],
    mosaics: int,
    text_tokens: int,
    joiner_tokens: int,
) -> _Plan:
    row_key, part_key, number_key = jax.random.split(key, 3)
    groups = len(lengths)
    order = jnp.argsort(jax.random.uniform(row_key, (groups, GROUP)), axis=1)
    scores = jax.random.uniform(part_key, (groups, mosaics, GROUP))
    own = jnp.arange(GROUP) == order[:, :mosaics, None]
    parts = jnp.argsort(jnp.where(own, -1.0, scores), axis=2)[..., :MOST]
    wanted = jax.random.randint(number_key, (groups, mosaics), 2, MOST + 1)
    joined = jnp.cumsum(_take(lengths, parts), axis=2) + jnp.arange(MOST) * joiner_tokens
    fits = (joined <= text_tokens) & (jnp.arange(MOST) < wanted[..., None])
    return _Plan(jnp.argsort(order, axis=1), parts, jnp.maximum(fits.sum(axis=2), 1))


def _join(
    texts: Int[Array, "groups mosaics most length"],
    lengths: Int[Array, "groups mosaics most"],
    takes_part: Bool[Array, "groups mosaics most"],
    joiner: tuple[int, ...],
) -> Int[Array, "groups mosaics length"]:
    """The captions one after the other, the joiner before each but the first."""
    places = jnp.arange(texts.shape[-1])
    ends = jnp.cumsum(lengths, axis=2) + jnp.arange(MOST) * len(joiner)
    joined = jnp.full_like(texts[:, :, 0], PAD_ID)
    for part in range(MOST):
        start, end = (ends - lengths)[..., part, None], ends[..., part, None]
        there = takes_part[..., part, None]
        ids = jnp.take_along_axis(
            texts[:, :, part], jnp.clip(places - start, 0, len(places) - 1), axis=2
        )
        joined = jnp.where(there & (places >= start) & (places < end), ids, joined)
        for offset, joining in enumerate(joiner if part else ()):
            joined = jnp.where(there & (places == start - len(joiner) + offset), joining, joined)
    return joined


def _paste(
    key: Key[Array, ""],
    images: UInt8[Array, "groups mosaics most h w 3"],
    takes_part: Bool[Array, "groups mosaics most"],
) -> UInt8[Array, "groups mosaics h w 3"]:
    """Each image shrunk into a quadrant of its own, on white."""
    cell_key, size_key, place_key = jax.random.split(key, 3)
    shape, side = takes_part.shape, images.shape[3]
    # Not in the order of the captions: words must not tell where things are.
    cells = jnp.argsort(jax.random.uniform(cell_key, shape), axis=2)
    quadrants = jnp.stack([cells // 2, cells % 2], axis=-1)
    sizes = jax.random.uniform(size_key, shape, minval=SMALLEST / 2, maxval=0.5)
    free = jax.random.uniform(place_key, (*shape, 2)) * (0.5 - sizes[..., None])
    corners = side * (quadrants / 2 + free)

    def shrink(
        image: UInt8[Array, "h w 3"], size: Float[Array, ""], corner: Float[Array, "2"]
    ) -> Float[Array, "h w 3"]:
        """How far below white the levels are, 0 outside of the image."""
        darkness = _WHITE - image.astype(jnp.float32)
        scales = jnp.stack([size, size])
        return jax.image.scale_and_translate(
            darkness, image.shape, (0, 1), scales, corner, method="linear"
        )

    shrink_all = jax.vmap(jax.vmap(jax.vmap(shrink)))
    darkness = jnp.where(
        takes_part[..., None, None, None], shrink_all(images, sizes, corners), 0.0
    ).sum(axis=2)
    return jnp.clip(_WHITE - darkness + 0.5, 0.0, _WHITE).astype(jnp.uint8)


def _grouped(rows: Array, groups: int) -> Array:
    return rows.reshape(groups, GROUP, *rows.shape[1:])


def _take(rows: Array, indices: Int[Array, "groups ..."]) -> Array:
    """Rows of every group by their number in it."""
    return jax.vmap(lambda group, chosen: group[chosen])(rows, indices)
