"""Check what callers give to the API: images, texts and vectors, whatever they come as.

Each check returns one kind of value, or raises InputError naming the item and the fix.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from PIL import Image

from oner_jax.data.image_files import UnfitImage
from oner_jax.errors import InputError, first_line
from oner_jax.files import Access, read_bytes, usable


@runtime_checkable
class OpenFile(Protocol):
    """A file that was opened in binary mode, or what can be read like one."""

    def read(self) -> bytes: ...


@runtime_checkable
class AnyArray(Protocol):
    """An array of any library, or a column of a table."""

    def __array__(self) -> np.ndarray: ...


ReadyImage = str | bytes | Image.Image
"""A path, the content of a file, or a decoded image of Pillow's: safe to use in any thread."""

_LONGEST_NAME = 300  # characters of a path in a message

# Pillow decodes an opened image, and reads its EXIF, when first asked: two threads may not both.
_loading = threading.Lock()


def images_in(images: Any) -> list[Any]:
    """Return the single images: of a list, a column of a table, a batch in an array, or one."""
    if _is_one_image(images):
        return [images]
    return _items_of(images, "images")


def texts_in(texts: Any) -> list[str]:
    """Return the texts of a list, of a column of a table, or of one."""
    items: list = [texts] if isinstance(texts, str | bytes) else _items_of(texts, "texts")
    for number, text in enumerate(items):
        check_text(text, f"text {number}")
    return items


def check_text(text: Any, name: str) -> None:
    """Raise InputError for anything but a text that can be written as UTF-8."""
    if not isinstance(text, str):
        hint = "decode it" if isinstance(text, bytes) else "give a str"
        raise InputError(f"{name}: {_described(text)} is not a text: {hint}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name}: character {error.start} is half of a surrogate pair, which is not valid "
            "Unicode: decode the text again, or leave the character out"
        ) from None


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise InputError unless `value` is one of `choices`."""
    same = (value is choice or (isinstance(value, str) and value == choice) for choice in choices)
    if not any(same):
        listed = ", ".join(map(repr, choices))
        raise InputError(f"{name}={_described(value)}: give one of {listed}")


def check_fraction(name: str, value: Any) -> None:
    """Raise InputError unless `value` is a number from 0 to 1."""
    number = isinstance(value, int | float | np.integer | np.floating)
    if not number or isinstance(value, bool) or not 0 <= value <= 1:
        raise InputError(f"{name}={_described(value)}: give a number from 0 to 1")


def check_count(name: str, value: Any) -> None:
    """Raise InputError unless `value` is a whole number of at least 1."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise InputError(f"{name}={_described(value)} must be at least 1, and a whole number")


def unit_vectors_in(vectors: Any, features: int) -> Float32[np.ndarray, "n {features}"]:
    """Return vectors as float32 at unit length. InputError for other shapes, and for zero."""
    array = _as_array(vectors, "similarity")
    if array.ndim != 2 or array.shape[1] != features or array.dtype.kind not in "fiu":
        raise InputError(
            f"similarity: give two arrays [n, {features}] from embed, not {array.dtype} of shape "
            f"{array.shape}"
        )
    wide = array.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    for row in np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[:1]:
        raise InputError(
            f"similarity: row {row} has length {lengths[row, 0]}, and no cosine to anything"
        )
    return (wide / lengths).astype(np.float32)


@contextlib.contextmanager
def naming(image: Any, name: str) -> Iterator[None]:
    """Raise what is wrong with an image as InputError: its path, or `name` where it has none."""
    with contextlib.suppress(Exception):  # a path that cannot say what it is
        path = os.fsdecode(image) if isinstance(image, str | os.PathLike) else name
        plain = path.isprintable() and 0 < len(path) <= _LONGEST_NAME
        name = path if plain else f"{name} ({path[:_LONGEST_NAME]!r})"
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except UnfitImage as error:
        raise InputError(f"{name}: {first_line(error)}") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({first_line(_said(error))})") from None
    except ValueError as error:
        raise InputError(f"{name}: cannot be used ({first_line(error)})") from None


