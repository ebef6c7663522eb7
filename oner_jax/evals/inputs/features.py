"""The features of a dataset, made once and shared by every task.

One pass over the pictures gives I, IT and IT with another pair's caption; one pass over the
distinct captions and the class prompts gives T. Each model output is kept in two spaces: the
projected feature that docs/method.md chooses in advance, and the backbone's [CLS] state beside it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt8

from oner_jax.errors import InputError
from oner_jax.evals.inputs.captions import (
    CaptionGallery,
    caption_gallery,
    different_partner,
    distinct,
)
from oner_jax.evals.inputs.pair_views import Views
from oner_jax.evals.metrics.ranking import unit_vectors
from oner_jax.parallel import distributed

BATCH_SIZE = 256

PRIMARY = "projected"  # of the online weights: chosen in advance (docs/method.md, Objectives)
SPACES = (PRIMARY, "backbone")

RowsDone = Callable[[int, int], None]  # (rows done, rows in all)
Tokenize = Callable[[Sequence[str]], Int32[np.ndarray, "n tokens"]]
Cut = Callable[[Sequence[str]], Bool[np.ndarray, "n"]]  # which texts are not read to their end
Vectors = Mapping[str, Float[np.ndarray, "_ _"]]  # unit vectors by space, one a row


@runtime_checkable
class Outputs(Protocol):
    """What an embedder returns for n inputs."""

    @property
    def projected(self) -> Float32[np.ndarray, "n features"]: ...

    @property
    def backbone(self) -> Float32[np.ndarray, "n width"]: ...


ViewOutputs = Mapping[str, Outputs]


@runtime_checkable
class PatchOutputs(Protocol):
    """What an embedder returns for the patches of n images, row by row."""

    @property
    def projected(self) -> Float32[np.ndarray, "n patches features"]: ...

    @property
    def backbone(self) -> Float32[np.ndarray, "n patches width"]: ...

    @property
    def values(self) -> Float32[np.ndarray, "n patches features"]: ...


@runtime_checkable
class EmbedsViews(Protocol):
    """`models.embedding.Embedder`, as far as evaluation needs it."""

    @property
    def views(self) -> frozenset[str]:
        """Those of I, T and IT that the model has."""
        ...

    @property
    def image_size(self) -> int:
        """The side in pixels of the images that the model was trained on."""
        ...

    @property
    def patch_size(self) -> int:
        """The side in pixels of a patch."""
        ...

    def __call__(
        self,
        images: UInt8[np.ndarray, "n size size 3"] | None = None,
        text: Int32[np.ndarray, "n tokens"] | None = None,
    ) -> Outputs: ...

    def patches(self, images: UInt8[np.ndarray, "n size size 3"]) -> PatchOutputs: ...

    def words(self, text: Int32[np.ndarray, "n tokens"]) -> Float32[np.ndarray, "n width"]: ...


@runtime_checkable
class Pictures(Protocol):
    """Pixels that are made when they are asked for."""

    def image_batches(
        self, batch_size: int, rows: Int64[np.ndarray, "chosen"] | None = None
    ) -> Iterator[UInt8[np.ndarray, "b size size 3"]]:
        """The pictures of these numbers (default: all), in order; the last batch may be shorter."""
        ...


@runtime_checkable
class Examples(Pictures, Protocol):
    """`data.evaluation.EvaluationSet`, as far as evaluation needs it."""

    @property
    def image_size(self) -> int: ...

    @property
    def captions(self) -> Sequence[Sequence[str]]: ...

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def metadata(self) -> Sequence[Mapping[str, str]]: ...

    def cut_outs(
        self, rows: Sequence[int], side: int
    ) -> Iterator[UInt8[np.ndarray, "side side 4"]]:
        """Yield the things in the pictures at these rows, in RGBA, cut out of their ground."""
        ...

    @property
    def first_equal(self) -> Int64[np.ndarray, "pictures"]:
        """For every picture, the first one whose file is equal."""
        ...


@dataclasses.dataclass(frozen=True)
class ChosenPictures:
    """Some pictures of others, in any order and with repeats: row r is picture `chosen[r]`."""

    pictures: Pictures
    chosen: Int64[np.ndarray, "rows"]

    def image_batches(
        self, batch_size: int, rows: Int64[np.ndarray, "chosen"] | None = None
    ) -> Iterator[UInt8[np.ndarray, "b size size 3"]]:
        """Their pixels, in order."""
        wanted = self.chosen if rows is None else self.chosen[rows]
        yield from self.pictures.image_batches(batch_size, wanted)


@dataclasses.dataclass(frozen=True)
class PicturesInMemory:
    """Pixels that are there already."""

    pixels: UInt8[np.ndarray, "n size size 3"]

    def image_batches(
        self, batch_size: int, rows: Int64[np.ndarray, "chosen"] | None = None
    ) -> Iterator[UInt8[np.ndarray, "b size size 3"]]:
        """Their pixels, in order."""
        wanted = np.arange(len(self.pixels)) if rows is None else rows
        for first in range(0, len(wanted), batch_size):
            yield self.pixels[wanted[first : first + batch_size]]


def captions_of(examples: Examples) -> list[Sequence[str]]:
    """The captions of every picture; of one without any, its label.

    Raises InputError for pictures that have neither.
    """
    captions = [
        own or [label] for own, label in zip(examples.captions, examples.labels, strict=True)
    ]
    nothing = sum(not own[0].strip() for own in captions)
    if nothing:
        raise InputError(
            f"{nothing:,} of {len(captions):,} pictures to evaluate on have neither caption nor "
            "label; ingest them with one, or choose other --datasets"
        )
    return captions


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What a dataset asks of a model, without its pixels.

    `classes` numbers the distinct labels, in the order of what the dataset itself calls its classes
    (metadata `class`, such as ImageNet's numbers of WordNet) or else of the labels; a picture
    without a label has class -1. `distinct_pictures` are the first of equal pictures, and
    `picture_numbers` says for each picture which of these it equals.
    """

    main_captions: list[str]
    gallery: CaptionGallery
    class_names: list[str]
    classes: Int64[np.ndarray, "pictures"]
    partner: Int64[np.ndarray, "pictures"]
    distinct_pictures: Int64[np.ndarray, "distinct"]
    picture_numbers: Int64[np.ndarray, "pictures"]

    @classmethod
    def of(cls, examples: Examples) -> "Corpus":
        """The corpus of a dataset; labels that are equal as captions are one class."""
        captions = captions_of(examples)
        distinct_pictures, picture_numbers = np.unique(examples.first_equal, return_inverse=True)
        gallery = caption_gallery(captions, picture_numbers)
        labelled = np.array([bool(label.strip()) for label in examples.labels])
        found, numbers = distinct([label for label in examples.labels if label.strip()])
        own_names = [
            own.get("class", label)
            for label, own in zip(examples.labels, examples.metadata, strict=True)
            if label.strip()
        ]
        _, first = np.unique(numbers, return_index=True)
        order = sorted(range(len(found)), key=lambda number: own_names[first[number]])
        class_names = [found[number] for number in order]
        classes = np.full(len(labelled), -1, np.int64)
        classes[labelled] = np.argsort(order)[numbers] if order else []
        return cls(
            main_captions=[own[0] for own in captions],
            gallery=gallery,
            class_names=class_names,
            classes=classes,
            partner=different_partner(gallery.main),
            distinct_pictures=distinct_pictures,
            picture_numbers=picture_numbers,
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
            picture=corpus.picture_numbers,
        )


