"""Exact search among many vectors by inner product, on the devices of this process.

One product makes all scores of a chunk of queries, which are then read once: the gallery stays on
the device, and memory is bounded by `MAXIMUM_SCORES` however many queries there are.
"""

import collections
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Int64

MAXIMUM_SCORES = 2**26  # of one chunk: 256 MiB of float32

# Of each group of scores the highest is kept first; only groups that can hold an answer are then
# looked into.
GROUP = 64

COUNTED_COLUMNS = 2048  # read at a time where scores are compared

Pairs = tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"]]
PairsOf = Callable[[int, int], Pairs]
"""(first, last) -> rows, counted from `first`, and columns of the pairs of those queries."""


def count_in_front(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "gallery width"],
    right: PairsOf,
    excluded: PairsOf | None = None,
    *,
    maximum_scores: int = MAXIMUM_SCORES,
) -> Int64[np.ndarray, "queries"]:
    """How many wrong items stand in front of the best right one of each query; -1 without one.

    A wrong item with the same score stands in front, and so does every one where scores are not
    finite. `excluded` items do not count; none of them is right.
    """

    def count(first: int, last: int, chunk: Array, held: Array) -> tuple[Array]:
        none = (np.empty(0, np.int64), np.empty(0, np.int64))
        others = none if excluded is None else excluded(first, last)
        pairs = (*_padded(right(first, last), len(chunk)), *_padded(others, len(chunk)))
        return (_in_front(chunk, held, *pairs),)

    (counts,) = _in_chunks(count, queries, gallery, maximum_scores)
    return counts.astype(np.int64)


@jax.jit
def _in_front(
    queries: Float32[Array, "q width"],
    gallery: Float32[Array, "gallery width"],
    rows: Int32[Array, "pairs"],
    columns: Int32[Array, "pairs"],
    other_rows: Int32[Array, "others"],
    other_columns: Int32[Array, "others"],
) -> Int32[Array, "q"]:
    scores = _scores(queries, gallery)
    own = scores.at[rows, columns].get(mode="fill", fill_value=-jnp.inf)
    best = jnp.full(len(queries), -jnp.inf).at[rows].max(own, mode="drop")

    def ahead(scores: Array, best: Array) -> Bool[Array, "..."]:
        return ~(scores < best)  # nan compares as false with everything

    def number_ahead(rows: Array, columns: Array) -> Int32[Array, "q"]:
        chosen = scores.at[rows, columns].get(mode="fill", fill_value=0.0)
        counted = ahead(chosen, best.at[rows].get(mode="fill", fill_value=0.0))
        return jnp.zeros(len(queries), jnp.int32).at[rows].add(counted, mode="drop")

    everything = _count_by_row(lambda scores: ahead(scores, best[:, None]), scores)
    wrong = everything - number_ahead(rows, columns) - number_ahead(other_rows, other_columns)
    return jnp.where(jnp.isneginf(best), -1, wrong)


def _count_by_row(
    condition: Callable[[Array], Array], scores: Float32[Array, "q gallery"]
) -> Int32[Array, "q"]:
    """In how many columns the condition holds.

    A sum along rows is a loop of single scores on CPUs. Adding block after block of columns is not,
    and takes a seventh of the time.
    """
    width = min(COUNTED_COLUMNS, scores.shape[1])
    blocks = scores.shape[1] // max(1, width)

    def with_block(number: Array, counts: Array) -> Int32[Array, "q width"]:
        block = jax.lax.dynamic_slice_in_dim(scores, number * width, width, axis=1)
        return counts + condition(block).astype(jnp.int32)

    none = jnp.zeros((len(scores), width), jnp.int32)
    counted = jax.lax.fori_loop(0, blocks, with_block, none)
    rest = condition(scores[:, blocks * width :])
    return jnp.sum(counted, axis=1) + jnp.sum(rest, axis=1, dtype=jnp.int32)


