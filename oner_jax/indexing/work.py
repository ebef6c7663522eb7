"""The folder in which embeddings are made, part by part, until the result is whole.

.NAME.partial/work.json          what is being made, so that nothing else continues it
.NAME.partial/part-DIGEST.npz    vectors, rows and what was dropped of one part of the source
.NAME.partial/whole              the result, until it has its name
.NAME.partial/replaced           an earlier result, while it is being replaced

Parts of a killed process and an earlier result of the same command are not trusted to be up to
date: each of their vectors is taken over where what it was computed from is the same
(`oner_jax.indexing.known`).
"""

import collections
import contextlib
import functools
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from oner_jax.data.reasons import Reason
from oner_jax.data.sources import Dropped, Unread
from oner_jax.errors import InputError
from oner_jax.files import held_folder, replace_folder, write_whole
from oner_jax.indexing.known import Known, Origin, as_array, split, stored_keys
from oner_jax.indexing.rows import Row

MANIFEST = "manifest.json"
VECTORS = "embeddings.npy"
ROWS = "rows.jsonl"
PARQUET = "embeddings.parquet"
DROPPED = "dropped.jsonl"
KEYS = ("keys.npy", "stamps.npy")
FILE_FORMATS = ("npy", "parquet")
FORMAT = "oner_jax index"


class Finished(NamedTuple):
    """What one part of a source gave.

    `cut` counts captions longer than the model reads; `unread` the files that the part passed over,
    by ending.
    """

    vectors: Float32[np.ndarray, "rows features"]
    rows: list[Row]
    origins: list[Origin]
    dropped: list[Dropped]
    cut: int
    unread: Unread

    @classmethod
    def of_nothing(cls, vectors: Float32[np.ndarray, "0 features"]) -> "Finished":
        """Return what a part gives before anything of it was embedded."""
        return cls(vectors, [], [], [], 0, Unread())