def encode(
    examples: Examples,
    corpus: Corpus,
    embedder: EmbedsViews,
    *,
    tokenize: Tokenize,
    templates: Sequence[str],
    joint: bool,
    progress: RowsDone = lambda done, total: None,
) -> dict[str, Space]:
    """The spaces "projected" and "backbone" of a dataset under one set of weights.

    `joint` asks for the joint views, which are left out where the architecture has none. Several
    processes share the work, and each gets everything.
    Raises InputError if the model gives vectors that are not finite.
    """
    prompts = [template.format(name) for template in templates for name in corpus.class_names]
    texts = [*corpus.gallery.texts, *prompts]
    pictures = len(corpus.main_captions)
    total = len(texts) + pictures
    text = encode_texts(texts, embedder, tokenize, lambda done, _: progress(done, total))
    own = tokenize(corpus.main_captions) if joint and "IT" in embedder.views else None

    def views_of(images: np.ndarray, rows: np.ndarray) -> ViewOutputs:
        outputs = {"image": embedder(images=images)}
        if own is not None:
            outputs["joint"] = embedder(images=images, text=own[rows])
            outputs["joint_swapped"] = embedder(images=images, text=own[corpus.partner[rows]])
        return outputs

    views = encode_pictures(
        examples, pictures, views_of, lambda done, _: progress(len(texts) + done, total)
    )
    number_of_captions = len(corpus.gallery.texts)
    return {
        space: Space(
            text=text[space][:number_of_captions],
            prompts=text[space][number_of_captions:].reshape(
                len(templates), -1, text[space].shape[1]
            ),
            **{view: vectors[space] for view, vectors in views.items()},
        )
        for space in SPACES
    }


