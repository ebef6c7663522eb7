"""Pictures with boxes from a JSONL file: what localisation is measured on beside composed scenes.

One line for each phrase and box; lines of the same picture and phrase are alternatives:

    {"image": "photos/1.jpg", "phrase": "a red bicycle", "box": [40, 25, 210, 180]}

`image` is a path relative to the file; `box` has the left, top, right and bottom edge in pixels of
the upright picture.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from oner_jax.data.image_files import open_image
from oner_jax.data.preprocessing import on_white, squeezed_pixels
from oner_jax.data.tokenizer import is_blank, is_unicode
from oner_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class PhrasesInPictures:
    """The queries of such a file, picture by picture, as `evals.inputs.scenes.BoxedPictures`.

    Whole pictures are squeezed into a square of `image_size`, so that no box is cut off; boxes are
    parts of the picture's sides, which that leaves as they are.
    """

    files: list[Path]
    image_size: int
    phrases: list[str]
    pictures: Int64[np.ndarray, "queries"]
    boxes: list[Float[np.ndarray, "_ 4"]]

    def image_batches(self, batch_size: int) -> Iterator[UInt8[np.ndarray, "b size size 3"]]:
        """All pictures in order; the last batch may be shorter."""
        for first in range(0, len(self.files), batch_size):
            yield np.stack(
                [
                    squeezed_pixels(self.picture(index), self.image_size)
                    for index in range(first, min(first + batch_size, len(self.files)))
                ]
            )

    def picture(self, index: int) -> Image.Image:
        """A picture in its own size."""
        return on_white(open_image(self.files[index].read_bytes()))


def content_hash(path: Path) -> str:
    """Hash the lines and the images that they name, so that a change in either shows."""
    content = _read(path)
    digest = hashlib.sha256(content)
    images: dict[str, None] = {}
    for line in content.splitlines():
        with contextlib.suppress(InputError):  # `read_boxes` says what is wrong with the line
            images[_fields(line, str(path))["image"]] = None
    for image in images:
        with contextlib.suppress(OSError, ValueError):
            digest.update(hashlib.sha256((path.parent / image).read_bytes()).digest())
    return digest.hexdigest()


def read_boxes(path: Path, image_size: int) -> PhrasesInPictures:
    """The queries of a JSONL file. Raises InputError naming file, line and fix."""
    found: dict[Path, dict[str, list[list[float]]]] = {}
    sizes: dict[Path, tuple[int, int]] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip():
            continue
        location = f"{path}:{number}"
        fields = _fields(line, location)
        file = path.parent / fields["image"]
        if file not in sizes:
            sizes[file] = _size(file, location)
        box = _box(fields["box"], sizes[file], location)
        found.setdefault(file, {}).setdefault(fields["phrase"], []).append(box)
    if not found:
        raise InputError(f'{path}: no line; write {{"image": ..., "phrase": ..., "box": [...]}}')
    queries = [
        (picture, phrase, boxes)
        for picture, own in enumerate(found.values())
        for phrase, boxes in own.items()
    ]
    return PhrasesInPictures(
        files=list(found),
        image_size=image_size,
        phrases=[phrase for _, phrase, _ in queries],
        pictures=np.array([picture for picture, _, _ in queries], np.int64),
        boxes=[np.array(boxes, np.float64) for _, _, boxes in queries],
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a JSONL file") from error


def _fields(line: bytes, location: str) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{location}: no JSON ({error}); write one object on each line") from error
    for name in ("image", "phrase"):
        if not isinstance(fields, dict) or not isinstance(fields.get(name), str):
            raise InputError(f'{location}: lacks "{name}"; write it as a text')
    if is_blank(fields["phrase"]):
        raise InputError(f"{location}: the phrase is empty; name what is in the box")
    for name in ("image", "phrase"):
        if not is_unicode(fields[name]):
            raise InputError(
                f'{location}: "{name}" holds half of a surrogate pair, which is not a '
                "character: correct it"
            )
    return {"box": None, **fields}


def _size(file: Path, location: str) -> tuple[int, int]:
    if not file.is_file():
        raise InputError(f"{location}: image {file} does not exist; paths start at the JSONL file")
    try:
        return on_white(open_image(file.read_bytes())).size
    except ValueError as error:
        raise InputError(f"{location}: image {file} cannot be decoded ({error})") from error


def _box(value: Any, size: tuple[int, int], location: str) -> list[float]:
    """A box as parts of the picture's sides."""
    width, height = size
    numbers = isinstance(value, list) and len(value) == 4
    if not numbers or not all(isinstance(edge, int | float) for edge in value):
        raise InputError(f'{location}: write "box": [left, top, right, bottom] in pixels')
    left, top, right, bottom = map(float, value)
    inside = 0 <= left < right <= width and 0 <= top < bottom <= height
    if not inside or not all(map(math.isfinite, value)):
        raise InputError(
            f"{location}: box {value} is empty or outside of the picture, which is "
            f"{width} x {height}; write left, top, right and bottom in its pixels"
        )
    return [left / width, top / height, right / width, bottom / height]
