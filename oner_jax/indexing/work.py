"""The folder in which embeddings are made, part by part, until the result is whole.

.NAME.partial/work.json          what is being made, so that nothing else continues it
.NAME.partial/part-00000.npz     vectors, rows and what was dropped of one part of the source
"""

import collections
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from oner_jax.data.reasons import Reason
from oner_jax.data.sources import Dropped, Part, Unread
from oner_jax.errors import InputError
from oner_jax.files import write_whole
from oner_jax.indexing.rows import Row

MANIFEST = "manifest.json"
VECTORS = "embeddings.npy"
ROWS = "rows.jsonl"
PARQUET = "embeddings.parquet"
DROPPED = "dropped.jsonl"
FILE_FORMATS = ("npy", "parquet")
FORMAT = "oner_jax index"


class Finished(NamedTuple):
    """What one part of a source gave; `unread` are the files that it passed over, by ending."""

    vectors: Float32[np.ndarray, "rows features"]
    rows: list[Row]
    dropped: list[Dropped]
    unread: Unread


class Work:
    """The unfinished result `out`. Raises InputError if something else is in the way."""

    def __init__(self, out: Path, description: dict[str, Any], parts: Sequence[Part]):
        self.out = out
        self.description = description
        self._number = len(parts)
        self._folder = out.absolute().with_name(f".{out.name}.partial")
        made_from = [description, *map(repr, parts)]
        fingerprint = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
        self._plan = {**description, "parts": len(parts), "fingerprint": fingerprint}
        if self.is_complete:
            return
        if out.exists():
            raise InputError(
                f"--output={out} exists and was made by another command or from other data: "
                "remove it, or choose another"
            )
        begun = self._folder / "work.json"
        if begun.exists() and json.loads(begun.read_text()) != self._plan:
            raise InputError(
                f"{self._folder} holds unfinished work of another command or from other data: "
                "repeat that command, or remove the folder"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(begun, json.dumps(self._plan))
        except OSError as error:
            raise InputError(f"--output={out} cannot be made: {error.strerror}") from None

    @property
    def is_complete(self) -> bool:
        """Whether the same command made the result already."""
        try:
            return self.manifest().get("fingerprint") == self._plan["fingerprint"]
        except (OSError, ValueError):
            return False

    def manifest(self) -> dict[str, Any]:
        """Of the complete result."""
        return json.loads((self.out / MANIFEST).read_text())

    def missing(self) -> list[int]:
        """Numbers of the parts that are to be done."""
        return [number for number in range(self._number) if not self._path(number).exists()]

    def finish_part(self, number: int, result: Finished) -> None:
        """Keep what a part gave."""
        file = io.BytesIO()
        np.savez(
            file,
            vectors=result.vectors,
            rows=_as_bytes([list(row) for row in result.rows]),
            dropped=_as_bytes([[d.location, d.reason, d.detail] for d in result.dropped]),
            unread=_as_bytes(result.unread),
        )
        write_whole(self._path(number), file.getvalue())

    def part(self, number: int) -> Finished:
        """What a part gave."""
        with np.load(self._path(number)) as kept:
            return Finished(
                kept["vectors"],
                [Row(*fields) for fields in json.loads(kept["rows"].tobytes())],
                [
                    Dropped(location, Reason(reason), detail)
                    for location, reason, detail in json.loads(kept["dropped"].tobytes())
                ],
                Unread(json.loads(kept["unread"].tobytes())),
            )

    def assemble(self, file_format: str) -> dict[str, Any]:
        """Join all parts into the result; its manifest. Raises InputError if nothing is in it."""
        whole = self._folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        reasons: collections.Counter[str] = collections.Counter()
        unread = Unread()
        rows, first = 0, ""
        with (whole / DROPPED).open("w", encoding="utf-8") as file:
            for part in self._parts():
                rows += len(part.rows)
                unread += part.unread
                for entry in part.dropped:
                    first = first or f"{entry.location}: {entry.detail}"
                    reasons[str(entry.reason)] += 1
                    fields = {"location": entry.location, "reason": str(entry.reason)}
                    file.write(_line({**fields, "detail": entry.detail}))
        if not rows:
            shutil.rmtree(self._folder)
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            raise InputError(
                f"nothing to embed: all {reasons.total()} entries were left out ({counted}), the "
                f"first of them {first}"
            )
        manifest = {
            "format": FORMAT,
            **self._plan,
            "rows": rows,
            "dropped": dict(sorted(reasons.items())),
            "unread": dict(sorted(unread.items())),
        }
        write = _write_npy if file_format == "npy" else _write_parquet
        write(whole, self._parts(), rows, self.description["features"])
        (whole / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        whole.replace(self.out)
        shutil.rmtree(self._folder)
        return manifest

    def _parts(self) -> Iterator[Finished]:
        return (self.part(number) for number in range(self._number))

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}.npz"


def _write_npy(folder: Path, parts: Iterator[Finished], rows: int, features: int) -> None:
    vectors = np.lib.format.open_memmap(
        str(folder / VECTORS), "w+", dtype=np.float32, shape=(rows, features)
    )
    first = 0
    with (folder / ROWS).open("w", encoding="utf-8") as file:
        for part in parts:
            vectors[first : first + len(part.rows)] = part.vectors
            first += len(part.rows)
            file.writelines(_line(row._asdict()) for row in part.rows)
    vectors.flush()


def _write_parquet(folder: Path, parts: Iterator[Finished], rows: int, features: int) -> None:
    import pyarrow
    import pyarrow.parquet

    names = Row._fields
    schema = pyarrow.schema(
        [
            *((name, pyarrow.string()) for name in names),
            ("embedding", pyarrow.list_(pyarrow.float32(), features)),
        ]
    )
    with pyarrow.parquet.ParquetWriter(folder / PARQUET, schema) as writer:
        for part in parts:
            flat = pyarrow.array(part.vectors.ravel(), pyarrow.float32())
            vectors = pyarrow.FixedSizeListArray.from_arrays(flat, features)
            texts = [
                pyarrow.array([_as_text(getattr(row, name)) for row in part.rows]) for name in names
            ]
            writer.write_table(
                pyarrow.Table.from_arrays(
                    [*(text.cast(pyarrow.string()) for text in texts), vectors], schema=schema
                )
            )


def _as_text(name: str) -> str:
    """The name of a file as UTF-8, odd bytes as what stands for them."""
    return name.encode(errors="backslashreplace").decode()


def _line(fields: dict[str, Any]) -> str:
    # A path need not be UTF-8. In JSON what stands for its odd bytes, `\\udce9`, leads back to it.
    return _as_text(json.dumps(fields, ensure_ascii=False)) + "\n"


def _as_bytes(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
