"""Decisions about records of all parts, against the same rules in plain Python."""

import collections
import dataclasses
import hashlib
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax import errors
from oner_jax.data import records
from oner_jax.data.ingestion import decisions
from oner_jax.data.ingestion.options import IngestOptions
from oner_jax.data.ingestion.part_files import NUMBERS
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.sources import Reason

HASHES = (2**28, 2**31, 7, 2**32 - 1, 2**30, 3 * 2**30, 2**31 - 1, 2**29, 2**31 + 1, 2**31 + 5)
ROW = st.fixed_dictionaries(
    {
        "part": st.integers(0, 4),
        "id": st.integers(0, 30),
        "image": st.integers(0, 8) | st.none(),
        "path": st.integers(0, 3) | st.none(),
        # A caption is its own hash, and half of all are below a threshold of 0.5.
        "captions": st.lists(st.sampled_from(HASHES), max_size=2, unique=True),
        "split": st.sampled_from(["", "", "test", "train"]),
        "bytes": st.integers(1, 100),
    }
).filter(lambda row: row["image"] is not None or row["captions"])


def place_of(row: dict[str, Any]) -> tuple | None:
    """Rows with an equal one are of one image; None is equal to nothing."""
    known = row["image"] is not None and row.get("path") is not None
    return (row["path"], row["image"], row["split"]) if known else None


def entry_of(row: dict[str, Any]) -> tuple:
    """As `place_of`."""
    text = row["captions"] if row["image"] is None else ()
    return (row["id"], row["image"], row["split"], *text)


def halves(value: object) -> tuple[int, int]:
    """As a digest; those of None are 0."""
    digest = hashlib.sha256(repr(value).encode()).digest()
    # Of the smallest values, that they differ in one half alone is likely.
    return (0, 0) if value is None else (digest[0] + 1, int.from_bytes(digest[1:8]))


def table(rows: list[dict[str, Any]]) -> decisions.Rows:
    """As `read_rows` would give it."""
    names = list(dict.fromkeys(row["split"] for row in rows))
    numbers: dict[str, list[int]] = {name: [] for name in NUMBERS}
    offsets = []
    ends: collections.Counter[int] = collections.Counter()
    entries: collections.Counter[int] = collections.Counter()
    for row in rows:
        offsets.append(ends[row["part"]])
        ends[row["part"]] += row["bytes"]
        values = {
            "entry": entries[row["part"]],
            "bytes": row["bytes"],
            "image_bytes": 0 if row["image"] is None else 7,
            "captions": len(row["captions"]),
            "caption_hash": row["captions"][0] if row["captions"] else 0,
            "id_marks": 0,
            # Values that differ in one half of the digest alone.
            "id_0": row["id"] % 5,
            "id_1": row["id"] // 5 + 1,
            "image_0": 0 if row["image"] is None else row["image"] // 3 + 1,
            "image_1": 0 if row["image"] is None else row["image"] % 3,
        }
        for name, key in (("place", place_of(row)), ("entry", entry_of(row))):
            values |= dict(zip((f"{name}_0", f"{name}_1"), halves(key), strict=True))
        entries[row["part"]] += 1
        for name, value in values.items():
            numbers[name].append(value)
    return decisions.Rows(
        part=np.array([row["part"] for row in rows], np.int64),
        offset=np.array(offsets, np.uint64),
        numbers={name: np.array(values, str(NUMBERS[name])) for name, values in numbers.items()},
        split=np.array([names.index(row["split"]) for row in rows], np.int64),
        licence=np.zeros(len(rows), np.int64),
        split_names=names,
        licence_names=["CC0"],
    )


def decide(rows: list[dict[str, Any]], **options) -> decisions.Decisions:
    def caption_digests(_: Staging, __: decisions.Rows, chosen: np.ndarray):
        captions = [rows[n]["captions"] for n in chosen]
        owners = np.repeat(chosen, [len(own) for own in captions])
        return np.array([c for own in captions for c in own], np.uint64), owners

    with (
        mock.patch.object(decisions, "read_rows", return_value=table(rows)),
        mock.patch.object(decisions, "caption_digests", caption_digests),
    ):
        staging = mock.Mock(spec=Staging)
        return decisions.decide(staging, 5, IngestOptions(**options))