def ready_image(image: Any) -> ReadyImage:
    """Read, decode or convert what only the caller's thread may touch: call it there.

    Raises InputError for what is not an image, and UnfitImage, OSError or ValueError for one that
    cannot be read.
    """
    if isinstance(image, Image.Image):
        return _loaded(image)
    if isinstance(image, str | os.PathLike):
        return _path(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if hasattr(image, "read"):
        return _content_of(image)
    if _is_array(image):
        return _image_of_levels(_as_array(image, "an image"))
    raise InputError(
        f"{_described(image)} is not an image: give a path, a file's bytes, an open file, a Pillow "
        "image or an array of uint8"
    )


def folder_in(path: Any) -> str:
    """Return the path of a folder; InputError for what is not one."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{_described(path)} is not a path: give the folder of a run or an export")
    return usable(_path(path), Access.STORE)


def file_content(file: str | bytes) -> bytes:
    """Return a file's bytes, given its path, its address or its bytes.

    Raises OSError, and InputError for an address that cannot be used or does not answer.
    """
    return file if isinstance(file, bytes) else read_bytes(file)


def _items_of(values: Any, kind: str) -> list[Any]:
    """Return the items of any iterable whose order means something."""
    one = kind.removesuffix("s")
    if hasattr(values, "columns"):
        raise InputError(f"{kind}: {_described(values)} is a table: give one column of it")
    if _is_array(values):
        array = _as_array(values, kind)
        if array.ndim <= 1 and array.dtype.kind in "OUT":
            return array.reshape(-1).tolist()
        if array.ndim == 1 and not len(array):
            return []
        if array.dtype.kind == "S":
            raise InputError(
                f"{kind}: NumPy cuts zeros off the end of bytes: give a list of bytes instead"
            )
        if kind == "images" and array.ndim == 4:
            return list(array)
        raise InputError(
            f"{kind}: an array of {array.dtype} {list(array.shape)} is not a list of {kind}"
        )
    if isinstance(values, Mapping | Set):
        raise InputError(f"{kind}: {_described(values)} has no order: give a list")
    try:
        iterator = iter(values)
    except TypeError:
        raise InputError(
            f"{kind}: {_described(values)} is neither {one} nor a list of {kind}"
        ) from None
    return list(iterator)


def _is_one_image(images: Any) -> bool:
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return True
    if hasattr(images, "read"):
        return True
    if hasattr(images, "columns") or not _is_array(images):
        return False
    array = _as_array(images, "images")
    # Four dimensions are a batch, one is a column of paths.
    return array.dtype.kind not in "OUTS" and array.ndim != 4 and array.shape != (0,)


def _is_array(value: Any) -> bool:
    """Return whether NumPy can read it: an array of any library, or a column of a table."""
    return hasattr(value, "__array__")


def _as_array(value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except Exception as error:  # another library's: on another device, deleted, of unequal rows
        raise InputError(
            f"{name}: {_described(value)} cannot be read as a NumPy array ({first_line(error)})"
        ) from None


def _path(image: str | os.PathLike) -> str:
    try:
        path = os.fsdecode(image)
    except Exception as error:
        raise InputError(f"is not a path ({first_line(error)})") from None
    if not path:
        raise InputError("the path is empty")
    return usable(path)


def _content_of(file: Any) -> bytes:
    try:
        content = file.read()
    except Exception as error:  # closed, opened for writing, or another library's own
        raise InputError(f"cannot be read ({first_line(error)}): give an open file") from None
    if not isinstance(content, bytes | bytearray):
        raise InputError('the file gives text: open it with mode "rb"')
    if not content:
        raise InputError("the file is at its end: open it again, or go back with seek(0)")
    return bytes(content)


def _loaded(image: Image.Image) -> Image.Image:
    """Decode a Pillow image, so that every thread may use it."""
    with _loading:
        try:
            image.load()
            image.getexif()
        except Exception as error:  # decoders raise nearly everything
            raise InputError(f"cannot be decoded ({first_line(error)})") from None
    return image


def _image_of_levels(array: np.ndarray) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    fits = array.dtype == np.uint8 and array.ndim in (2, 3) and channels in (1, 2, 3, 4)
    if not fits or not array.size:
        raise InputError(
            f"an array of {array.dtype} {list(array.shape)} is not an image: give uint8 "
            f"[height, width] or [height, width, channels], levels from 0 to 255{_hint(array)}"
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)


def _hint(array: np.ndarray) -> str:
    """Say how to convert the two usual layouts that are not taken."""
    hints = []
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 2, 3, 4):
        hints.append("array.transpose(1, 2, 0) puts channels last")
    if array.dtype.kind == "f":
        hints.append("(255 * array).round().astype('uint8') converts levels from 0 to 1")
    return "; " + "; ".join(hints) if hints else ""


def _described(value: Any) -> str:
    """Return a plain value itself, and of any other its type."""
    if value is None or isinstance(value, bool | int | float | str | np.number):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:40]}..."
    return type(value).__name__


def _said(error: OSError) -> str:
    return error.strerror or str(error)