class Work:
    """The unfinished result `out`. Use `begun`."""

    def __init__(self, out: Path, description: dict[str, Any]):
        self.out = out
        self.description = description
        self._folder = out.absolute().with_name(f".{out.name}.partial")
        self._parts: list[Path] = []

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Hold the folder. Raises InputError if something else is in the way, and where another
        process is at it."""
        self._refuse_other(self.out)
        with held_folder(self._folder, f"--output={self.out}"):
            replaced = self._folder / "replaced"
            if replaced.exists() and not self.out.exists():
                replaced.rename(self.out)  # killed while it was being replaced
            self._refuse_other(self.out)
            begun = self._folder / "work.json"
            if begun.exists() and json.loads(begun.read_text()) != self.description:
                raise InputError(
                    f"{self._folder} holds unfinished work of another command: repeat that "
                    "command, or remove the folder"
                )
            write_whole(begun, json.dumps(self.description))
            yield

    def _refuse_other(self, out: Path) -> None:
        if out.exists() and not self._is_same(self._manifest()):
            raise InputError(
                f"--output={out} exists and was made by another command or from other data: "
                "remove it, or choose another"
            )

    def _is_same(self, manifest: dict[str, Any]) -> bool:
        return manifest.get("format") == FORMAT and all(
            manifest.get(name) == value for name, value in self.description.items()
        )

    def _manifest(self) -> dict[str, Any]:
        """Return the manifest of an earlier result; empty without one."""
        try:
            found = json.loads((self.out / MANIFEST).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def known(self) -> Known:
        """Return what a killed process and an earlier result have computed."""
        known = Known()
        if (keys := stored_keys(self.out, KEYS)) is not None:
            known.add(*keys, self._earlier_vectors)
        for path in sorted(self._folder.glob("part-*.npz")):
            with np.load(path) as kept:
                load = functools.partial(_vectors_of_part, path)
                known.add(kept["keys"], kept["stamps"], load)
        return known

    def _earlier_vectors(self) -> Float32[np.ndarray, "rows features"]:
        if self.description["file_format"] == "npy":
            return np.load(self.out / VECTORS, mmap_mode="r")
        import pyarrow.parquet

        column = pyarrow.parquet.read_table(self.out / PARQUET, columns=["embedding"])[0]
        flat = column.combine_chunks().flatten().to_numpy()
        return flat.reshape(-1, self.description["features"])

    def finish_part(self, result: Finished) -> None:
        """Keep what the next part gave."""
        keys = as_array([origin.key for origin in result.origins])
        stamps = as_array([origin.stamp for origin in result.origins])
        dropped = _as_bytes([[d.location, d.reason, d.detail] for d in result.dropped])
        digest = hashlib.sha256(b"".join(map(bytes, (keys, stamps, dropped)))).hexdigest()[:16]
        # Named by what it holds, so that one of a killed process is never replaced by another.
        path = self._folder / f"part-{digest}.npz"
        self._parts.append(path)
        if path.exists():
            return
        file = io.BytesIO()
        np.savez(
            file,
            vectors=result.vectors,
            rows=_as_bytes([list(row) for row in result.rows]),
            keys=keys,
            stamps=stamps,
            dropped=dropped,
            cut=result.cut,
            unread=_as_bytes(result.unread),
        )
        write_whole(path, file.getvalue())

    def _finished(self) -> Iterator[Finished]:
        for path in self._parts:
            with np.load(path) as kept:
                yield Finished(
                    kept["vectors"],
                    [Row(*fields) for fields in json.loads(kept["rows"].tobytes())],
                    [
                        Origin(key.tobytes(), stamp.tobytes())
                        for key, stamp in zip(kept["keys"], kept["stamps"], strict=True)
                    ],
                    [
                        Dropped(location, Reason(reason), detail)
                        for location, reason, detail in json.loads(kept["dropped"].tobytes())
                    ],
                    int(kept["cut"]),
                    Unread(json.loads(kept["unread"].tobytes())),
                )

    def assemble(self) -> tuple[dict[str, Any], int]:
        """Join all parts into the result.

        Return its manifest, and how many rows of an earlier result are no longer in it. An earlier
        result with the same content stays as it is. Raises InputError if nothing was embedded.
        """
        earlier = stored_keys(self.out, KEYS)
        whole = self._folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        reasons: collections.Counter[str] = collections.Counter()
        origins, cut, unread, first = list[Origin](), 0, Unread(), ""
        content = hashlib.sha256(json.dumps(self.description).encode())
        with (whole / DROPPED).open("w", encoding="utf-8") as file:
            for part in self._finished():
                origins += part.origins
                cut += part.cut
                unread += part.unread
                for entry in part.dropped:
                    first = first or f"{entry.location}: {entry.detail}"
                    reasons[str(entry.reason)] += 1
                    fields = {"location": entry.location, "reason": str(entry.reason)}
                    line = _line({**fields, "detail": entry.detail})
                    content.update(line.encode())
                    file.write(line)
        if not origins:
            shutil.rmtree(self._folder)
            counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            raise InputError(
                f"nothing to embed: all {reasons.total()} entries were left out ({counted}), the "
                f"first of them {first}"
            )
        keys = as_array([origin.key for origin in origins])
        stamps = as_array([origin.stamp for origin in origins])
        content.update(keys.tobytes())
        manifest = {
            "format": FORMAT,
            **self.description,
            "rows": len(origins),
            "dropped": dict(sorted(reasons.items())),
            "unread": dict(sorted(unread.items())),
            "cut_captions": cut,
            "fingerprint": content.hexdigest(),
        }
        is_there = earlier is not None and np.array_equal(earlier[1], stamps)
        if not (is_there and self._manifest() == manifest):
            self._write(whole, manifest, (keys, stamps))
            replace_folder(whole, self.out, self._folder / "replaced")
        shutil.rmtree(self._folder)
        removed = set() if earlier is None else set(split(earlier[0])) - set(split(keys))
        return manifest, len(removed)

    def _write(
        self, whole: Path, manifest: dict[str, Any], keys: tuple[np.ndarray, np.ndarray]
    ) -> None:
        for name, array in zip(KEYS, keys, strict=True):
            np.save(whole / name, array)
        write = _write_npy if self.description["file_format"] == "npy" else _write_parquet
        write(whole, self._finished(), manifest["rows"], manifest["features"])
        (whole / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _vectors_of_part(path: Path) -> Float32[np.ndarray, "rows features"]:
    with np.load(path) as kept:
        return kept["vectors"]


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
