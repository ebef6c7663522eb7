"""Use a trained model from Python.

    import oner_jax

    model = oner_jax.load()                       # the released one; or give a run or an export
    pictures = model.embed(images=["one.jpg", "two.jpg"])
    texts = model.embed(texts=["a red bicycle", "two cats"])
    model.similarity(pictures, texts)             # cosines, [2, 2]
    model.embed(images="one.jpg", texts="in red") # picture and text as one input
    model.localize("one.jpg", "a bicycle").box    # where it is

Pictures are paths, a file's bytes, Pillow images or arrays of uint8. TensorFlow is not needed.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from PIL import Image

from oner_jax.data.cores import available_cores
from oner_jax.data.image_files import UnfitImage, file_pixels, open_image
from oner_jax.data.preprocessing import encoder_pixels, on_white
from oner_jax.data.text import Tokenizer
from oner_jax.errors import InputError
from oner_jax.files import Access, read_bytes, usable
from oner_jax.models.embedding import Embedder
from oner_jax.models.files import named_arrays
from oner_jax.models.settings import ModelSettings
from oner_jax.training.checkpoints import Run, load_run

Picture = str | os.PathLike | bytes | Image.Image | np.ndarray
"""A path, the content of a file, or an image; arrays are uint8 [height, width] (grey) or
[height, width, 1 to 4] (grey, grey and alpha, RGB, RGBA)."""

Pictures = Picture | Sequence[Picture]
Texts = str | Sequence[str]

BATCH_SIZE = 128

RELEASED = Path(__file__).parent / "released" / "demo"
"""The model that comes with the package; its README.md says how it was made and how good it is."""

_BATCHES_AHEAD = 2
_DEFAULT_THRESHOLD = 0.5


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
        self, images: Pictures | None = None, texts: Texts | None = None
    ) -> Float32[np.ndarray, "n features"]:
        """Embeddings at unit length of n pictures, of n texts, or of n pictures with a text each.

        One picture or text gives one row. Raises InputError for a picture that cannot be read
        (naming it), for different numbers of pictures and texts, and for both together where the
        architecture has no joint view.
        """
        pictures = None if images is None else _as_list(images)
        phrases = None if texts is None else [texts] if isinstance(texts, str) else list(texts)
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
        ids = None if phrases is None else self.token_ids(phrases)
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
        return self._embedder(images=pixels, text=ids).projected

    def similarity(
        self, a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]
    ) -> Float32[np.ndarray, "n m"]:
        """Cosines, from -1 to 1, of every embedding in `a` with every one in `b`."""
        for given in (a, b):
            if given.ndim != 2 or given.shape[1] != self.features:
                raise InputError(
                    f"similarity: give two arrays [n, {self.features}] from embed, "
                    f"not one of shape {given.shape}"
                )
        return np.asarray(a, np.float32) @ np.asarray(b, np.float32).T

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
        patches (`oner_jax.evals.readouts`). The picture is then read as `patches_per_side` squared
        patches, by default 12 a side or the model's own if they are more. `box` is around what is
        hotter than `threshold`, from 0 to 1.
        """
        # Labelling regions takes SciPy, which embedding does without.
        from oner_jax.evals import localisation, readouts

        with _naming(image, "image"):
            picture = on_white(_image_of(image))
        ids = self.token_ids([phrase])
        maps = readouts.map_of(self._embedder, picture, ids, read_out, patches_per_side)
        heat = localisation.from_cold_to_hot(localisation.upsampled(maps))
        box = localisation.boxes_around_largest(heat, threshold)[0]
        left, top, right, bottom = (box * [*picture.size, *picture.size]).tolist()
        large = Image.fromarray(heat[0]).resize(picture.size, Image.Resampling.BICUBIC)
        return Localization(np.clip(np.asarray(large), 0.0, 1.0), (left, top, right, bottom))

    def pixels(self, image: Picture) -> UInt8[np.ndarray, "size size 3"]:
        """What the encoder sees of a picture. Raises UnfitImage (a ValueError) or OSError."""
        size = self.settings.image_size
        if isinstance(image, str | os.PathLike | bytes):
            return file_pixels(_content(image), size)
        return encoder_pixels(_image_of(image), size)

    def token_ids(self, texts: Sequence[str]) -> Int32[np.ndarray, "n tokens"]:
        """What the encoder reads of texts; the end of long ones is cut off."""
        return self.tokenizer.encode(texts, self.settings.text_tokens)

    def _decoded(self, pictures: Sequence[Picture]) -> Iterator[UInt8[np.ndarray, "n size size 3"]]:
        """Pixels in batches, the next ones decoded while one is used."""
        size = self.batch_size
        waiting: collections.deque[list[concurrent.futures.Future]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(available_cores()) as threads:
            for first in range(0, len(pictures), size):
                if len(waiting) > _BATCHES_AHEAD:
                    yield np.stack([future.result() for future in waiting.popleft()])
                waiting.append(
                    [
                        threads.submit(self._named_pixels, picture, first + place)
                        for place, picture in enumerate(pictures[first : first + size])
                    ]
                )
            while waiting:
                yield np.stack([future.result() for future in waiting.popleft()])

    def _named_pixels(self, picture: Picture, number: int) -> UInt8[np.ndarray, "size size 3"]:
        with _naming(picture, f"image {number}"):
            return self.pixels(picture)


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
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1")
    return Model(load_run(usable(path, Access.STORE), step, weights), batch_size)


def _as_list(images: Pictures) -> list[Picture]:
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        return [images]
    if hasattr(images, "__array__"):  # of any library
        # Four dimensions are a batch; else one picture.
        array = np.asarray(images)
        return list(array) if array.ndim == 4 else [array]
    return list(images)


def _image_of(picture: Picture) -> Image.Image:
    """Decoded. Raises UnfitImage or OSError for a file, InputError for what is no picture."""
    if isinstance(picture, Image.Image):
        picture.load()  # so that decoding it smaller changes nothing of the caller's image
        return picture
    if isinstance(picture, str | os.PathLike | bytes):
        return open_image(_content(picture))
    array = np.asarray(picture)
    channels = array.shape[2] if array.ndim == 3 else 1
    fits = array.dtype == np.uint8 and array.ndim in (2, 3) and channels in (1, 2, 3, 4)
    if not fits or not array.size:
        raise InputError(
            f"an array of {array.dtype} {list(array.shape)} is no picture: give uint8 "
            "[height, width] or [height, width, channels], levels from 0 to 255"
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)


def _content(file: str | os.PathLike | bytes) -> bytes:
    return file if isinstance(file, bytes) else read_bytes(file)


@contextlib.contextmanager
def _naming(picture: Picture, name: str) -> Iterator[None]:
    """What is wrong with a picture as InputError: its path, or `name` where it has none."""
    name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else name
    try:
        yield
    except UnfitImage as error:
        raise InputError(f"{name}: {error}") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from None
