"""The one on-disk format: a split is a directory of ArrayRecord shards and a `manifest.json`.

A record is a serialised `tf.train.Example` with features `id`, `image` (an encoded JPEG, PNG or
WebP), `height`, `width`, `captions` (the main one first), `label`, and one string feature per
metadata field. A picture alone has no captions; a text alone has an empty image of 0 x 0 pixels.
Shards hold one record per chunk (`group_size:1`), so any record can be read alone. The manifest
names shards, counts, sizes and hashes, and says how the data were made.

A split is named by its directory, local or gs://, or as "embedded:NAME" for those in the package;
`held_out` names parts of one.
"""

import dataclasses
import hashlib
import json
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import UInt64

from oner_jax.data import directory as layout
from oner_jax.data import held_out
from oner_jax.data.host_tensorflow import tf
from oner_jax.errors import InputError
from oner_jax.files import Access, reaching, usable

EMBEDDED_PREFIX = "embedded:"
EMBEDDED_ROOT = Path(__file__).parent / "embedded"
MANIFEST = layout.MANIFEST
FORMAT_VERSION = 1

_NO_SINGLE_TEXT = ("image", "height", "width", "captions")
RECORD_FEATURES = ("id", "label", *_NO_SINGLE_TEXT)
_READ_BATCH = 256

# Of object storage, each answer takes tens of milliseconds, however many are asked for at a time.
_STORAGE_THREADS = 64
_OTHER_OPEN_FILES = 512


