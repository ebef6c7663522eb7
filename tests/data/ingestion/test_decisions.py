"""Decisions about records of all parts, against the same rules in plain Python."""

import collections
import dataclasses
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

ROW = st.fixed_dictionaries(
    {
        "part": st.integers(0, 4),
        "id": st.integers(0, 30),
        "image": st.integers(0, 8) | st.none(),
        # Half of all captions are below a threshold of 0.5.
        "caption_hash": st.integers(1, 2**32 - 1) | st.none(),
        "split": st.sampled_from(["", "", "test", "train"]),
        "bytes": st.integers(1, 100),
    }
).filter(lambda row: row["image"] is not None or row["caption_hash"] is not None)


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
            "captions": 0 if row["caption_hash"] is None else 2,
            "caption_hash": row["caption_hash"] or 0,
            # Values that differ in one half of the digest alone.
            "id_0": row["id"] % 5,
            "id_1": row["id"] // 5,
            "image_0": (row["image"] or 0) // 3,
            "image_1": (row["image"] or 0) % 3,
        }
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
    with mock.patch.object(decisions, "read_rows", return_value=table(rows)):
        staging = mock.Mock(spec=Staging)
        return decisions.decide(staging, 5, IngestOptions(**options))


def expected_losses(rows: list[dict[str, Any]], images: bool) -> dict[int, tuple[Reason, int]]:
    """For each row that goes, why, and which row is the first like it."""
    ids: dict[int, int] = {}
    pictures: dict[int, int] = {}
    lost = {}
    for number, row in enumerate(rows):
        if row["id"] in ids:
            lost[number] = (Reason.DUPLICATE_ID, ids[row["id"]])
            continue
        ids[row["id"]] = number
        if images and row["image"] is not None:
            if row["image"] in pictures:
                lost[number] = (Reason.DUPLICATE_IMAGE, pictures[row["image"]])
            else:
                pictures[row["image"]] = number
    return lost


def expected_split(row: dict[str, Any]) -> str:
    """With half of all hashes held out."""
    captioned = row["caption_hash"] is not None
    hash_value = row["caption_hash"] if captioned else (row["image"] // 3)
    name = row["split"] or ("val" if hash_value < 2**31 else "train")
    if row["image"] is None:
        return name + "_texts_only"
    return name if captioned else name + "_images_only"


def is_free_pair(row: dict[str, Any]) -> bool:
    return not row["split"] and None not in (row["image"], row["caption_hash"])


@given(rows=st.lists(ROW, max_size=60), images=st.booleans(), shard_bytes=st.integers(1, 300))
def test_decisions_follow_the_rules(rows, images, shard_bytes):
    rows.sort(key=lambda row: row["part"])
    lost = expected_losses(rows, images)
    kept = [n for n in range(len(rows)) if n not in lost]
    # One pair on either side, so that chance plays no part.
    for hash_value in (1, 2**32 - 1):
        rows.append(
            {"part": 4, "id": 31 + hash_value, "image": 9 + hash_value, "split": "", "bytes": 9}
            | {"caption_hash": hash_value}
        )
        kept.append(len(rows) - 1)
    decided = decide(
        rows, drop_duplicate_images=images, validation_fraction=0.5, shard_bytes=shard_bytes
    )
    assert _lost(decided, rows) == lost
    assert _members(decided, rows) == _expected_members(rows, kept, shard_bytes)
    assert sum(facts["captions"] for facts in decided.splits.values()) == 2 * sum(
        rows[n]["caption_hash"] is not None for n in kept
    )


def _places(rows: list[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """Which row is at this place of this part."""
    seen: collections.Counter[int] = collections.Counter()
    places = {}
    for number, row in enumerate(rows):
        places[row["part"], seen[row["part"]]] = number
        seen[row["part"]] += 1
    return places


def _lost(
    decided: decisions.Decisions, rows: list[dict[str, Any]]
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
            assert found.splits[n] == expected_split(rows[row])
    return lost


def _members(
    decided: decisions.Decisions, rows: list[dict[str, Any]]
) -> dict[tuple[str, int], list[int]]:
    """The rows of every shard, found by where their bytes are."""
    offsets = table(rows).offset.tolist()
    by_offset = {(row["part"], offsets[n]): n for n, row in enumerate(rows)}
    members = {}
    for shard in decided.shards:
        found = []
        for piece in shard.pieces:
            places = zip(piece.offsets.tolist(), piece.lengths.tolist(), strict=True)
            for offset, length in places:
                found.append(by_offset[piece.part, offset])
                assert rows[found[-1]]["bytes"] == length
        members[shard.split, shard.number] = found
    return members


def _expected_members(
    rows: list[dict[str, Any]], kept: list[int], shard_bytes: int
) -> dict[tuple[str, int], list[int]]:
    members: dict[tuple[str, int], list[int]] = {}
    shard: collections.Counter[str] = collections.Counter()
    for n in kept:
        name = expected_split(rows[n])
        now = members.setdefault((name, shard[name]), [])
        if sum(rows[other]["bytes"] for other in now) >= shard_bytes:
            shard[name] += 1
            now = members.setdefault((name, shard[name]), [])
        now.append(n)
    return members


def pairs(*hashes: int) -> list[dict[str, Any]]:
    return [
        {"part": 0, "id": n, "image": n, "caption_hash": value, "split": "", "bytes": 1}
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
    rows += [row | {"caption_hash": 5} for row in rows[:1]]  # of the lowest hash, but a duplicate
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