def joined(rows: list[dict[str, Any]]) -> tuple[list[int], list[list[int]]]:
    """For each row, the example that it is part of, and the captions that it adds to it."""
    places: dict[tuple | None, int] = {}
    by_place = [
        n if place_of(row) is None else places.setdefault(place_of(row), n)
        for n, row in enumerate(rows)
    ]
    entries: dict[tuple, int] = {}
    by_entry = {n: entries.setdefault(entry_of(rows[n]), n) for n in sorted(set(by_place))}
    examples = [by_entry[n] for n in by_place]
    captions: dict[int, list[int]] = {n: [] for n in examples}
    adds = []
    for n, row in zip(examples, rows, strict=True):
        adds.append([caption for caption in row["captions"] if caption not in captions[n]])
        captions[n] += adds[-1]
    return examples, adds


def expected_losses(rows: list[dict[str, Any]], images: bool) -> dict[int, tuple[Reason, int]]:
    """For each row that goes, why, and which row is the first like it."""
    examples, adds = joined(rows)
    pictures: dict[int, int] = {}
    lost = {}
    for number, row in enumerate(rows):
        example = examples[number]
        if example != number and not adds[number]:
            lost[number] = (Reason.DUPLICATE_PAIR, example)
        elif images and row["image"] is not None:
            first = pictures.setdefault(row["image"], example)
            if first != example:
                lost[number] = (Reason.DUPLICATE_IMAGE, first)
    return lost


def expected_split(row: dict[str, Any], captions: list[int]) -> str:
    """With half of all hashes held out; `captions` are those of the example."""
    hash_value = captions[0] if captions else row["image"] // 3 + 1
    name = row["split"] or ("val" if hash_value < 2**31 else "train")
    if row["image"] is None:
        return name + "_texts_only"
    return name if captions else name + "_images_only"


@given(rows=st.lists(ROW, max_size=60), images=st.booleans(), shard_bytes=st.integers(1, 300))
def test_decisions_follow_the_rules(rows, images, shard_bytes):
    rows.sort(key=lambda row: row["part"])
    # One pair on either side, so that chance plays no part.
    for caption in (1, 2**32 - 2):
        rows.append(
            {"part": 4, "id": 31 + caption, "image": 9 + caption, "split": "", "bytes": 9}
            | {"captions": [caption]}
        )
    lost = expected_losses(rows, images)
    examples, adds = joined(rows)
    kept = [n for n, example in enumerate(examples) if n == example and n not in lost]
    members = {n: [m for m in range(len(rows)) if examples[m] == n and m not in lost] for n in kept}
    captions = {n: [caption for m in members[n] for caption in adds[m]] for n in kept}
    of_example = {
        n: [caption for m in range(n, len(rows)) if examples[m] == n for caption in adds[m]]
        for n in set(examples)
    }
    splits = [expected_split(rows[n], of_example[n]) for n in examples]
    decided = decide(
        rows, drop_duplicate_images=images, validation_fraction=0.5, shard_bytes=shard_bytes
    )
    assert _lost(decided, rows, splits) == lost
    assert _members(decided, rows) == _expected_members(rows, splits, kept, shard_bytes)
    assert _joined(decided, rows) == {n: own for n, own in members.items() if len(own) > 1}
    assert decided.joined == len(rows) - len(kept) - len(lost)
    assert sum(facts["captions"] for facts in decided.splits.values()) == sum(
        map(len, captions.values())
    )
    seen: collections.Counter[int] = collections.Counter()
    numbers = {}
    for n in kept:
        seen[rows[n]["id"]] += 1
        numbers[n] = seen[rows[n]["id"]] if seen[rows[n]["id"]] > 1 else 0
    assert _id_numbers(decided, rows) == numbers
    assert decided.renamed == sum(number > 0 for number in numbers.values())


