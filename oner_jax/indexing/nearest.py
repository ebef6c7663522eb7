"""Exact nearest neighbours by inner product, on a device, in chunks."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int64

from oner_jax.evals.metrics.exact_search import GROUP, best_on_device

# Vectors that are on the device at once, and as many of those as may stay there between queries.
_CHUNK_BYTES = 2**28
_RESIDENT_BYTES = 2**31


class ExactSearch:
    """The k best of `vectors` for each query. What fits stays on the device between queries."""

    def __init__(
        self, vectors: Float32[np.ndarray, "rows features"], *, chunk_bytes: int = _CHUNK_BYTES
    ):
        self._vectors = vectors
        row_bytes = vectors.shape[1] * vectors.itemsize
        rows = min(len(vectors), max(1, chunk_bytes // row_bytes))
        self._chunk_rows = -(-rows // GROUP) * GROUP
        self._stays = len(vectors) * row_bytes <= _RESIDENT_BYTES
        self._held: dict[int, Array] = {}

    def __call__(
        self, queries: Float[np.ndarray, "queries features"], k: int
    ) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
        """Scores and rows, best first; of equal ones the first row. Fewer than k if there are."""
        k = min(k, len(self._vectors))
        on_device = jnp.asarray(queries, jnp.float32)
        scores = np.full((len(queries), 0), -np.inf, np.float32)
        rows = np.zeros((len(queries), 0), np.int64)
        for first, chunk, there in self._chunks():
            places, found = best_on_device(on_device, chunk, there, min(k, there))
            both = np.concatenate([scores, np.asarray(found)], axis=1)
            places = np.concatenate([rows, np.asarray(places, np.int64) + first], axis=1)
            # Earlier rows stand first, and a stable order keeps them there.
            order = np.argsort(-both, axis=1, kind="stable")[:, :k]
            scores = np.take_along_axis(both, order, axis=1)
            rows = np.take_along_axis(places, order, axis=1)
        return scores, rows

    def _chunks(self) -> Iterator[tuple[int, Array, int]]:
        """First row, rows of one size (the last ones padded), and how many of them there are."""
        for first in range(0, len(self._vectors), self._chunk_rows):
            part = self._vectors[first : first + self._chunk_rows]
            if first not in self._held:
                missing = self._chunk_rows - len(part)
                chunk = jnp.asarray(np.pad(part, [(0, missing), (0, 0)]) if missing else part)
                if self._stays:
                    self._held[first] = chunk
            else:
                chunk = self._held[first]
            yield first, chunk, len(part)
