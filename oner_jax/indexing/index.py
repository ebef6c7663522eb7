"""A folder of embeddings that `oner_jax.embed` made, to be searched."""

import functools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from oner_jax.api import Model
from oner_jax.errors import InputError
from oner_jax.indexing import approximate
from oner_jax.indexing.nearest import ExactSearch
from oner_jax.indexing.rows import Row
from oner_jax.indexing.work import FORMAT, MANIFEST, ROWS, VECTORS

ENGINES = ("auto", "exact", "faiss")
# Beyond this exact search takes about a second a query on a CPU, and more than a small GPU has.
EXACT_BYTES = 2**33


class Hit(NamedTuple):
    """A row of an index and its cosine to the query."""

    score: float
    row: Row


class Index:
    """Embeddings and what each is of. `engine` is exact, faiss, or auto: FAISS for what is larger
    than `EXACT_BYTES`, if it is installed.

    Raises InputError for a folder that `oner_jax.embed` did not make, or made as Parquet.
    """

    def __init__(self, folder: Path, engine: str = "auto"):
        self.folder = folder
        self.manifest = _read_manifest(folder)
        if self.manifest["file_format"] != "npy":
            raise InputError(f"{folder} holds Parquet: embed with --format=npy to search it")
        self.vectors = np.load(folder / VECTORS, mmap_mode="r")
        with (folder / ROWS).open(encoding="utf-8") as lines:
            self.rows = [Row(**json.loads(line)) for line in lines]
        self._engine = engine

    def __len__(self) -> int:
        return len(self.rows)

    def check_model(self, model: Model) -> None:
        """Raise InputError if another model made the index: its space is another."""
        if self.manifest["model"] != model.identity:
            raise InputError(
                f"{self.folder} was made by another model: embed the collection with this one"
            )

    def search(self, queries: Float[np.ndarray, "queries features"], k: int) -> list[list[Hit]]:
        """The k best rows for each query, best first."""
        scores, rows = self._search(queries, k)
        return [
            [
                Hit(float(score), self.rows[row])
                for score, row in zip(*found, strict=True)
                if row >= 0
            ]
            for found in zip(scores, rows, strict=True)
        ]

    @functools.cached_property
    def _search(self) -> Any:
        large = self.vectors.nbytes > EXACT_BYTES
        if self._engine == "faiss" or (
            self._engine == "auto" and large and approximate.is_installed()
        ):
            return approximate.ApproximateSearch(self.vectors, self.folder / approximate.FILE)
        if self._engine == "auto" and large:
            print(
                f"{len(self):,} rows are many for exact search: "
                "pip install -r requirements-search.txt",
                file=sys.stderr,
            )
        return ExactSearch(self.vectors)


def is_index(folder: Path) -> bool:
    """Whether the folder is one that `oner_jax.embed` made."""
    return _manifest(folder).get("format") == FORMAT


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not is_index(folder):
        raise InputError(
            f"{folder} holds no embeddings: make them with python -m oner_jax.embed, or give "
            "--source as well"
        )
    return _manifest(folder)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
