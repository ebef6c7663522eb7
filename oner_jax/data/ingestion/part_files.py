"""The files of one converted part: its records, a table of them, and what was dropped.

Serialised records stand one behind the other. The table has a row for each, with all that is needed
to decide about records without reading them. What was dropped is JSON, a line for each.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oner_jax.data.ingestion.conversion import DIGEST_BYTES, Outcome, convert, digest
from oner_jax.data.ingestion.options import ConversionOptions
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.records import Record
from oner_jax.data.sources import Dropped, Part, RawExample, Unread, entries_of
from oner_jax.data.text import caption_hash
from oner_jax.errors import InputError

LICENCE_FIELDS = ("license", "licence")

# Digests are two halves, since pairs of integers are quicker to sort than bytes.
_DIGESTS = ("id_0", "id_1", "image_0", "image_1")

NUMBERS = {
    "entry": pa.uint32(),  # its place among all entries of the part
    "bytes": pa.uint64(),  # of the serialised record
    "image_bytes": pa.uint64(),  # 0: a text alone
    "captions": pa.uint32(),  # 0: an image alone
    "caption_hash": pa.uint32(),  # of the main caption
    **dict.fromkeys(_DIGESTS, pa.uint64()),  # of its id, and of its image file in the source
}
TEXTS = {"split": pa.string(), "licence": pa.string(), "location": pa.string()}

_SCHEMA = pa.schema({**NUMBERS, **TEXTS})
_NOTES = b"notes"


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
    digests = np.frombuffer(digest(record.id.encode()) + (image_digest or bytes(16)), np.uint64)
    licences = (record.metadata[name] for name in LICENCE_FIELDS if name in record.metadata)
    return {
        "entry": entry,
        "bytes": len(serialised),
        "image_bytes": len(record.image),
        "captions": len(record.captions),
        "caption_hash": int(caption_hash(record.captions[:1])[0]) if record.captions else 0,
        **dict(zip(_DIGESTS, digests.tolist(), strict=True)),
        "split": example.split,
        "licence": next(licences, ""),
        # A file's name need not be text; what stands for its odd bytes cannot be written.
        "location": example.location.encode(errors="backslashreplace").decode(),
    }


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


def read_losses(staging: Staging, number: int) -> list[Loss]:
    """What a converted part left out, in order."""
    with staging.dropped(number).open() as file:
        return [Loss(**json.loads(line)) for line in file]


def read_records(
    staging: Staging, number: int, offsets: np.ndarray, lengths: np.ndarray
) -> Iterator[bytes]:
    """Serialised records of a part, by where they stand in their file."""
    with staging.records(number).open("rb") as file:
        for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
            file.seek(offset)
            yield file.read(length)