def best_of(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "gallery width"],
    k: int,
    *,
    maximum_scores: int = MAXIMUM_SCORES,
) -> tuple[Int64[np.ndarray, "queries found"], Float32[np.ndarray, "queries found"]]:
    """Indices and scores of the k best gallery items of every query (fewer if there are fewer).

    Best first; of equal ones the first in the gallery comes first.
    """
    size = len(gallery)
    padded = np.pad(gallery, [(0, -size % GROUP), (0, 0)])

    def best(first: int, last: int, chunk: Array, held: Array) -> tuple[Array, Array]:
        return best_on_device(chunk, held, size, min(k, size))

    found, scores = _in_chunks(best, queries, padded, maximum_scores)
    return found.astype(np.int64), scores


@functools.partial(jax.jit, static_argnames=("size", "k"))
def best_on_device(
    queries: Float32[Array, "q width"],
    gallery: Float32[Array, "padded width"],
    size: int,
    k: int,
) -> tuple[Int32[Array, "q k"], Float32[Array, "q k"]]:
    """As `best_of`, of the first `size` rows of a gallery whose length is a multiple of `GROUP`."""
    there = jnp.arange(len(gallery)) < size
    scores = jnp.where(there, _scores(queries, gallery), -jnp.inf)
    groups = scores.reshape(len(queries), -1, GROUP)
    # The k best lie in the k groups with the highest maxima. In ascending order of their numbers,
    # so that equal scores keep their order.
    _, chosen = jax.lax.top_k(groups.max(axis=2), min(k, groups.shape[1]))
    chosen = jnp.sort(chosen, axis=1)
    candidates = jnp.take_along_axis(groups, chosen[:, :, None], axis=1)
    values, place = jax.lax.top_k(candidates.reshape(len(queries), -1), k)
    group = jnp.take_along_axis(chosen, place // GROUP, axis=1)
    return group * GROUP + place % GROUP, values


def _scores(queries: Array, gallery: Array) -> Float32[Array, "q gallery"]:
    # Ranks are exact only if products are: no TF32, no bfloat16 passes.
    return jnp.matmul(queries, gallery.T, precision=jax.lax.Precision.HIGHEST)


def _in_chunks(
    compute: Callable[[int, int, Array, Array], tuple[Array, ...]],
    queries: np.ndarray,
    gallery: np.ndarray,
    maximum_scores: int,
) -> list[np.ndarray]:
    """What `compute` makes of all queries: of (first, last, their rows padded to the size of all
    chunks, the gallery). Devices take turns, each with one chunk at work and one waiting."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        devices = devices[:1]  # the others are the same cores
    held = [jax.device_put(gallery.astype(np.float32), device) for device in devices]
    rows = min(max(1, maximum_scores // max(1, len(gallery))), max(1, len(queries)))
    finished: list[list[np.ndarray]] = []
    running: collections.deque[tuple[int, tuple[Array, ...]]] = collections.deque()

    def finish_one() -> None:
        size, parts = running.popleft()
        finished.append([np.asarray(part)[:size] for part in parts])

    for number, first in enumerate(range(0, max(1, len(queries)), rows)):
        last = min(first + rows, len(queries))
        chunk = np.zeros((rows, queries.shape[1]), np.float32)
        chunk[: last - first] = queries[first:last]
        place = number % len(devices)
        on_device = jax.device_put(chunk, devices[place])
        running.append((last - first, compute(first, last, on_device, held[place])))
        if len(running) > len(devices):
            finish_one()
    while running:
        finish_one()
    return [np.concatenate(parts) for parts in zip(*finished, strict=True)]


def _padded(pairs: Pairs, no_row: int) -> tuple[Int32[np.ndarray, "p"], Int32[np.ndarray, "p"]]:
    """The pairs with some that belong to no row, so that few lengths have to be compiled."""
    rows, columns = pairs
    length = 1 << max(6, (len(rows) - 1).bit_length())
    missing = (0, length - len(rows))
    return (
        np.pad(rows, missing, constant_values=no_row).astype(np.int32),
        np.pad(columns, missing).astype(np.int32),
    )
