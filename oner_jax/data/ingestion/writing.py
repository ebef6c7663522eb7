"""What was decided, written: shards, then manifests and the list of what was dropped."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import oner_jax
from oner_jax.data import records
from oner_jax.data.ingestion import part_files
from oner_jax.data.ingestion.decisions import Decisions, Duplicates, Piece, Shard
from oner_jax.data.ingestion.options import IngestOptions, SourceName
from oner_jax.data.ingestion.part_files import Loss
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.records import Record

DROPPED_FILE = "dropped.jsonl"
_RECORD_BYTES = "record_bytes"  # of a shard's examples, in its facts

# How many examples and captions were left out, by reason: {"example": {...}, "caption": {...}}.
Losses = dict[str, collections.Counter[str]]


def write_shard(shard: Shard, staging: Staging) -> None:
    """Makes one shard out of the files of the parts, unless it is there."""
    facts = staging.shard_facts(shard.split, shard.number)
    if facts.exists():
        return
    path = staging.finished / shard.split / records.shard_file(shard.number)
    record_bytes = 0

    def serialised() -> Iterator[bytes]:
        nonlocal record_bytes
        for piece in shard.pieces:
            for record in _examples(piece, staging):
                record_bytes += len(record)
                yield record

    with staging.whole_file(path) as local:
        written = records.write_shard(local, serialised())
    staging.write_json(facts, {**written, _RECORD_BYTES: record_bytes})


def _examples(piece: Piece, staging: Staging) -> Iterator[bytes]:
    """The serialised examples of a piece."""
    found = part_files.read_records(staging, piece.part, piece.offsets, piece.lengths)
    with part_files.RecordFiles(staging) as opened:
        for n, serialised in enumerate(found):
            others = piece.others_of(n)
            number = piece.id_number[n]
            if not others and not number:
                yield serialised
                continue
            record = Record.parse(serialised)
            captions = dict.fromkeys(record.captions)
            for place in others:
                captions |= dict.fromkeys(Record.parse(opened.read(*place)).captions)
            identifier = f"{record.id}{piece.id_mark}{number}" if number else record.id
            yield dataclasses.replace(record, id=identifier, captions=tuple(captions)).serialise()


def finish(
    decisions: Decisions,
    source: SourceName,
    number_of_parts: int,
    options: IngestOptions,
    staging: Staging,
) -> None:
    """Writes what was dropped, and then the manifest of every split. All shards must be there."""
    total, by_split = _write_losses(decisions.duplicates, number_of_parts, staging)
    everywhere = {
        "source": _source_facts(source, number_of_parts, staging)
        | _counts(total)
        | {"joined": decisions.joined, "renamed": decisions.renamed},
        "image_options": dataclasses.asdict(options.conversion.images),
        "filters": dataclasses.asdict(options.conversion.filters),
        "oner_jax_version": oner_jax.__version__,
    }
    for name, facts in decisions.splits.items():
        number_of_shards = sum(shard.split == name for shard in decisions.shards)
        shards = [
            json.loads(staging.shard_facts(name, number).read_text())
            for number in range(number_of_shards)
        ]
        record_bytes = sum(shard.pop(_RECORD_BYTES) for shard in shards)
        description = {**facts, "record_bytes": record_bytes, **_counts(by_split[name])}
        description |= everywhere
        staging.write_json(
            staging.finished / name / records.MANIFEST, records.manifest_of(shards, description)
        )


def _source_facts(source: SourceName, number_of_parts: int, staging: Staging) -> dict[str, Any]:
    all_parts, together = part_files.Notes(), hashlib.sha256()
    for number in range(number_of_parts):
        notes = part_files.read_notes(staging, number)
        together.update(notes.fingerprint.encode())
        all_parts.entries += notes.entries
        all_parts.unread += notes.unread
        all_parts.captions_of_several_lines += notes.captions_of_several_lines
    facts = {"fingerprint": together.hexdigest(), "entries": all_parts.entries}
    unusual = {
        "unread": dict(sorted(all_parts.unread.items())),
        "captions_of_several_lines": all_parts.captions_of_several_lines,
    }
    return {**vars(source), **facts, **{name: fact for name, fact in unusual.items() if fact}}


def _counts(losses: Losses) -> dict[str, dict[str, int]]:
    """As the manifest says it."""
    return {
        "dropped": dict(sorted(losses["example"].items())),
        "dropped_captions": dict(sorted(losses["caption"].items())),
    }


def _write_losses(
    duplicates: Duplicates, number_of_parts: int, staging: Staging
) -> tuple[Losses, Mapping[str, Losses]]:
    """The list of all that was dropped, in the order of the source, if anything was.

    Returns counts of all, and of each split as far as it is known.
    """
    total: Losses = collections.defaultdict(collections.Counter)
    by_split: dict[str, Losses] = collections.defaultdict(
        lambda: collections.defaultdict(collections.Counter)
    )
    with staging.whole_file(staging.finished / DROPPED_FILE) as path, path.open("w") as file:
        for loss in _all_losses(duplicates, number_of_parts, staging):
            total[loss.what][loss.reason] += 1
            by_split[loss.split][loss.what][loss.reason] += 1
            line = vars(loss).copy()
            del line["entry"]
            file.write(json.dumps(line) + "\n")
    if not total:
        (staging.finished / DROPPED_FILE).unlink()
    return total, by_split


def _all_losses(duplicates: Duplicates, number_of_parts: int, staging: Staging) -> Iterator[Loss]:
    first_locations = _locations_of_firsts(duplicates, staging)
    for part in range(number_of_parts):
        losses = part_files.read_losses(staging, part)
        numbers = duplicates.of_part(part)
        if numbers:
            locations = _locations(staging, part)
            losses += [
                Loss(
                    entry=int(duplicates.entry[n]),
                    what="example",
                    split=duplicates.splits[n],
                    location=locations[duplicates.row[n]],
                    reason=duplicates.reasons[n],
                    detail=f"like {first_locations[n]}",
                )
                for n in numbers
            ]
            losses.sort(key=lambda loss: loss.entry)
        yield from losses


def _locations_of_firsts(duplicates: Duplicates, staging: Staging) -> list[str]:
    """Where the records that the duplicates are like stand in the source."""
    by_part = collections.defaultdict(list)
    for number, part in enumerate(duplicates.first_part.tolist()):
        by_part[part].append(number)
    found = [""] * len(duplicates.first_part)
    for part, numbers in by_part.items():
        locations = _locations(staging, part)
        for number in numbers:
            found[number] = locations[duplicates.first_row[number]]
    return found


def _locations(staging: Staging, part: int) -> list[str]:
    return part_files.read_rows(staging, part, ["location"])["location"].to_pylist()
