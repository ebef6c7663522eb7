"""What the tests of single formats ask of entries."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oner_jax.data.sources import Dropped, RawExample, Reason
from tests.data.sources import written


def examples(name: object, source_format: str = "", **options: Any) -> list[RawExample]:
    """All entries of a source that has nothing but examples, from small parts."""
    found = written.read(str(name), source_format, **({"examples_per_part": 3} | options))
    assert not written.reasons(found)
    return written.examples_of(found)


def fates(found: Sequence[RawExample | Dropped]) -> list[Reason | None]:
    """Why each entry is no example; None for an example."""
    return [entry.reason if isinstance(entry, Dropped) else None for entry in found]


def images(found: Sequence[RawExample]) -> list[bytes]:
    """The bytes of each example's image."""
    files = []
    for example in found:
        assert example.read_image is not None
        files.append(example.read_image())
    return files


def write_json(path: Path, content: Any) -> Path:
    """The content as a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_images(directory: Path, *names: str) -> dict[str, bytes]:
    """Files by these names, each of bytes of its own."""
    content = {}
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content[name] = f"the picture {name}".encode()
        path.write_bytes(content[name])
    return content