def encode_texts(
    texts: Sequence[str],
    embedder: EmbedsViews,
    tokenize: Tokenize,
    progress: RowsDone = lambda done, total: None,
) -> Vectors:
    """T of every text, by space; several processes share the work."""

    def compute(rows: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
        outputs = []
        for first in range(0, len(rows), BATCH_SIZE):
            batch = [texts[row] for row in rows[first : first + BATCH_SIZE]]
            outputs.append({"text": embedder(text=tokenize(batch))})
            progress(min(first + BATCH_SIZE, len(rows)) * len(texts) // len(rows), len(texts))
        return _joined(outputs)

    return _divided(len(texts), compute)["text"]


def encode_pictures(
    source: Pictures,
    pictures: int,
    views_of: Callable[[UInt8[np.ndarray, "b size size 3"], Int64[np.ndarray, "b"]], ViewOutputs],
    progress: RowsDone = lambda done, total: None,
) -> dict[str, Vectors]:
    """What `views_of` (pixels, their rows) makes of every picture, by view and space.

    Several processes share the work, reading included.
    """

    def compute(rows: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
        outputs, first = [], 0
        for images in source.image_batches(BATCH_SIZE, rows):
            outputs.append(views_of(images, rows[first : first + len(images)]))
            first += len(images)
            progress(first * pictures // len(rows), pictures)
        return _joined(outputs)

    return _divided(pictures, compute)


def _divided(
    rows: int, compute: Callable[[Int64[np.ndarray, "own"]], dict[tuple[str, str], np.ndarray]]
) -> dict[str, Vectors]:
    """Each process's part of so many rows, computed and put together: unit vectors by view."""
    own = distributed.own_rows(rows)
    number = own.stop - own.start
    # A process without a row of its own still has to say how wide they are.
    computed = compute(np.arange(own.start, own.stop) if number else np.arange(1))
    found: dict[str, dict[str, np.ndarray]] = {}
    for (view, space), vectors in computed.items():
        everything = distributed.gather_rows(vectors[:number], rows)
        found.setdefault(view, {})[space] = unit_rows(everything, view)
    return dict(found)


def _joined(batches: Sequence[ViewOutputs]) -> dict[tuple[str, str], np.ndarray]:
    return {
        (view, space): np.concatenate([getattr(outputs[view], space) for outputs in batches])
        for view in batches[0]
        for space in SPACES
    }


def unit_rows(
    vectors: Float[np.ndarray, "*rows width"], what: str
) -> Float[np.ndarray, "*rows width"]:
    """What a model gave, each row at unit length. Raises InputError if it is not finite."""
    if not np.isfinite(vectors).all():
        raise InputError(
            f"the model gives {what} vectors that are not finite; evaluate an earlier checkpoint "
            "with --steps=N"
        )
    return unit_vectors(vectors)
