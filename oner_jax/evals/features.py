"""The features of a dataset, made once and shared by every task.

One pass over the pictures gives I, IT and IT with another pair's caption; one pass over the
distinct captions and the class prompts gives T. Each model output is kept in two spaces: the
projected feature that METHOD chooses in advance, and the backbone's [CLS] state beside it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, UInt8

from oner_jax.errors import InputError
from oner_jax.evals.captions import CaptionGallery, caption_gallery, different_partner, distinct
from oner_jax.evals.geometry import Views
from oner_jax.evals.ranking import unit_vectors

BATCH_SIZE = 256

PRIMARY = "projected"  # of the online weights: chosen in advance (METHOD section 2)
SPACES = (PRIMARY, "backbone")

RowsDone = Callable[[int, int], None]  # (rows done, rows in all)


@runtime_checkable
class Outputs(Protocol):
    """What an embedder returns for n inputs."""

    @property
    def projected(self) -> Float32[np.ndarray, "n features"]: ...

    @property
    def backbone(self) -> Float32[np.ndarray, "n width"]: ...


@runtime_checkable
class PatchOutputs(Protocol):
    """What an embedder returns for the patches of n images, row by row."""

    @property
    def projected(self) -> Float32[np.ndarray, "n patches features"]: ...

    @property
    def backbone(self) -> Float32[np.ndarray, "n patches width"]: ...


@runtime_checkable
class EmbedsViews(Protocol):
    """`models.embedding.Embedder`, as far as evaluation needs it."""

    @property
    def views(self) -> frozenset[str]:
        """Those of I, T and IT that the model has."""
        ...

    def __call__(
        self,
        images: UInt8[np.ndarray, "n size size 3"] | None = None,
        text: Int32[np.ndarray, "n tokens"] | None = None,
    ) -> Outputs: ...

    def patches(self, images: UInt8[np.ndarray, "n size size 3"]) -> PatchOutputs: ...


@runtime_checkable
class Examples(Protocol):
    """`data.pipeline.EvaluationSet`, as far as evaluation needs it."""

    @property
    def image_size(self) -> int: ...

    @property
    def captions(self) -> Sequence[Sequence[str]]: ...

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def metadata(self) -> Sequence[Mapping[str, str]]: ...

    def image_batches(self, batch_size: int) -> Iterator[UInt8[np.ndarray, "b size size 3"]]: ...


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What a dataset asks of a model, without its pixels.

    `classes` numbers the distinct labels; a picture without a label has class -1.
    """

    main_captions: list[str]
    gallery: CaptionGallery
    class_names: list[str]
    classes: Int64[np.ndarray, "pictures"]
    partner: Int64[np.ndarray, "pictures"]

    @classmethod
    def of(cls, examples: Examples) -> "Corpus":
        """The corpus of a dataset; labels that are equal as captions are one class."""
        gallery = caption_gallery(examples.captions)
        labelled = np.array([bool(label.strip()) for label in examples.labels])
        class_names, numbers = distinct([label for label in examples.labels if label.strip()])
        classes = np.full(len(labelled), -1, np.int64)
        classes[labelled] = numbers
        return cls(
            main_captions=[own[0] for own in examples.captions],
            gallery=gallery,
            class_names=class_names,
            classes=classes,
            partner=different_partner(gallery.main),
        )


@dataclasses.dataclass(frozen=True)
class Space:
    """Unit vectors of one dataset in one space; joint views where asked for and where there are."""

    image: Float[np.ndarray, "pictures width"]
    text: Float[np.ndarray, "captions width"]
    prompts: Float[np.ndarray, "templates classes width"]
    joint: Float[np.ndarray, "pictures width"] | None = None
    joint_swapped: Float[np.ndarray, "pictures width"] | None = None

    def views(self, corpus: Corpus) -> Views:
        """The views of each pair, for `geometry.py`."""
        return Views(
            image=self.image,
            text=self.text[corpus.gallery.main],
            joint=self.joint,
            joint_swapped=self.joint_swapped,
            partner=corpus.partner,
            caption=corpus.gallery.main,
        )


def encode(
    examples: Examples,
    corpus: Corpus,
    embedder: EmbedsViews,
    *,
    tokenize: Callable[[Sequence[str]], Int32[np.ndarray, "n tokens"]],
    templates: Sequence[str],
    joint: bool,
    progress: RowsDone = lambda done, total: None,
) -> dict[str, Space]:
    """The spaces "projected" and "backbone" of a dataset under one set of weights.

    `joint` asks for the joint views, which are left out where the architecture has none.
    Raises InputError if the model gives vectors that are not finite.
    """
    prompts = [template.format(name) for template in templates for name in corpus.class_names]
    texts = [*corpus.gallery.texts, *prompts]
    pictures = len(corpus.main_captions)
    total = len(texts) + pictures
    text_rows = []
    for first in range(0, len(texts), BATCH_SIZE):
        text_rows.append({"text": embedder(text=tokenize(texts[first : first + BATCH_SIZE]))})
        progress(min(first + BATCH_SIZE, len(texts)), total)

    own = tokenize(corpus.main_captions) if joint and "IT" in embedder.views else None
    picture_rows, first = [], 0
    for images in examples.image_batches(BATCH_SIZE):
        rows = slice(first, first + len(images))
        outputs = {"image": embedder(images=images)}
        if own is not None:
            outputs["joint"] = embedder(images=images, text=own[rows])
            outputs["joint_swapped"] = embedder(images=images, text=own[corpus.partner[rows]])
        picture_rows.append(outputs)
        first += len(images)
        progress(len(texts) + first, total)

    number_of_captions = len(corpus.gallery.texts)
    spaces = {}
    for space in SPACES:
        every_text = _collect(text_rows, "text", space)
        every_prompt = every_text[number_of_captions:]
        views = {view: _collect(picture_rows, view, space) for view in picture_rows[0]}
        spaces[space] = Space(
            text=every_text[:number_of_captions],
            prompts=every_prompt.reshape(len(templates), -1, every_text.shape[1]),
            **views,
        )
    return spaces


def _collect(
    batches: Sequence[dict[str, Outputs]], view: str, space: str
) -> Float[np.ndarray, "rows width"]:
    return unit_rows(np.concatenate([getattr(outputs[view], space) for outputs in batches]), view)


def unit_rows(
    vectors: Float[np.ndarray, "*rows width"], what: str
) -> Float[np.ndarray, "*rows width"]:
    """What a model gave, each row at unit length. Raises InputError if it is not finite."""
    if not np.isfinite(vectors).all():
        raise InputError(
            f"the model gives {what} vectors that are not finite; evaluate an earlier checkpoint "
            "with --step=N"
        )
    return unit_vectors(vectors)
