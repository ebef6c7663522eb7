"""The order of examples as arithmetic: which example stands at which position of training.

Position p counts examples from the start of training: row r of the global batch of step s is
p = s * batch_size + r. Epoch p // n visits each of the n examples once, in an order of its own.
Everything here is a pure function of (seed, p), so resuming needs one integer, and any host can
compute its share of a batch. NumPy only; no table of n entries is ever built.

An epoch's order is a Feistel network over the smallest power of two >= n, with cycle walking:
positions that land at or beyond n are mapped again until they land below (fewer than two rounds on
average). Source: Black & Rogaway, "Ciphers with arbitrary finite domains", 2002; the round function
is SplitMix64's finaliser, which mixes well and promises no secrecy.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float64, Int64, UInt64

ROUNDS = 8

# Separate the uses of one seed, so that an epoch's order and its crops are unrelated.
_ORDER_STREAM = 1
_DERANGEMENT_STREAM = 2
_UNIFORM_STREAM = 3
_PARTITION_STREAM = 4
_REPLACEMENT_STREAM = 5
_AUGMENT_STREAM = 6
# Each kind of data (pairs, pictures alone, captions alone) has its own lane of every stream.
_LANES = 16
# In the words that keys are made of, epochs stay below.
_SOURCE_SHIFT = 48


def _mix(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """SplitMix64's finaliser: a bijection of 64-bit words in which every bit affects every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _keys(seed: int, stream: int, words: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """One 64-bit key per word, depending on the seed and on what it is used for."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    start = np.array([(seed ^ (stream << 56)) & (2**64 - 1)], np.uint64)
    return _mix(_mix(start + golden) ^ _mix(words + golden))


