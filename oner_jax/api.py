"""Use a trained model from Python.

    import oner_jax

    model = oner_jax.load()                       # the released one; or give a run or an export
    pictures = model.embed(images=["one.jpg", "two.jpg"])
    texts = model.embed(texts=["a red bicycle", "two cats"])
    model.similarity(pictures, texts)             # cosines, [2, 2]
    model.embed(images="one.jpg", texts="in red") # picture and text as one input
    model.localize("one.jpg", "a bicycle").box    # where it is

Pictures are paths, a file's bytes, open files, Pillow images or arrays of uint8; many are any list,
generator, batch in an array or column of a table. TensorFlow is not needed.

A model may be used by several threads. It pickles as where it was loaded from, and is loaded again
there. After a fork JAX hangs, so that a forked process is refused: start processes with
`multiprocessing.get_context("spawn")`, or load the model in each process and not before.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float32, Int32, UInt8
from numpy.typing import ArrayLike
from PIL import Image

from oner_jax import arguments
from oner_jax.arguments import AnyArray, OpenFile, ReadyImage
from oner_jax.data.cores import available_cores
from oner_jax.data.image_files import file_pixels, open_image
from oner_jax.data.preprocessing import encoder_pixels, on_white
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError
from oner_jax.models.embedding import Embedder
from oner_jax.models.files import named_arrays
from oner_jax.models.settings import ModelSettings
from oner_jax.training.checkpointing.checkpoints import WEIGHTS, Run, load_run

Picture = str | os.PathLike | bytes | OpenFile | Image.Image | AnyArray
"""A path, the content of a file, an open file or an image; arrays (of any library) are uint8
[height, width] (grey) or [height, width, 1 to 4] (grey, grey and alpha, RGB, RGBA)."""

Pictures = Picture | Iterable[Picture]
Texts = str | Iterable[str]

BATCH_SIZE = 128

RELEASED = Path(__file__).parent / "released" / "demo"
"""The model that comes with the package; its README.md says how it was made and how good it is."""

_BATCHES_AHEAD = 2
_DEFAULT_THRESHOLD = 0.5


class TruncatedTexts(UserWarning):
    """Texts were longer than the model reads, and their ends were cut off."""


@dataclasses.dataclass(frozen=True)
class Localization:
    """Where a phrase is in a picture of height x width pixels.

    `heat_map` runs from 0, where the picture fits the phrase least, to 1, where it does best. `box`
    is left, top, right and bottom in pixels, around the largest hot region.
    """

    heat_map: Float32[np.ndarray, "height width"]
    box: tuple[float, float, float, float]


class Model:
    """A trained model. Made by `load`."""

    def __init__(self, run: Run, batch_size: int = BATCH_SIZE):
        self.settings: ModelSettings = run.model.settings
        self.tokenizer = Tokenizer.load(run.config.data.tokenizer)
        self.config = run.config
        self.step = run.step
        # The smaller sizes are for single queries.
        sizes = [size for size in (1, 16) if size < batch_size] + [batch_size]
        self._embedder = Embedder(run.model, run.parameters, batch_size=sizes)
        self._parameters = run.parameters
        # Absolute, since a process that unpickles may be in another folder.
        self._path = epath.Path(run.workdir).resolve()
        self._weights, self._given_batch_size = run.weights, batch_size

    def __repr__(self) -> str:
        settings = self.settings
        numbers = sum(array.size for array in named_arrays(self._parameters).values())
        return (
            f"<oner_jax.Model {settings.architecture}, {numbers / 1e6:.1f} M parameters: images of "
            f"{settings.image_size} px, texts of up to {settings.text_tokens} tokens, "
            f"{self.features} features; step {self.step} of {self._path}, {self._weights} weights>"
        )

    def __reduce__(self) -> tuple:
        step = self.step or "init"  # the weights at the beginning are in no checkpoint
        arguments = (self._path, step, self._weights, self._given_batch_size, self.identity)
        return _load_again, arguments

    @property
    def views(self) -> frozenset[str]:
        """I (pictures), T (texts) and, where the architecture has it, IT (both together)."""
        return self._embedder.views

    @property
    def features(self) -> int:
        """The length of an embedding."""
        return self.settings.projection_width

    @property
    def batch_size(self) -> int:
        """How many inputs are embedded at once."""
        return self._embedder.batch_size

    @functools.cached_property
    def identity(self) -> str:
        """A hash of what embeddings depend on; an export has that of the run if types are equal."""
        digest = hashlib.sha256(f"{self.tokenizer.content_hash} {self.settings.dtype}".encode())
        for name, array in named_arrays(self._parameters).items():
            if name.startswith("backbone."):
                digest.update(name.encode())
                digest.update(array.tobytes())
        return digest.hexdigest()

    def embed(
        self,
        images: Pictures | None = None,
        texts: Texts | None = None,
        *,
        truncate: bool = True,
    ) -> Float32[np.ndarray, "n features"]:
        """Embed n images, n texts, or n images with a text each, at unit length.

        One image or text gives one row. Texts longer than the model reads are cut off at their
        end, with a warning that counts them. Raises InputError for an item that cannot be used
        (naming it), for different numbers of images and texts, for both together where the
        architecture has no joint view, and, with truncate=False, for texts that are too long.
        """
        _check_not_forked()
        arguments.check_choice("truncate", truncate, (True, False))
        pictures = None if images is None else arguments.images_in(images)
        phrases = None if texts is None else arguments.texts_in(texts)
        if pictures is None and phrases is None:
            raise InputError("embed: give images=, texts= or both")
        if pictures is not None and phrases is not None:
            if "IT" not in self.views:
                raise InputError(
                    f"{self.settings.architecture} has no joint view: embed images and texts apart"
                )
            if len(pictures) != len(phrases):
                raise InputError(
                    f"embed: {len(pictures)} images but {len(phrases)} texts: give one text each"
                )
        ids = None if phrases is None else self._read_ids(phrases, truncate)
        if not (pictures or phrases):
            return np.zeros((0, self.features), np.float32)
        if pictures is None:
            return self.embed_arrays(None, ids)
        parts, first = [], 0
        for pixels in self._decoded(pictures):
            rows = slice(first, first + len(pixels))
            parts.append(self.embed_arrays(pixels, None if ids is None else ids[rows]))
            first += len(pixels)
        return np.concatenate(parts)

    def embed_arrays(
        self,
        pixels: UInt8[np.ndarray, "n size size 3"] | None,
        ids: Int32[np.ndarray, "n tokens"] | None,
    ) -> Float32[np.ndarray, "n features"]:
        """As `embed`, of what `pixels` and `token_ids` give."""
        found = self._embedder(images=pixels, text=ids).projected
        if not np.isfinite(found).all():
            raise InputError(
                f"the weights of {self._path} give embeddings that are not finite: load an earlier "
                "checkpoint with step="
            )
        return found

    def similarity(self, a: ArrayLike, b: ArrayLike) -> Float32[np.ndarray, "n m"]:
        """Return cosines, from -1 to 1, of every row of `a` [n, features] with every row of `b`.

        Rows may have any length. Raises InputError for other shapes, and for rows without a
        direction (zero, or not finite).
        """
        first, second = (arguments.unit_vectors_in(given, self.features) for given in (a, b))
        return np.clip(first @ second.T, -1.0, 1.0)

    def localize(
        self,
        image: Picture,
        phrase: str,
        *,
        threshold: float = _DEFAULT_THRESHOLD,
        read_out: str | None = None,
        patches_per_side: int | None = None,
    ) -> Localization:
        """Where in a picture is what the phrase names?

        `read_out` is how the map is read, as evaluation does it: by default "windows", parts of
        the picture each embedded as a picture, or "values", "projected" or "backbone" of the
        patches (`oner_jax.evals.inputs.readouts`). The picture is then read as `patches_per_side`
        squared patches, by default 12 a side or the model's own if they are more. `box` is around
        what is hotter than `threshold`, from 0 to 1.
        """
        threshold = _checked_threshold(image, phrase, threshold)
        # Labelling regions takes SciPy, which embedding does without.
        from oner_jax.evals.inputs import readouts
        from oner_jax.evals.tasks import localisation

        with arguments.naming(image, "image"):
            picture = on_white(_image_of(image))
        ids = self.token_ids([phrase])
        maps = readouts.map_of(self._embedder, picture, ids, read_out, patches_per_side)
        heat = localisation.from_cold_to_hot(localisation.upsampled(maps))
        box = localisation.boxes_around_largest(heat, threshold)[0]
        left, top, right, bottom = (box * [*picture.size, *picture.size]).tolist()
        large = Image.fromarray(heat[0]).resize(picture.size, Image.Resampling.BICUBIC)
        return Localization(np.clip(np.asarray(large), 0.0, 1.0), (left, top, right, bottom))

    def pixels(self, image: Picture) -> UInt8[np.ndarray, "size size 3"]:
        """Return what the encoder sees of an image.

        Raises UnfitImage (a ValueError) or OSError for an image that cannot be read, InputError
        for anything that is not an image.
        """
        return self._pixels(arguments.ready_image(image))

    def token_ids(self, texts: Sequence[str]) -> Int32[np.ndarray, "n tokens"]:
        """What the encoder reads of texts; the end of long ones is cut off."""
        return self.tokenizer.encode(texts, self.settings.text_tokens)

    def _pixels(self, image: ReadyImage) -> UInt8[np.ndarray, "size size 3"]:
        size = self.settings.image_size
        if isinstance(image, Image.Image):
            return encoder_pixels(image, size)
        return file_pixels(arguments.file_content(image), size)

    def _read_ids(self, texts: Sequence[str], truncate: bool) -> Int32[np.ndarray, "n tokens"]:
        """Return token ids. Warn of texts that are cut off, or raise InputError for them."""
        limit = self.settings.text_tokens
        ids, lengths = self.tokenizer.encode_with_lengths(texts, limit)
        too_long = np.flatnonzero(lengths > limit)
        if len(too_long):
            first = too_long[0]
            said = (
                f"{len(too_long):,} of {len(texts):,} texts are longer than the {limit} tokens "
                f"that the model reads, the first of them text {first} with {lengths[first]:,}"
            )
            if not truncate:
                raise InputError(f"{said}: shorten them, or leave truncate=False out")
            warnings.warn(f"{said}: their ends were cut off", TruncatedTexts, stacklevel=3)
        return ids

    def _decoded(self, pictures: Sequence[Any]) -> Iterator[UInt8[np.ndarray, "n size size 3"]]:
        """Pixels in batches, the next ones decoded while one is used."""
        size = self.batch_size
        times = collections.Counter(map(id, pictures))
        repeated: dict[int, concurrent.futures.Future] = {}
        waiting: collections.deque[list[concurrent.futures.Future]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(available_cores()) as threads:

            def submitted(picture: Any, number: int) -> concurrent.futures.Future:
                if id(picture) in repeated:
                    return repeated[id(picture)]
                name = f"image {number}"
                with arguments.naming(picture, name):
                    ready = arguments.ready_image(picture)
                future = threads.submit(self._named_pixels, ready, picture, name)
                if times[id(picture)] > 1:
                    repeated[id(picture)] = future
                return future

            for first in range(0, len(pictures), size):
                if len(waiting) > _BATCHES_AHEAD:
                    yield np.stack([future.result() for future in waiting.popleft()])
                batch = enumerate(pictures[first : first + size], start=first)
                waiting.append([submitted(picture, number) for number, picture in batch])
            while waiting:
                yield np.stack([future.result() for future in waiting.popleft()])

    def _named_pixels(
        self, ready: ReadyImage, picture: Any, name: str
    ) -> UInt8[np.ndarray, "size size 3"]:
        with arguments.naming(picture, name):
            return self._pixels(ready)


def load(
    path: str | os.PathLike = RELEASED,
    *,
    step: str | int = "last",
    weights: str = "online",
    batch_size: int = BATCH_SIZE,
) -> Model:
    """The model in a run's folder or in an export, local or on object storage.

    Without a path the one that comes with the package.
    `step` and `weights` choose among a run's checkpoints, as for `oner_jax.export`. `batch_size`
    is how many inputs are embedded at once. Raises InputError where there is no model, saying what
    there is.
    """
    global _loaded_in
    _check_not_forked()
    arguments.check_count("batch_size", batch_size)
    arguments.check_choice("weights", weights, WEIGHTS)
    if isinstance(step, bool) or not isinstance(step, str | int | np.integer):
        raise InputError(f'step={step!r}: give a number, "last", "best" or "init"')
    with arguments.naming(path, "path"):
        folder = arguments.folder_in(path)
    step = step if isinstance(step, str) else int(step)
    _loaded_in = os.getpid()
    run = load_run(folder, step, weights)
    return Model(run, int(batch_size))


def _load_again(
    path: epath.Path, step: str | int, weights: str, batch_size: int, identity: str
) -> Model:
    """Load a pickled model. Raise InputError where its folder has another one by now."""
    model = load(path, step=step, weights=weights, batch_size=batch_size)
    if model.identity != identity:
        raise InputError(f"{path} holds another model than the pickled one: load it from there")
    return model


# The process in which this module first used JAX.
_loaded_in: int | None = None


def _check_not_forked() -> None:
    """Raise InputError in a process that was forked from one with a model."""
    if _loaded_in not in (None, os.getpid()):
        raise InputError(
            "this process was forked from one that had loaded a model, where JAX hangs: start it "
            'with multiprocessing.get_context("spawn"), or load the model here only'
        )


def _checked_threshold(image: Any, phrase: Any, threshold: Any) -> float:
    """Return the threshold. Raise InputError for several images or phrases, or beyond 0 to 1."""
    _check_not_forked()
    if isinstance(image, list | tuple):
        raise InputError(f"localize: takes one image, not a {type(image).__name__} of them")
    arguments.check_text(phrase, "localize: phrase")
    if not phrase.strip():
        raise InputError("localize: the phrase is empty: name what to look for")
    arguments.check_fraction("localize: threshold", threshold)
    return float(threshold)


def _image_of(picture: Any) -> Image.Image:
    """Decode an image. Raise UnfitImage or OSError for a file, InputError for anything else."""
    ready = arguments.ready_image(picture)
    if isinstance(ready, Image.Image):
        return ready
    return open_image(arguments.file_content(ready))
