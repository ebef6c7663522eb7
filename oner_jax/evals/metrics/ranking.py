"""Ranks of the right answers in a gallery, and what chance would give.

Shared by retrieval, zero-shot classification and the pooled gallery of `geometry.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Int64

from oner_jax.evals.metrics.exact_search import MAXIMUM_SCORES, count_in_front


@dataclasses.dataclass(frozen=True)
class Matches:
    """Which gallery items are right for each query: compressed sparse rows.

    Query i has `members[offsets[i]:offsets[i + 1]]`, sorted and without repeats; it may have none.
    """

    offsets: Int64[np.ndarray, "bounds"]
    members: Int64[np.ndarray, "pairs"]

    @classmethod
    def from_pairs(
        cls,
        queries: Int[np.ndarray, "pairs"],
        members: Int[np.ndarray, "pairs"],
        number_of_queries: int,
    ) -> "Matches":
        """From (query, gallery item) pairs in any order; equal pairs count once."""
        pairs = np.unique(np.stack([queries, members], axis=1).astype(np.int64), axis=0)
        counts = np.bincount(pairs[:, 0], minlength=number_of_queries)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), pairs[:, 1])

    @property
    def counts(self) -> Int64[np.ndarray, "queries"]:
        """How many right answers each query has."""
        return np.diff(self.offsets)

    def of(self, query: int | np.integer) -> Int64[np.ndarray, "members"]:
        """The right answers of one query."""
        return self.members[self.offsets[query] : self.offsets[query + 1]]

    def take(self, queries: Int[np.ndarray, "chosen"]) -> "Matches":
        """Those of these queries, in this order."""
        counts = self.counts[queries]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        return Matches(offsets, self.members[np.repeat(self.offsets[queries], counts) + within])

    def transposed(self, gallery_size: int) -> "Matches":
        """The same pairs asked the other way round."""
        queries = np.repeat(np.arange(len(self.counts)), self.counts)
        return Matches.from_pairs(self.members, queries, gallery_size)

    def within(
        self, first: int, last: int
    ) -> tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"]]:
        """Rows (counted from `first`) and columns of the pairs of queries `first` to `last`."""
        rows = np.repeat(np.arange(last - first), self.counts[first:last])
        return rows, self.members[self.offsets[first] : self.offsets[last]]


def unit_vectors(vectors: Float[np.ndarray, "*rows width"]) -> Float[np.ndarray, "*rows width"]:
    """Each row at length 1; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def best_ranks(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "gallery width"],
    matches: Matches,
    excluded: Matches | None = None,
    *,
    maximum_scores: int = MAXIMUM_SCORES,
) -> Int64[np.ndarray, "queries"]:
    """Rank, counted from 1, of the best-placed right answer of each query by inner product.

    Right answers do not push each other down: the rank counts wrong answers only. Ties are broken
    against the model: a wrong answer with the same score stands in front, so a space collapsed to
    one point scores nothing (and so does one that is not finite). `excluded` items, none of them
    right, are taken out of the gallery. A query without a right answer ranks behind everything.
    """
    counts = count_in_front(
        queries,
        gallery,
        matches.within,
        None if excluded is None else excluded.within,
        maximum_scores=maximum_scores,
    )
    return np.where(counts < 0, len(gallery), counts) + 1


def expected_recall(
    right_answers: Int[np.ndarray, "queries"],
    gallery_size: int | Int[np.ndarray, "queries"],
    k: int,
) -> float:
    """Recall at k of a uniformly random ranking, averaged over queries: exact.

    A query with P right answers among N misses with the hypergeometric probability
    C(N-P, k) / C(N, k) = prod_{i<k} (N-P-i) / (N-i).
    """
    size = np.broadcast_to(np.asarray(gallery_size, np.float64), right_answers.shape)
    miss = np.ones(right_answers.shape)
    for drawn in range(k):
        left = np.maximum(size - drawn, 1.0)  # an exhausted gallery: nothing more is drawn
        miss *= np.where(size > drawn, np.maximum(size - right_answers - drawn, 0.0) / left, 1.0)
    return float(np.mean(1.0 - miss))


def nearest(
    query: Float[np.ndarray, "width"],
    gallery: Float[np.ndarray, "gallery width"],
    k: int,
) -> tuple[Int64[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Indices and scores of the k best gallery items for one query, best first."""
    scores = gallery @ query
    order = np.argsort(-scores, kind="stable")[:k]
    return order, scores[order]
