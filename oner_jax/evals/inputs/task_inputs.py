"""What the tasks of one evaluation work on: each part made once, when a task first asks for it."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from oner_jax.evals.inputs.captions import distinct
from oner_jax.evals.inputs.features import (
    BATCH_SIZE,
    ChosenPictures,
    Corpus,
    Cut,
    EmbedsViews,
    Examples,
    PicturesInMemory,
    RowsDone,
    Space,
    Tokenize,
    Vectors,
    captions_of,
    encode,
    encode_pictures,
    encode_texts,
)
from oner_jax.evals.inputs.labelled_splits import SharedClasses, shared_classes
from oner_jax.evals.inputs.readouts import grid_side, picture_side
from oner_jax.evals.inputs.scenes import (
    BoxedPictures,
    ComposedScenes,
    Layout,
    compose_all,
    on_photographs,
    plan_scenes,
)
from oner_jax.evals.inputs.templates import prompt_template, template_set

SCENE_SCALE = 2  # a scene's side in those of the model's pictures: objects come at trained size
LOCALISED_SCENES = 128  # fewer than there are: each is read in several ways, on two grounds
PLAIN, PHOTOGRAPHS = "plain", "photographs"


class Material:
    """One set of weights and one dataset.

    `load_boxed` gives pictures with boxes, at a size in pixels, where the dataset is made of them;
    other datasets have scenes composed of their own pictures. `load_training` gives the training
    split beside the dataset, where there is one. Things are localised on `patches_per_side` patches
    (0: the default of `readouts.grid_side`).
    """

    def __init__(
        self,
        *,
        load_examples: Callable[[], Examples] | None,
        load_boxed: Callable[[int], BoxedPictures] | None,
        load_training: Callable[[], Examples] | None,
        load_model: Callable[[], EmbedsViews],
        load_momentum: Callable[[], EmbedsViews] | None,
        tokenize: Tokenize,
        cut: Cut,
        templates: str,
        announce: Callable[[str], RowsDone],
        patches_per_side: int = 0,
    ):
        self._load_examples, self._load_boxed = load_examples, load_boxed
        self._load_training = load_training
        self._load_model, self._load_momentum = load_model, load_momentum
        self._tokenize, self._cut, self._templates = tokenize, cut, templates
        self._asked_patches_per_side = patches_per_side
        self.announce = announce

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
        spaces = encoded(self.model, joint=True, progress=self.announce("encoding"))
        if self._load_momentum is not None:
            twin = encoded(
                self._load_momentum(),
                joint=False,
                progress=self.announce("encoding, momentum weights"),
            )
            spaces["momentum"] = twin["projected"]
        return spaces

    @functools.cached_property
    def training(self) -> Examples:
        """The training split beside the dataset; there has to be one."""
        assert self._load_training is not None
        return self._load_training()

    @functools.cached_property
    def shared_classes(self) -> SharedClasses | None:
        """What a classifier can be fitted on and scored on; None where there is nothing."""
        if self._load_training is None:
            return None
        return shared_classes(self.training, self.examples)

    @functools.cached_property
    def training_pictures(self) -> Vectors:
        """I of the training pictures of `shared_classes`, of the online weights."""
        shared = self._shared()
        return encode_pictures(
            ChosenPictures(self.training, shared.train),
            len(shared.train),
            lambda images, rows: {"image": self.model(images=images)},
            self.announce("encoding pictures to fit classifiers on"),
        )["image"]

    @functools.cached_property
    def training_captions(self) -> Vectors:
        """T of the main captions of the same pictures."""
        everything = captions_of(self.training)
        captions = [everything[row][0] for row in self._shared().train]
        texts, places = distinct(captions)
        found = encode_texts(
            texts, self.model, self._tokenize, self.announce("encoding their captions")
        )
        return {space: vectors[places] for space, vectors in found.items()}

    def _shared(self) -> SharedClasses:
        assert self.shared_classes is not None
        return self.shared_classes

    @functools.cached_property
    def _layouts(self) -> list[Layout]:
        concepts = [own.get("concept", "") for own in self.examples.metadata]
        return plan_scenes(self.corpus.gallery.main, concepts)

    @functools.cached_property
    def scenes(self) -> ComposedScenes:
        """Scenes of several pictures of the dataset; empty where there are too few for one."""
        shown = sorted({picture for layout in self._layouts for picture in layout.pictures})
        pixels = dict(zip(shown, self.images(shown), strict=True))
        size = SCENE_SCALE * self.examples.image_size
        return compose_all(self._layouts, pixels, self.corpus.main_captions, size)

    @property
    def patches_per_side(self) -> int:
        """The grid on which things are localised."""
        return grid_side(self.model, self._asked_patches_per_side)

    @functools.cached_property
    def grounds(self) -> Mapping[str, BoxedPictures]:
        """Pictures in which it is known where things are, at the size in which they are localised.

        Scenes come twice: the same ones on white and in front of photographs.
        """
        size = picture_side(self.model, self.patches_per_side)
        if self._load_boxed is not None:
            return {PLAIN: self._load_boxed(size)}
        layouts = self._layouts[:LOCALISED_SCENES]
        shown = sorted({picture for layout in layouts for picture in layout.pictures})
        pixels = dict(zip(shown, self.examples.cut_outs(shown, size // 2), strict=True))
        captions = self.corpus.main_captions
        return {
            PLAIN: compose_all(layouts, pixels, captions, size),
            PHOTOGRAPHS: compose_all(on_photographs(layouts), pixels, captions, size),
        }

    @property
    def size(self) -> tuple[int, int]:
        """How many different pictures and captions (or phrases) the dataset has."""
        if self._load_examples is None:
            boxed = self.grounds[PLAIN]
            return len(np.unique(boxed.pictures)), len(set(boxed.phrases))
        return len(self.corpus.main_captions), len(self.corpus.gallery.texts)

    @functools.cached_property
    def cut_texts(self) -> dict[str, int]:
        """Count the texts that the model does not read to their end.

        `prompts_alike` are those of these prompts that another class's prompt then is equal to:
        the model cannot tell the two classes apart by them.
        """
        if self._load_examples is None:
            phrases = sorted(set(self.grounds[PLAIN].phrases))
            return {"texts": len(phrases), "texts_cut": int(self._cut(phrases).sum())}
        captions, classes = self.corpus.gallery.texts, self.corpus.class_names
        counts = {"texts": len(captions), "texts_cut": int(self._cut(captions).sum())}
        if len(classes) < 2:
            return counts
        alike = number = 0
        templates = template_set(self._templates)
        for template in templates:
            prompts = [template.format(name) for name in classes]
            cut = self._cut(prompts)
            number += int(cut.sum())
            if cut.any():
                _, places, times = np.unique(
                    self._tokenize(prompts), axis=0, return_inverse=True, return_counts=True
                )
                alike += int((cut & (times[places.ravel()] > 1)).sum())
        asked = {"prompts": len(templates) * len(classes), "prompts_cut": number}
        return {**counts, **asked, "prompts_alike": alike}

    @property
    def prompt(self) -> str:
        """The template of a prompt beside a picture."""
        return prompt_template(self._templates)

    def images(
        self, indices: Sequence[int] | Int64[np.ndarray, "n"]
    ) -> UInt8[np.ndarray, "n size size 3"]:
        """The pictures at these indices, as the model sees them."""
        rows = np.asarray(indices, np.int64)
        if not len(rows):
            size = self.examples.image_size
            return np.empty((0, size, size, 3), np.uint8)
        return np.concatenate(list(self.examples.image_batches(BATCH_SIZE, rows)))

    def ids(self, texts: Sequence[str]) -> Int32[np.ndarray, "n tokens"]:
        """What the model reads of texts."""
        return self._tokenize(texts)

    def texts(self, texts: Sequence[str]) -> Vectors:
        """T of texts that are in no caption gallery, such as prompts."""
        return encode_texts(texts, self.model, self._tokenize)

    def prompted(
        self,
        images: UInt8[np.ndarray, "n size size 3"],
        chosen: Int64[np.ndarray, "queries"],
        texts: Sequence[str],
    ) -> Vectors:
        """IT of image `chosen[q]` with text q; an empty text is a text of no words."""
        ids = self._tokenize(texts)
        return encode_pictures(
            ChosenPictures(PicturesInMemory(images), chosen),
            len(chosen),
            lambda pixels, rows: {"joint": self.model(images=pixels, text=ids[rows])},
        )["joint"]
