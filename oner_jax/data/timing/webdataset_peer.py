"""The other way to feed pairs: webdataset reading tar files, Pillow decoding and cropping.

What the input benchmark compares with. One process a core, each with its own share of the archives;
nothing is sent between processes, shuffled or turned to floats, all of which would only cost the
peer time. webdataset is an optional package; torchvision's own transform is used where it is there.
"""

import importlib
import importlib.metadata
import importlib.util
import io
import itertools
import math
import multiprocessing
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oner_jax.data.timing.stopwatch import Spent, Stopwatch
from oner_jax.data.tokenizer import EMBEDDED, Tokenizer

_LOG_ASPECTS = (math.log(3 / 4), math.log(4 / 3))
_ATTEMPTS = 10


def is_installed() -> bool:
    """Whether there is a webdataset to compare with."""
    return importlib.util.find_spec("webdataset") is not None


def versions() -> str:
    """The packages that do the work, by name and version."""
    names = ["webdataset", *(["torchvision"] if _torchvision() else []), "pillow"]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def write_archives(
    folder: Path, files: Sequence[bytes], captions: Sequence[str], count: int
) -> list[Path]:
    """Tar files of KEY.jpg and KEY.txt, as img2dataset writes them."""
    paths = [folder / f"{number:05d}.tar" for number in range(count)]
    for number, path in enumerate(paths):
        with tarfile.open(path, "w") as archive:
            for key in range(number, len(files), count):
                for name, content in (("jpg", files[key]), ("txt", captions[key].encode())):
                    entry = tarfile.TarInfo(f"{key:09d}.{name}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return paths


def random_resized_crop(size: int, minimum_fraction: float) -> Callable[[Image.Image], Image.Image]:
    """torchvision's `RandomResizedCrop` with its default filter and shapes, for Pillow images."""
    if _torchvision():
        transforms = importlib.import_module("torchvision.transforms")
        return transforms.RandomResizedCrop(size, scale=(minimum_fraction, 1.0))

    def crop(image: Image.Image) -> Image.Image:
        box = _crop_box(image.width, image.height, minimum_fraction)
        return image.crop(box).resize((size, size), Image.Resampling.BILINEAR)

    return crop


def _crop_box(width: int, height: int, minimum_fraction: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random box; the largest in the middle if none fits."""
    for _ in range(_ATTEMPTS):
        area = random.uniform(minimum_fraction, 1.0) * width * height
        aspect = math.exp(random.uniform(*_LOG_ASPECTS))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = random.randint(0, width - wide), random.randint(0, height - high)
            return left, top, left + wide, top + high
    narrowest, widest = (math.exp(limit) for limit in _LOG_ASPECTS)
    wide, high = min(width, round(height * widest)), min(height, round(width / narrowest))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def batches(
    archives: Sequence[Path],
    *,
    image_size: int,
    text_tokens: int,
    crop_min_fraction: float,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless batches: uint8 [batch_size, size, size, 3] and int32 [batch_size, text_tokens]."""
    webdataset: Any = importlib.import_module("webdataset")
    crop = random_resized_crop(image_size, crop_min_fraction)
    tokenizer = Tokenizer.load(EMBEDDED)

    def picture(image: Image.Image) -> np.ndarray:
        pixels = np.asarray(crop(image))
        return pixels[:, ::-1] if random.random() < 0.5 else pixels

    dataset = webdataset.WebDataset([str(path) for path in archives], shardshuffle=False).repeat()
    pairs = iter(dataset.decode("pilrgb").to_tuple("jpg", "txt").map_tuple(picture))
    while True:
        # Captions are encoded a batch at a time, which is the fastest way.
        pictures, captions = zip(*itertools.islice(pairs, batch_size), strict=True)
        yield np.stack(pictures), tokenizer.encode(captions, text_tokens)


class Workers:
    """Processes that make batches when asked."""

    def __init__(self, count: int, archives: Sequence[Path], **options: Any):
        context = multiprocessing.get_context("spawn")
        self._batch_size: int = options["batch_size"]
        self._connections: list[Connection] = []
        self._processes = []
        for number in range(count):
            connection, theirs = context.Pipe()
            share = archives[number::count]
            process = context.Process(target=_serve, args=(theirs, share, options), daemon=True)
            process.start()
            self._connections.append(connection)
            self._processes.append(process)
        for connection in self._connections:
            connection.recv()

    def take(self, pairs: int) -> Spent:
        """Makes at least so many pairs."""
        share = -(-pairs // (self._batch_size * len(self._connections)))
        watch = Stopwatch()
        for connection in self._connections:
            connection.send(share)
        cpu_seconds = sum(connection.recv() for connection in self._connections)
        made = share * self._batch_size * len(self._connections)
        return Spent(watch.seconds() / made, cpu_seconds / made)

    def close(self) -> None:
        """Ends the processes."""
        for connection in self._connections:
            connection.send(0)
        for process in self._processes:
            process.join()


def _serve(connection: Connection, archives: Sequence[Path], options: dict[str, Any]) -> None:
    stream = batches(archives, **options)
    next(stream)
    connection.send(0.0)
    while count := connection.recv():
        watch = Stopwatch()
        for _ in range(count):
            next(stream)
        connection.send(watch.cpu_seconds())


def _torchvision() -> bool:
    return importlib.util.find_spec("torchvision") is not None