def _permute(
    values: UInt64[np.ndarray, " n"],
    keys: UInt64[np.ndarray, " n"],
    domain: int,
    inverse: bool = False,
) -> UInt64[np.ndarray, " n"]:
    """The keyed bijection of [0, domain), or its inverse, element by element."""
    bits = max((domain - 1).bit_length(), 2)
    low_bits = np.uint64(bits // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << np.uint64(bits - bits // 2)) - np.uint64(1)
    result = values.copy()
    todo = np.arange(len(values))
    while len(todo):
        high, low, key = result[todo] >> low_bits, result[todo] & low_mask, keys[todo]
        for number in reversed(range(ROUNDS)) if inverse else range(ROUNDS):
            round_key = key + np.uint64(number)
            if number % 2:
                high = high ^ (_mix(low ^ round_key) & high_mask)
            else:
                low = low ^ (_mix(high ^ round_key) & low_mask)
        result[todo] = (high << low_bits) | low
        todo = todo[result[todo] >= domain]
    return result


def example_indices(
    positions: Int64[np.ndarray, " n"],
    number_of_examples: int,
    seed: int,
    lane: int = 0,
    source: int = 0,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Index of the example at each position, and the epoch (from 0) the position is in.

    Every lane (kind of data) and every source of a mixture has orders of its own.
    """
    epochs, offsets = np.divmod(np.asarray(positions, np.int64), number_of_examples)
    words = epochs.astype(np.uint64) | np.uint64(source << _SOURCE_SHIFT)
    keys = _keys(seed, _ORDER_STREAM + _LANES * lane, words)
    return _permute(offsets.astype(np.uint64), keys, number_of_examples).astype(np.int64), epochs


def deranged_indices(
    indices: Int64[np.ndarray, " n"], number_of_examples: int, seed: int
) -> Int64[np.ndarray, " n"]:
    """A fixed permutation of all examples that leaves none in its place, at the given indices.

    All examples form one cycle in a pseudo-random order, and each is sent to the next in it; with
    fewer than two examples there is no such permutation (ValueError).
    """
    if number_of_examples < 2:
        raise ValueError("a derangement needs at least two examples")
    keys = _keys(seed, _DERANGEMENT_STREAM, np.zeros(len(indices), np.uint64))
    places = _permute(
        np.asarray(indices, np.int64).astype(np.uint64), keys, number_of_examples, inverse=True
    )
    following = (places + np.uint64(1)) % np.uint64(number_of_examples)
    return _permute(following, keys, number_of_examples).astype(np.int64)


def shuffled_indices(
    places: Int64[np.ndarray, " n"], number_of_examples: int
) -> Int64[np.ndarray, " n"]:
    """A fixed shuffle of all examples: index of the example at each place.

    The first m places are a random part of m examples, the others the rest of the split; the same
    part for every seed of training.
    """
    keys = _keys(0, _PARTITION_STREAM, np.zeros(len(places), np.uint64))
    values = np.asarray(places, np.int64).astype(np.uint64)
    return _permute(values, keys, number_of_examples).astype(np.int64)


def replacement_index(
    position: int, attempt: int, number_of_examples: int, seed: int, lane: int = 0
) -> int:
    """Which of so many examples is tried in place of a damaged one, the first time at attempt 1.

    Each position has a random order of its own, so that all are tried in the end.
    """
    keys = _keys(seed, _REPLACEMENT_STREAM + _LANES * lane, np.array([position], np.uint64))
    place = np.array([(attempt - 1) % number_of_examples], np.uint64)
    return int(_permute(place, keys, number_of_examples)[0])


def interleaving(
    weights: Sequence[int],
) -> tuple[Int64[np.ndarray, " cycle"], Int64[np.ndarray, " cycle"]]:
    """Sources in turn, so that after any n places each had its weight's share of n to within 1.

    Returns the source at each place of a cycle of sum(weights), which shows each source exactly its
    weight of times, and how often that source stood before in the cycle. Of the sources that are
    owed enough, the next is the one whose turn cannot wait longest (Tijdeman, "The chairman
    assignment problem", 1980, whose bound of 1 - 1 / (2 * sources - 2) this reaches).
    """
    cycle, slack = sum(weights), max(1, 2 * len(weights) - 2)
    sources, earlier = np.empty(cycle, np.int64), np.empty(cycle, np.int64)
    counts = [0] * len(weights)
    for place in range(cycle):
        # In units of 1 / (slack * cycle) examples, so that all is integers.
        owed = [
            slack * ((place + 1) * weight - count * cycle)
            for weight, count in zip(weights, counts, strict=True)
        ]
        ready = [source for source, amount in enumerate(owed) if amount >= cycle]
        chosen = min(
            ready, key=lambda s: Fraction((slack - 1) * cycle - owed[s], weights[s]), default=0
        )
        sources[place], earlier[place] = chosen, counts[chosen]
        counts[chosen] += 1
    return sources, earlier


def position_uniforms(
    positions: Int64[np.ndarray, " n"], draws: int, seed: int, lane: int = 0
) -> Float64[np.ndarray, "n draws"]:
    """Independent uniform numbers in [0, 1) for each position: its crop, flip and caption."""
    return _uniforms(_UNIFORM_STREAM, positions, draws, seed, lane)


def augment_uniforms(
    positions: Int64[np.ndarray, " n"], draws: int, seed: int, lane: int = 0
) -> Float64[np.ndarray, "n draws"]:
    """Return as many others for each position, for what else changes its image."""
    return _uniforms(_AUGMENT_STREAM, positions, draws, seed, lane)


def _uniforms(
    stream: int, positions: Int64[np.ndarray, " n"], draws: int, seed: int, lane: int
) -> Float64[np.ndarray, "n draws"]:
    first = np.asarray(positions, np.int64).astype(np.uint64) * np.uint64(draws)
    words = np.add.outer(first, np.arange(draws, dtype=np.uint64))
    bits = _keys(seed, stream + _LANES * lane, words.ravel()) >> np.uint64(11)
    return np.ldexp(bits.astype(np.float64), -53).reshape(words.shape)
