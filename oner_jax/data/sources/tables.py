"""Readers of other people's data: each yields the same typed raw example, and checks its input.

A reader is a function from a path to an iterator of `RawExample`. It is run more than once, so it
must give the same examples each time.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oner_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class RawExample:
    """One image-caption example before its image was read.

    `location` names where it stands in its source, for messages. `split` is empty if the source
    does not say. `captions` is never empty, and has the main one first.
    """

    location: str
    id: str
    read_image: Callable[[], bytes]
    captions: tuple[str, ...]
    label: str = ""
    split: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


# Sizes are measured from the image, so a source's own word on them is not kept.
_JSONL_FIELDS = ("image", "caption", "captions", "id", "label", "split", "width", "height")


def read_jsonl(path: Path) -> Iterator[RawExample]:
    """Examples of a file with one JSON object a line.

    Fields: `image` (a path, relative to the file), `caption` (a string) or `captions` (a string or
    a list of them) or both, and optionally `id`, `label`, `split`. All others become metadata.
    Raises InputError naming file and line.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a JSONL file") from error
    with file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _jsonl_example(line, path, number)


def _jsonl_example(line: bytes, path: Path, number: int) -> RawExample:
    location = f"{path}:{number}"
    try:
        fields = json.loads(line.decode("utf-8-sig"))  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise InputError(f"{location}: no UTF-8 text; save the file as UTF-8") from error
    except ValueError as error:
        raise InputError(
            f"{location}: no JSON ({error}); write one JSON object on each line"
        ) from error
    if not isinstance(fields, dict):
        raise InputError(f"{location}: no JSON object; write {{...}} with image and caption")
    image = fields.get("image")
    if not isinstance(image, str) or not image:
        raise InputError(f'{location}: lacks an image; add "image": "path/to/file"')
    file = path.parent / image
    if not file.is_file():
        raise InputError(f"{location}: image {file} does not exist; paths start at {path.parent}")
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in fields.items()
        if key not in _JSONL_FIELDS and value is not None
    }
    return RawExample(
        location=location,
        id=_text(fields, "id", location) or f"{number:08d}",
        read_image=file.read_bytes,
        captions=_captions(fields, location),
        label=_text(fields, "label", location),
        split=_text(fields, "split", location),
        metadata=metadata,
    )


def _captions(fields: Mapping[str, Any], location: str) -> tuple[str, ...]:
    """`caption` and then `captions`, each once, in that order."""
    found = []
    for key in ("caption", "captions"):
        value = fields.get(key)
        if value is None:
            continue
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if not isinstance(text, str):
                raise InputError(f"{location}: {key} is no string or list of strings; write text")
            if text.strip() and text not in found:
                found.append(text)
    if not found:
        raise InputError(f'{location}: lacks a caption; add "caption": "..." or "captions": [...]')
    return tuple(found)


def _text(fields: Mapping[str, Any], key: str, location: str) -> str:
    """An optional string or whole number as text; empty if absent."""
    value = fields.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{location}: {key} is no string; write text")
    return str(value)
