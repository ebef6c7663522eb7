"""A world small enough to know every answer: flat coloured pictures, captioned by their colour.

A picture's embedding is its mean colour and a caption's the colour it names, so a right model
finds everything; `noise` spoils it.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from oner_jax.evals.engine.suite import Dataset, Subject

LONGEST = 60  # characters that count as read


class ColourEmbeddings(NamedTuple):
    projected: np.ndarray
    backbone: np.ndarray


class ColourPatches(NamedTuple):
    projected: np.ndarray
    backbone: np.ndarray
    values: np.ndarray


@dataclasses.dataclass
class ColourEmbedder:
    noise: float = 0.0
    views: frozenset[str] = frozenset({"I", "T", "IT"})
    calls: int = 0
    image_size: int = 8
    patch_size: int = 1

    def __call__(
        self, images: np.ndarray | None = None, text: np.ndarray | None = None
    ) -> ColourEmbeddings:
        self.calls += 1
        assert "IT" in self.views or images is None or text is None
        seen = [] if images is None else [images.mean(axis=(1, 2))]
        seen += [] if text is None else [text]
        colour = np.mean(seen, axis=0) - 128.0
        random = np.random.default_rng(self.calls)
        colour = colour + self.noise * random.normal(size=colour.shape)
        unit = colour / np.linalg.norm(colour, axis=1, keepdims=True)
        return ColourEmbeddings(unit.astype(np.float32), colour.astype(np.float32) + 5)

    def patches(self, images: np.ndarray) -> ColourPatches:
        """Every pixel is a patch, and its state is its colour."""
        colour = images.reshape(len(images), -1, 3) - 128.0
        random = np.random.default_rng(len(images))
        colour = (colour + self.noise * random.normal(size=colour.shape)).astype(np.float32)
        return ColourPatches(colour, colour, colour)

    def words(self, text: np.ndarray) -> np.ndarray:
        return self(text=text).projected


@dataclasses.dataclass
class ColourPictures:
    """`number` pictures; the last one repeats the first one's caption, and one has no label."""

    number: int = 30
    image_size: int = 8

    def __post_init__(self) -> None:
        self.colours = np.random.default_rng(0).integers(0, 256, (self.number, 3))
        self.colours[-1] = self.colours[0]
        names = ["tone " + " ".join(map(str, colour)) for colour in self.colours]
        self.captions = [[name, f"{name} picture"] for name in names]
        self.labels = ["", *names[1:]]
        self.metadata: list[dict[str, str]] = [{} for _ in names]
        self.first_equal = np.arange(len(names))

    def cut_outs(self, rows: Sequence[int], side: int) -> Iterator[np.ndarray]:
        for colour in self.colours[list(rows)].tolist():
            yield np.full((side, side, 4), [*colour, 255], np.uint8)

    def image_batches(
        self, batch_size: int, rows: np.ndarray | None = None
    ) -> Iterator[np.ndarray]:
        chosen = self.colours[: self.number] if rows is None else self.colours[rows]
        for first in range(0, len(chosen), batch_size):
            colours = chosen[first : first + batch_size].astype(np.uint8)
            size = self.image_size
            yield np.broadcast_to(colours[:, None, None], (len(colours), size, size, 3))


def read_colours(texts: Sequence[str]) -> np.ndarray:
    """The colour that each text names; black where it names none."""
    found = [re.findall(r"\d+", text) or ["0", "0", "0"] for text in texts]
    return np.array(found).astype(np.int32)


@dataclasses.dataclass
class ColourWorld:
    workdir: Path
    pictures: ColourPictures

    def dataset(self, name: str = "val", content_hash: str = "one") -> Dataset:
        return Dataset(name, content_hash, lambda: self.pictures)

    def subject(
        self,
        label: str = "step 7",
        *,
        noise: float = 0.0,
        identity: str = "same",
        views: frozenset[str] = frozenset({"I", "T", "IT"}),
    ) -> tuple[Subject, ColourEmbedder]:
        embedder = ColourEmbedder(noise, views)
        subject = Subject(
            label=label,
            directory=self.workdir / "eval" / label.replace(" ", "-"),
            identity=identity,
            load=lambda: embedder,
            tokenize=read_colours,
            cut=lambda texts: np.array([len(text) > LONGEST for text in texts], bool),
            load_momentum=lambda: ColourEmbedder(noise, views),
        )
        return subject, embedder


@pytest.fixture
def colour_world(tmp_path: Path) -> ColourWorld:
    return ColourWorld(tmp_path, ColourPictures())
