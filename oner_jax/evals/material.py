"""What the tasks of one evaluation work on: each part made once, when a task first asks for it."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8

from oner_jax.evals.features import (
    BATCH_SIZE,
    SPACES,
    Corpus,
    EmbedsViews,
    Examples,
    Outputs,
    RowsDone,
    Space,
    encode,
    unit_rows,
)
from oner_jax.evals.scenes import BoxedPictures, ComposedScenes, compose_all, plan_scenes
from oner_jax.evals.templates import prompt_template, template_set

SCENE_SCALE = 2  # a scene's side in those of the model's pictures: objects come at trained size

Vectors = Mapping[str, Float[np.ndarray, "_ _"]]  # unit vectors by space, one a row


class Material:
    """One set of weights and one dataset.

    `load_boxed` gives pictures with boxes where the dataset is made of them; other datasets have
    scenes composed of their own pictures.
    """

    def __init__(
        self,
        *,
        load_examples: Callable[[], Examples] | None,
        load_boxed: Callable[[], BoxedPictures] | None,
        load_model: Callable[[], EmbedsViews],
        load_momentum: Callable[[], EmbedsViews] | None,
        tokenize: Callable[[Sequence[str]], Int32[np.ndarray, "n tokens"]],
        templates: str,
        announce: Callable[[str], RowsDone],
    ):
        self._load_examples, self._load_boxed = load_examples, load_boxed
        self._load_model, self._load_momentum = load_model, load_momentum
        self._tokenize, self._templates, self._announce = tokenize, templates, announce

    @functools.cached_property
    def model(self) -> EmbedsViews:
        """The embedder of the online weights."""
        return self._load_model()

    @functools.cached_property
    def examples(self) -> Examples:
        """The pictures with their texts, which every dataset has that is not made of boxes."""
        assert self._load_examples is not None
        return self._load_examples()

    @functools.cached_property
    def corpus(self) -> Corpus:
        """What the texts ask of a model."""
        return Corpus.of(self.examples)

    @functools.cached_property
    def spaces(self) -> Mapping[str, Space]:
        """Features of every picture and caption: the online weights' spaces, and "momentum"."""
        encoded = functools.partial(
            encode,
            self.examples,
            self.corpus,
            tokenize=self._tokenize,
            templates=template_set(self._templates),
        )
        spaces = encoded(self.model, joint=True, progress=self._announce("encoding"))
        if self._load_momentum is not None:
            twin = encoded(
                self._load_momentum(),
                joint=False,
                progress=self._announce("encoding, momentum weights"),
            )
            spaces["momentum"] = twin["projected"]
        return spaces

    @functools.cached_property
    def scenes(self) -> ComposedScenes:
        """Scenes of several pictures of the dataset; empty where there are too few for one."""
        concepts = [own.get("concept", "") for own in self.examples.metadata]
        layouts = plan_scenes(self.corpus.gallery.main, concepts)
        shown = sorted({picture for layout in layouts for picture in layout.pictures})
        pixels = dict(zip(shown, self.images(shown), strict=True))
        size = SCENE_SCALE * self.examples.image_size
        return compose_all(layouts, pixels, self.corpus.main_captions, size)

    @functools.cached_property
    def boxed(self) -> BoxedPictures:
        """Pictures in which it is known where things are."""
        return self.scenes if self._load_boxed is None else self._load_boxed()

    @property
    def size(self) -> tuple[int, int]:
        """How many pictures and different captions (or phrases) the dataset has."""
        if self._load_examples is None:
            return len(np.unique(self.boxed.pictures)), len(set(self.boxed.phrases))
        return len(self.corpus.main_captions), len(self.corpus.gallery.texts)

    @property
    def prompt(self) -> str:
        """The template of a prompt beside a picture."""
        return prompt_template(self._templates)

    def images(self, indices: Sequence[int]) -> UInt8[np.ndarray, "n size size 3"]:
        """The pictures at these ascending indices, as the model sees them."""
        chosen: list[np.ndarray] = []
        first, wanted = 0, np.asarray(indices, np.int64)
        for batch in self.examples.image_batches(BATCH_SIZE):
            inside = wanted[(wanted >= first) & (wanted < first + len(batch))]
            chosen.append(batch[inside - first])
            first += len(batch)
        return np.concatenate(chosen)

    def texts(self, texts: Sequence[str]) -> Vectors:
        """T of texts that are in no caption gallery, such as prompts."""
        return in_spaces(self.model(text=self._tokenize(texts)))

    def prompted(
        self,
        images: UInt8[np.ndarray, "n size size 3"],
        chosen: Int64[np.ndarray, "queries"],
        texts: Sequence[str],
    ) -> Vectors:
        """IT of image `chosen[q]` with text q; an empty text is a text of no words."""
        ids = self._tokenize(texts)
        parts = []
        for first in range(0, len(chosen), BATCH_SIZE):  # images repeat: not all at once
            rows = slice(first, first + BATCH_SIZE)
            parts.append(in_spaces(self.model(images=images[chosen[rows]], text=ids[rows])))
        return {space: np.concatenate([part[space] for part in parts]) for space in SPACES}


def in_spaces(outputs: Outputs) -> Vectors:
    """What a model gave for some inputs, as unit vectors by space."""
    return {space: unit_rows(getattr(outputs, space), "these") for space in SPACES}
