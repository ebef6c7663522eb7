"""A source whose parts are held in memory, and comparisons of what was made of it."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oner_jax import ingest
from oner_jax.data.ingestion.options import IngestOptions, SourceName
from oner_jax.data.ingestion.processes import ProcessRunner
from oner_jax.data.sources import Dropped, RawExample
from tests.data.samples import encoded, picture

NAME = SourceName("fake", "list")


@dataclasses.dataclass(frozen=True)
class ListPart:
    """These entries. Appends its name to the file `log`, if there is one, when it is read."""

    name: str
    entries: tuple[RawExample | Dropped, ...]
    log: str = ""

    @property
    def examples(self) -> int:
        return len(self.entries)

    def read(self) -> Iterator[RawExample | Dropped]:
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{self.name}\n")
        yield from self.entries


def example(number: int, **changes) -> RawExample:
    """A valid example whose picture and caption depend on its number."""
    image = encoded(picture(number, 12, 16), "PNG")
    values: dict[str, Any] = {
        "location": f"fake:{number}",
        "id": f"example-{number}",
        "read_image": functools.partial(bytes, image),
        "captions": (f"thing {number}",),
    }
    return RawExample(**values | changes)


def in_parts(entries: list, size: int, log: Path | None = None) -> list[ListPart]:
    """The entries in parts of this size."""
    return [
        ListPart(f"part {first}", tuple(entries[first : first + size]), str(log or ""))
        for first in range(0, len(entries), size)
    ]


def make(parts: list[ListPart], output: Path, options: IngestOptions | None = None) -> None:
    """Ingests the parts in this process."""
    options = options or IngestOptions()
    ingest.write_dataset(parts, NAME, str(output), options, ProcessRunner(1))


def files(directory: Path) -> dict[str, bytes]:
    """What is in it, by path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
