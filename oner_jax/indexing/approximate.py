"""Approximate search with FAISS, for collections that exact search is too slow or too large for.

FAISS (requirements-search.txt) keeps its inverted lists in a file beside the embeddings.
"""

import importlib.util
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from oner_jax.errors import InputError

FILE = "faiss.index"

_TRAINING_ROWS_PER_LIST = 64
_ROWS_AT_ONCE = 2**18
# The share of the lists that a query looks into: BENCHMARKS.md has what is found with it.
_PROBED_FRACTION = 1 / 16


def is_installed() -> bool:
    """Whether FAISS can be imported."""
    return importlib.util.find_spec("faiss") is not None


class ApproximateSearch:
    """Like `ExactSearch`, through inverted lists (IVF) of full vectors; made at the first use.

    Scores are exact, but a row in a list that is not looked into is not found.
    """

    def __init__(self, vectors: Float32[np.ndarray, "rows features"], file: Path):
        try:
            import faiss
        except ImportError:
            raise InputError(
                "--engine=faiss needs FAISS: pip install -r requirements-search.txt"
            ) from None
        if file.exists():
            self._index = faiss.read_index(str(file))
        else:
            self._index = _made(faiss, vectors)
            # Two searches may make it at once.
            partial = file.with_suffix(f".{uuid.uuid4().hex}.partial")
            faiss.write_index(self._index, str(partial))
            partial.replace(file)
        self._index.nprobe = max(1, math.ceil(self._index.nlist * _PROBED_FRACTION))

    def __call__(
        self, queries: Float[np.ndarray, "queries features"], k: int
    ) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
        """Scores and rows, best first."""
        k = min(k, self._index.ntotal)
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return scores, rows.astype(np.int64)


def _made(faiss: Any, vectors: np.ndarray) -> Any:
    """As many lists as FAISS's guidelines say: about four times the root of the rows."""
    rows, features = vectors.shape
    lists = max(1, min(round(4 * math.sqrt(rows)), rows // _TRAINING_ROWS_PER_LIST))
    index = faiss.index_factory(features, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    chosen = np.random.default_rng(0).choice(
        rows, min(rows, lists * _TRAINING_ROWS_PER_LIST), replace=False
    )
    index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    for first in range(0, rows, _ROWS_AT_ONCE):
        index.add(np.ascontiguousarray(vectors[first : first + _ROWS_AT_ONCE]))
    return index