@dataclasses.dataclass(frozen=True)
class Record:
    """One example as it is stored: an encoded image of height x width pixels, and its texts."""

    id: str
    image: bytes
    height: int
    width: int
    captions: tuple[str, ...]
    label: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.captions and not self.image:
            raise ValueError(f"record {self.id}: neither image nor caption")
        if clash := set(self.metadata) & set(RECORD_FEATURES):
            raise ValueError(f"record {self.id}: metadata named like a feature: {sorted(clash)}")

    def serialise(self) -> bytes:
        """The record as bytes of a `tf.train.Example`; equal records give equal bytes."""
        texts = {"id": [self.id], "captions": self.captions, "label": [self.label]}
        texts |= {key: [value] for key, value in self.metadata.items()}
        features = {
            key: tf.train.Feature(
                bytes_list=tf.train.BytesList(value=[text.encode() for text in values])
            )
            for key, values in texts.items()
        }
        features["image"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[self.image]))
        for key, value in (("height", self.height), ("width", self.width)):
            features[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        example = tf.train.Example(features=tf.train.Features(feature=features))
        # Map fields are otherwise written in hash order, which differs between processes.
        return example.SerializeToString(deterministic=True)

    @classmethod
    def parse(cls, serialised: bytes) -> "Record":
        """The inverse of `serialise`."""
        feature = tf.train.Example.FromString(serialised).features.feature
        text = {
            key: feature[key].bytes_list.value[0].decode()
            for key in feature
            if key not in _NO_SINGLE_TEXT
        }
        return cls(
            id=text.pop("id"),
            image=feature["image"].bytes_list.value[0],
            height=feature["height"].int64_list.value[0],
            width=feature["width"].int64_list.value[0],
            captions=tuple(value.decode() for value in feature["captions"].bytes_list.value),
            label=text.pop("label"),
            metadata=dict(sorted(text.items())),
        )


class Split:
    """Random access to the records of one split. Safe to read from several threads."""

    def __init__(self, name: str, directory: epath.Path, manifest: dict[str, Any]):
        self.name = name
        self.directory = directory
        self.manifest = manifest
        # Telling the reader each shard's length spares opening all of them at start.
        self._source = ArrayRecordDataSource(
            [f"{directory / s['file']}[0:{s['examples']}]" for s in manifest["shards"]]
        )

    def __len__(self) -> int:
        return self.manifest["examples"]

    @property
    def content_hash(self) -> str:
        """Changes when any byte of any record changes."""
        return self.manifest["content_hash"]

    def read(self, indices: Iterable[SupportsIndex]) -> list[bytes]:
        """Serialised records at these indices of the split, in the order asked for."""
        return list(self._source.__getitems__([int(index) for index in indices]))

    def records(self, indices: Sequence[SupportsIndex] | None = None) -> Iterator[Record]:
        """The records at these indices, or all, in their order on disk."""
        wanted = range(len(self)) if indices is None else indices
        for first in range(0, len(wanted), _READ_BATCH):
            for serialised in self.read(wanted[first : first + _READ_BATCH]):
                yield Record.parse(serialised)

    def captions(self, maximum: int | None = None) -> Iterator[str]:
        """All captions of all records in order, or at most `maximum`, evenly over the split.

        Evenly: the split is cut into `maximum` equal stretches, and each gives one caption of the
        record it begins in. A record where several begin gives as many different captions.
        """
        if maximum is None:
            for record in self.records():
                yield from record.captions
            return
        beginnings = np.arange(maximum) * len(self) // maximum
        indices, shares = np.unique(beginnings, return_counts=True)
        for index, share, record in zip(
            indices, shares, self.records(indices.tolist()), strict=True
        ):
            available = len(record.captions)
            # Which ones depends on the index: a record's main caption is not like its others.
            places = {int(index + n) % available for n in range(min(share, available))}
            yield from (record.captions[place] for place in sorted(places))


class SplitPart(Split):
    """The records of a split that a name such as `DIR/train[1%]` stands for."""

    def __init__(self, whole: Split, part: held_out.HeldOut):
        super().__init__(part.name, whole.directory, whole.manifest)
        self._part = part
        self._length = part.size(len(whole))

    def __len__(self) -> int:
        return self._length

    @property
    def content_hash(self) -> str:
        own = f"{super().content_hash} {self._part.percent} {self._part.without}"
        return hashlib.sha256(own.encode()).hexdigest()

    def read(self, indices: Iterable[SupportsIndex]) -> list[bytes]:
        numbers = np.array([int(index) for index in indices], np.int64)
        return super().read(self._part.indices(numbers))


def open_split(name: str) -> Split:
    """Open a split by directory or "embedded:NAME", or a part of one (`held_out`).

    Raises InputError, naming what is there instead, if the directory is missing, is no split, is
    empty, or has a shard whose size is not the one in the manifest.
    """
    if (part := held_out.parse(name)) and not (epath.Path(name) / MANIFEST).exists():
        opened = SplitPart(open_split(part.split), part)
        if not len(opened):
            raise InputError(f"dataset {name}: holds no examples; give another percentage")
        return opened
    if name.startswith(EMBEDDED_PREFIX):
        directory = epath.Path(EMBEDDED_ROOT / name.removeprefix(EMBEDDED_PREFIX))
    else:
        directory = epath.Path(usable(name, Access.GS))
    with reaching(directory):
        if not (directory / MANIFEST).exists():
            raise InputError(f"dataset {name}: {_what_is_there_instead(name, directory)}")
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        shards = [(directory / shard["file"], shard["bytes"]) for shard in manifest["shards"]]
        version, examples = manifest["format_version"], manifest["examples"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"dataset {name}: {directory / MANIFEST} is damaged ({error}); ingest the data again"
        ) from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"dataset {name}: format version {version}, but this program reads {FORMAT_VERSION}; "
            "ingest the data again"
        )
    if examples < 1:
        raise InputError(f"dataset {name}: holds no examples; ingest some")
    with ThreadPoolExecutor(_STORAGE_THREADS) as pool:
        sizes = pool.map(_size_of, (path for path, _ in shards))
        for (path, size), found in zip(shards, sizes, strict=True):
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes instead of {size}"
                pool.shutdown(cancel_futures=True)
                raise InputError(f"dataset {name}: {path} {state}; copy or ingest the data again")
    _allow_open_files(name, len(shards))
    return Split(name, directory, manifest)


def _size_of(path: epath.Path) -> int | None:
    """Bytes of a file, None where there is none."""
    try:
        return path.stat().length
    except FileNotFoundError:
        return None


