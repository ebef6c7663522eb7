"""The files of one converted part: its records, a table of them, and what was dropped.

Serialised records stand one behind the other. The table has a row for each, with all that is needed
to decide about records without reading them. What was dropped is JSON, a line for each.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oner_jax.data.ingestion.conversion import DIGEST_BYTES, Outcome, convert, digest
from oner_jax.data.ingestion.options import ConversionOptions
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.records import Record
from oner_jax.data.sources import Dropped, Part, RawExample, Unread, entries_of
from oner_jax.data.tokenizer import caption_hash
from oner_jax.errors import InputError

_OPEN_FILES = 32
LICENCE_FIELDS = ("license", "licence")

# Digests are two halves, since pairs of integers are quicker to sort than bytes.
DIGESTS = ("id", "image", "place", "entry")
_HALVES = [f"{name}_{half}" for name in DIGESTS for half in (0, 1)]

NUMBERS = {
    "entry": pa.uint32(),  # its place among all entries of the part
    "bytes": pa.uint64(),  # of the serialised record
    "image_bytes": pa.uint64(),  # 0: a text alone
    "captions": pa.uint32(),  # 0: an image alone
    "caption_hash": pa.uint32(),  # of the main caption; see `_hold_out_hash`
    "id_marks": pa.uint32(),  # how many of ID_MARK stand before a number at the end of its id
    **dict.fromkeys(_HALVES, pa.uint64()),  # see `_digests`
}
TEXTS = {"split": pa.string(), "licence": pa.string(), "location": pa.string()}

_SCHEMA = pa.schema({**NUMBERS, **TEXTS, "caption_digests": pa.list_(pa.uint64())})
_NOTES = b"notes"

# Of an id that occurs again a number behind so many of these makes one of its own.
ID_MARK = "~"
_MARKED = re.compile(rf"(?<!{ID_MARK})({ID_MARK}+)[0-9]+\Z")


@dataclasses.dataclass(frozen=True)
class Loss:
    """Something left out: an `example`, or a `caption` of one.

    `entry` is the example's place in its part; `split` is empty where the source does not say.
    """

    entry: int
    what: str
    split: str
    location: str
    reason: str
    detail: str


@dataclasses.dataclass
class Notes:
    """Facts about a whole part: how many entries it has, and a digest of their texts and image
    files; files that it passes over, by ending; captions with a line break that became records."""

    entries: int = 0
    fingerprint: str = ""
    unread: Unread = dataclasses.field(default_factory=Unread)
    captions_of_several_lines: int = 0


def convert_part(number: int, part: Part, options: ConversionOptions, staging: Staging) -> None:
    """Makes the files of a part, unless they are there.

    InputError if the part cannot be read at all: its loss would be none of single examples.
    """
    if staging.rows(number).exists():
        return
    rows: list[dict[str, Any]] = []
    losses: list[Loss] = []
    fingerprint = hashlib.blake2b(digest_size=DIGEST_BYTES)
    notes = Notes()
    with staging.whole_file(staging.records(number)) as path, path.open("wb") as file:
        for entry in _entries(part, notes.unread):
            image_digest = None
            if isinstance(entry, Dropped):
                losses.append(_loss(notes.entries, "example", "", entry))
            else:
                outcome = convert(entry, options)
                image_digest = outcome.image_digest
                losses += _losses(notes.entries, entry, outcome)
                if isinstance(record := outcome.result, Record):
                    serialised = record.serialise()
                    file.write(serialised)
                    rows.append(_row(notes.entries, entry, record, serialised, image_digest))
                    lines = sum("\n" in caption for caption in record.captions)
                    notes.captions_of_several_lines += lines
            fingerprint.update(_identity(entry, image_digest))
            notes.entries += 1
    with staging.whole_file(staging.dropped(number)) as path:
        path.write_text("".join(json.dumps(vars(loss)) + "\n" for loss in losses))
    notes.fingerprint = fingerprint.hexdigest()
    _write_rows(rows, notes, staging, number)


def _entries(part: Part, unread: Unread) -> Iterator[RawExample | Dropped]:
    try:
        yield from entries_of(part, unread)
    except OSError as error:
        raise InputError(
            f"{part.name}: cannot be read ({error.strerror or error}); when it can, the same "
            "command continues"
        ) from error


def _write_rows(rows: list[dict[str, Any]], notes: Notes, staging: Staging, number: int) -> None:
    metadata = {_NOTES: json.dumps(dataclasses.asdict(notes), sort_keys=True)}
    table = pa.Table.from_pylist(rows, _SCHEMA.with_metadata(metadata))
    with staging.whole_file(staging.rows(number)) as path:
        pq.write_table(table, path)


def _row(
    entry: int, example: RawExample, record: Record, serialised: bytes, image_digest: bytes | None
) -> dict[str, Any]:
    digests = np.frombuffer(_digests(example, record, image_digest), np.uint64)
    licences = (record.metadata[name] for name in LICENCE_FIELDS if name in record.metadata)
    return {
        "entry": entry,
        "bytes": len(serialised),
        "image_bytes": len(record.image),
        "captions": len(record.captions),
        "caption_hash": _hold_out_hash(record, image_digest),
        "id_marks": _id_marks(record.id),
        **dict(zip(_HALVES, digests.tolist(), strict=True)),
        "split": example.split,
        "licence": next(licences, ""),
        # A file's name need not be text; what stands for its odd bytes cannot be written.
        "location": example.location.encode(errors="backslashreplace").decode(),
        "caption_digests": np.frombuffer(
            b"".join(digest(caption.encode()) for caption in record.captions), np.uint64
        )[::2],
    }


def _digests(example: RawExample, record: Record, image_digest: bytes | None) -> bytes:
    """Those of `DIGESTS` in a row: of its id, of its image file in the source (0: there is none),
    and two that are equal for the same image: of where the image is, and of whose entry it is.

    An image is the same at an equal path, or in entries of equal ids, and where a table has neither
    paths nor ids; with equal bytes, and with the same split and label, of which an example has one.
    0 stands for nothing that tells. A text alone is the same with an equal id and equal captions.
    """
    place = example.image_path and os.path.normpath(example.image_path)
    place = place or example.image_name
    nothing = bytes(DIGEST_BYTES)
    kind = [example.split, example.label]
    by_place = by_entry = nothing
    if image_digest and (place or example.numbered):
        by_place = digest(json.dumps([place, *kind]).encode() + image_digest)
    if not example.numbered:
        content = list(record.captions) if image_digest is None else []
        by_entry = digest(json.dumps([record.id, *kind, content]).encode() + (image_digest or b""))
    return digest(record.id.encode()) + (image_digest or nothing) + by_place + by_entry


def _hold_out_hash(record: Record, image_digest: bytes | None) -> int:
    """Of the main caption, so that equal ones are held out together; 0 where there is none.

    Of the image where the caption is only the name of its class: or whole classes would be held
    out.
    """
    if not record.captions:
        return 0
    if image_digest and record.captions[0] == record.label:
        return int.from_bytes(image_digest[:4], "little")
    return int(caption_hash(record.captions[:1])[0])


def _id_marks(identifier: str) -> int:
    match = _MARKED.search(identifier)
    return len(match[1]) if match else 0


def _losses(entry: int, example: RawExample, outcome: Outcome) -> Iterator[Loss]:
    for caption in outcome.captions_left_out:
        yield _loss(entry, "caption", example.split, caption)
    if isinstance(outcome.result, Dropped):
        yield _loss(entry, "example", example.split, outcome.result)


def _loss(entry: int, what: str, split: str, dropped: Dropped) -> Loss:
    return Loss(entry, what, split, dropped.location, dropped.reason, dropped.detail)


def _identity(entry: RawExample | Dropped, image_digest: bytes | None) -> bytes:
    """What tells the entry from another, wherever the source lies."""
    if isinstance(entry, Dropped):
        return entry.reason.encode()
    texts = [entry.id, entry.captions, entry.label, entry.split, sorted(entry.metadata.items())]
    return json.dumps(texts).encode() + (image_digest or b"")


def read_notes(staging: Staging, number: int) -> Notes:
    """The facts about a converted part."""
    notes = json.loads(pq.read_schema(_rows_file(staging, number)).metadata[_NOTES])
    return Notes(**notes | {"unread": Unread(notes["unread"])})


def read_rows(staging: Staging, number: int, columns: list[str]) -> pa.Table:
    """These columns of the table of a converted part."""
    return pq.read_table(_rows_file(staging, number), columns=columns, use_threads=False)


def _rows_file(staging: Staging, number: int) -> pa.BufferReader:
    """In memory: what opens remote files is not all that Arrow wants of a file."""
    return pa.BufferReader(staging.rows(number).read_bytes())


def read_caption_digests(
    staging: Staging, number: int, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Digests of the captions of these rows of a converted part, and how many each row has."""
    column = read_rows(staging, number, ["caption_digests"])["caption_digests"].take(rows)
    lists = column.combine_chunks()
    return lists.flatten().to_numpy(zero_copy_only=False), lists.value_lengths().to_numpy()


def read_losses(staging: Staging, number: int) -> list[Loss]:
    """What a converted part left out, in order."""
    with staging.dropped(number).open() as file:
        return [Loss(**json.loads(line)) for line in file]


def read_records(
    staging: Staging, number: int, offsets: np.ndarray, lengths: np.ndarray
) -> Iterator[bytes]:
    """Serialised records of a part, by where they stand in their file."""
    with RecordFiles(staging) as opened:
        for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
            yield opened.read(number, offset, length)


class RecordFiles(contextlib.AbstractContextManager["RecordFiles"]):
    """Serialised records of any parts. The files that were read last stay open."""

    def __init__(self, staging: Staging):
        self._staging = staging
        self._opened: dict[int, IO[bytes]] = {}

    def read(self, part: int, offset: int, length: int) -> bytes:
        """The record of a part that stands there in its file."""
        file = self._opened.pop(part, None) or self._staging.records(part).open("rb")
        self._opened[part] = file  # behind the others
        if len(self._opened) > _OPEN_FILES:
            self._opened.pop(next(iter(self._opened))).close()
        file.seek(offset)
        return file.read(length)

    def __exit__(self, *_: object) -> None:
        for file in self._opened.values():
            file.close()