def _places(rows: list[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """Which row is at this place of this part."""
    seen: collections.Counter[int] = collections.Counter()
    places = {}
    for number, row in enumerate(rows):
        places[row["part"], seen[row["part"]]] = number
        seen[row["part"]] += 1
    return places


def _lost(
    decided: decisions.Decisions, rows: list[dict[str, Any]], splits: list[str]
) -> dict[int, tuple[Reason, int]]:
    places, found = _places(rows), decided.duplicates
    lost = {}
    for part in range(5):
        for n in found.of_part(part):
            assert found.part[n] == part
            assert found.entry[n] == found.row[n]
            row = places[part, found.row[n]]
            first = places[found.first_part[n], found.first_row[n]]
            lost[row] = (found.reasons[n], first)
            assert found.splits[n] == splits[row]
    return lost


def _by_offset(rows: list[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """Which row has its bytes there."""
    offsets = table(rows).offset.tolist()
    return {(row["part"], offsets[n]): n for n, row in enumerate(rows)}


def _members(
    decided: decisions.Decisions, rows: list[dict[str, Any]]
) -> dict[tuple[str, int], list[int]]:
    """The rows of every shard, found by where their bytes are."""
    by_offset = _by_offset(rows)
    members = {}
    for shard in decided.shards:
        found = []
        for piece in shard.pieces:
            assert piece.part in shard.parts
            places = zip(piece.offsets.tolist(), piece.lengths.tolist(), strict=True)
            for offset, length in places:
                found.append(by_offset[piece.part, offset])
                assert rows[found[-1]]["bytes"] == length
        members[shard.split, shard.number] = found
    return members


def _joined(decided: decisions.Decisions, rows: list[dict[str, Any]]) -> dict[int, list[int]]:
    """The rows that each example of several is made of."""
    by_offset, found = _by_offset(rows), {}
    for shard in decided.shards:
        for piece in shard.pieces:
            assert shard.parts >= set(piece.others.part.tolist())
            for n, offset in enumerate(piece.offsets.tolist()):
                others = piece.others_of(n)
                if others:
                    own = by_offset[piece.part, offset]
                    found[own] = [own, *(by_offset[part, start] for part, start, _ in others)]
    return found


def _id_numbers(decided: decisions.Decisions, rows: list[dict[str, Any]]) -> dict[int, int]:
    """Of every example, the number behind its id."""
    by_offset = _by_offset(rows)
    return {
        by_offset[piece.part, offset]: number
        for shard in decided.shards
        for piece in shard.pieces
        for offset, number in zip(piece.offsets.tolist(), piece.id_number.tolist(), strict=True)
    }


def _expected_members(
    rows: list[dict[str, Any]], splits: list[str], kept: list[int], shard_bytes: int
) -> dict[tuple[str, int], list[int]]:
    members: dict[tuple[str, int], list[int]] = {}
    shard: collections.Counter[str] = collections.Counter()
    for n in kept:
        name = splits[n]
        now = members.setdefault((name, shard[name]), [])
        if sum(rows[other]["bytes"] for other in now) >= shard_bytes:
            shard[name] += 1
            now = members.setdefault((name, shard[name]), [])
        now.append(n)
    return members


def pairs(*hashes: int) -> list[dict[str, Any]]:
    return [
        {"part": 0, "id": n, "image": n, "captions": [value], "split": "", "bytes": 1}
        for n, value in enumerate(hashes)
    ]


def test_few_captions_still_hold_one_out():
    decided = decide(pairs(2**31, 2**30, 2**30, 2**29 + 1), validation_fraction=1e-6)
    assert {name: facts["pairs"] for name, facts in decided.splits.items()} == {
        "train": 3,
        "val": 1,
    }
    assert decide(pairs(2**30), validation_fraction=0.0).splits.keys() == {"train"}


def test_holding_out_everything_is_refused():
    with pytest.raises(errors.InputError, match="no training examples among 2; give 0"):
        decide(pairs(2**30, 2**30), validation_fraction=0.05)


def test_a_left_out_record_does_not_decide_what_is_held_out():
    rows = pairs(2**31, 2**30)
    rows += [
        row | {"captions": [5]} for row in rows[:1]
    ]  # the lowest hash, but of a second caption
    assert decide(rows, validation_fraction=1e-6).splits["val"]["pairs"] == 1


def test_licences_are_counted():
    rows = pairs(1, 2**31, 2**32 - 1)
    licences = dataclasses.replace(
        table(rows), licence=np.array([0, 1, 1]), licence_names=["", "CC0"]
    )
    with mock.patch.object(decisions, "read_rows", return_value=licences):
        decided = decisions.decide(
            mock.Mock(spec=Staging), 1, IngestOptions(validation_fraction=0.0)
        )
    assert decided.splits["train"]["licences"] == {"": 1, "CC0": 2}


@given(sizes=st.lists(st.integers(1, 50), max_size=40), shard_bytes=st.integers(1, 120))
def test_a_shard_is_closed_once_it_is_full(sizes, shard_bytes):
    cuts = records.cut_into_shards(np.array(sizes, np.uint64), shard_bytes)
    assert [n for first, after in cuts for n in range(first, after)] == list(range(len(sizes)))
    totals = [sum(sizes[first:after]) for first, after in cuts]
    assert all(total >= shard_bytes for total in totals[:-1])
    assert all(
        total - sizes[after - 1] < shard_bytes
        for total, (_, after) in zip(totals, cuts, strict=True)
    )