def _allow_open_files(name: str, shards: int) -> None:
    """Raise this process's limit of open files where it has to be: a shard stays open once read.

    Raises InputError where the system does not let it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = shards + _OTHER_OPEN_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise InputError(
            f"dataset {name}: has {shards:,} shards, but a process may open {hard:,} files only: "
            "raise that limit (ulimit -Hn), or ingest the data with a larger --shard_megabytes"
        )
    # Once it is raised, then as far as may be: there may be other splits.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def training_split_beside(name: str) -> str | None:
    """The split called `train` beside a split, where there is one and it is another.

    Next to a part that is held out of a split, the rest of it.
    """
    if part := held_out.parse(name):
        return None if part.without else part.others.name
    if name.startswith(EMBEDDED_PREFIX):
        training = f"{EMBEDDED_PREFIX}train"
        return None if name == training else training
    directory = epath.Path(usable(name, Access.GS))
    training_directory = directory.parent / "train"
    if directory.name == "train" or not (training_directory / MANIFEST).exists():
        return None
    return str(training_directory)


def _what_is_there_instead(name: str, directory: epath.Path) -> str:
    """Why a directory is no split, with the names that would have worked."""
    embedded, exists = name.startswith(EMBEDDED_PREFIX), directory.exists()
    root = directory.parent if embedded or not exists else directory
    splits = [path.parent.name for path in root.glob(f"*/{MANIFEST}")] if root.exists() else []
    prefix = EMBEDDED_PREFIX if embedded else f"{root}/"
    if splits:
        problem = "no such split; there is" if embedded or exists else "no such directory; there is"
        return f"{problem} " + ", ".join(f"{prefix}{s}" for s in sorted(splits))
    if exists:
        return f"no {MANIFEST} in it; make one with python -m oner_jax.ingest"
    return (
        "no such directory; give a directory made by python -m oner_jax.ingest, "
        f"or {EMBEDDED_PREFIX}train"
    )


def shard_file(number: int) -> str:
    """The name of a split's shard, from 0."""
    return f"shard-{number:05d}.array_record"


def cut_into_shards(
    record_bytes: UInt64[np.ndarray, " n"], shard_bytes: int
) -> list[tuple[int, int]]:
    """First record of each shard and the one after its last, for records of these sizes.

    A shard is closed once it holds `shard_bytes` bytes of records.
    """
    ends = np.cumsum(record_bytes, dtype=np.uint64)
    shards = []
    first, before = 0, 0
    while first < len(ends):
        last = int(np.searchsorted(ends, np.uint64(before + shard_bytes)))
        after = min(last + 1, len(ends))
        shards.append((first, after))
        first, before = after, int(ends[after - 1])
    return shards


def write_shard(path: Path, serialised: Iterable[bytes]) -> dict[str, Any]:
    """Writes one shard; returns what the manifest says of it, but for its name.

    The same records give the same file, byte for byte.
    """
    # Images are compressed already; compressing again costs reading time for nothing.
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    examples = 0
    for record in serialised:
        writer.write(record)
        examples += 1
    writer.close()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"examples": examples, "bytes": path.stat().st_size, "sha256": sha256}


def write_split(directory: Path, serialised: Sequence[bytes], shard_bytes: int) -> None:
    """A split of these records in an empty local directory; nothing is said of their origin."""
    sizes = np.array([len(record) for record in serialised], np.uint64)
    shards = [
        write_shard(directory / shard_file(number), serialised[first:after])
        for number, (first, after) in enumerate(cut_into_shards(sizes, shard_bytes))
    ]
    (directory / MANIFEST).write_text(json.dumps(manifest_of(shards, {})))


def manifest_of(
    shards: Sequence[Mapping[str, Any]], description: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest of a split of shards as `write_shard` describes them, in order.

    `description` says what is in them and how they were made.
    """
    hashes = "".join(shard["sha256"] for shard in shards)
    return {
        "format_version": FORMAT_VERSION,
        "examples": sum(shard["examples"] for shard in shards),
        "content_hash": hashlib.sha256(hashes.encode()).hexdigest(),
        **description,
        "shards": [{"file": shard_file(n), **shard} for n, shard in enumerate(shards)],
    }
