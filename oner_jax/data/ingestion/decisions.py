"""What no part can know alone: which records double others, which are held out, which shard each
goes to. A function of the tables of all parts, in NumPy: about 100 bytes of memory a record.

Examples without a split of their own go to `train`, or to `val` if the hash of their main caption
(an image alone: of its file) is among the lowest `validation_fraction` of all hashes, so that equal
captions are on one side. Records that are no pairs go to a split of their own beside it.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from oner_jax.data import records
from oner_jax.data.ingestion import part_files
from oner_jax.data.ingestion.options import IngestOptions
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.progress import Progress
from oner_jax.data.sources import Reason
from oner_jax.errors import InputError

TRAIN = "train"
VALIDATION = "val"
# What is appended to the name of a split for its records that are no pairs.
IMAGES_ONLY = "_images_only"
TEXTS_ONLY = "_texts_only"

_HASHES = 2**32
_READERS = 16  # threads: on remote storage, many small files take waiting more than work


@dataclasses.dataclass(frozen=True)
class Rows:
    """The tables of all parts as columns: `numbers` by name, texts as codes into their values."""

    part: Int64[np.ndarray, " n"]
    offset: UInt64[np.ndarray, " n"]  # in the part's file of records
    numbers: dict[str, np.ndarray]
    split: Int64[np.ndarray, " n"]
    licence: Int64[np.ndarray, " n"]
    split_names: list[str]
    licence_names: list[str]

    def __len__(self) -> int:
        return len(self.part)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Records of one part, by where they are in its file."""

    part: int
    offsets: UInt64[np.ndarray, " n"]
    lengths: UInt64[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Shard:
    """Shard `number` of a split, and what it is made of, in order."""

    split: str
    number: int
    pieces: tuple[Piece, ...]

    @property
    def examples(self) -> int:
        """How many records it has."""
        return sum(len(piece.lengths) for piece in self.pieces)

    @property
    def parts(self) -> set[int]:
        """The parts that they are from."""
        return {piece.part for piece in self.pieces}


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Records that are left out because an earlier one is like them, in the order of the source.

    A record is named by its part and its row in that part's table.
    """

    part: Int64[np.ndarray, " d"]
    row: Int64[np.ndarray, " d"]
    entry: Int64[np.ndarray, " d"]
    first_part: Int64[np.ndarray, " d"]
    first_row: Int64[np.ndarray, " d"]
    reasons: list[Reason]
    splits: list[str]

    def of_part(self, number: int) -> range:
        """Which of them are in this part."""
        first, after = np.searchsorted(self.part, (number, number + 1))
        return range(first, after)


@dataclasses.dataclass(frozen=True)
class Decisions:
    """All shards, what the manifests say of their records by split, and what is left out."""

    shards: list[Shard]
    splits: dict[str, dict[str, Any]]
    duplicates: Duplicates


def decide(staging: Staging, number_of_parts: int, options: IngestOptions) -> Decisions:
    """The same for the same parts. InputError if no training examples would be left."""
    rows = read_rows(staging, number_of_parts)
    like = {Reason.DUPLICATE_ID: first_equal(rows, "id", np.ones(len(rows), bool))}
    kept = like[Reason.DUPLICATE_ID] < 0
    if options.drop_duplicate_images:
        with_image = kept & (rows.numbers["image_bytes"] > 0)
        like[Reason.DUPLICATE_IMAGE] = first_equal(rows, "image", with_image)
        kept = kept & (like[Reason.DUPLICATE_IMAGE] < 0)
    names, splits = assigned_splits(rows, kept, options.validation_fraction)
    shards: list[Shard] = []
    facts = {}
    for name in sorted(names):
        members = np.flatnonzero(kept & (splits == names.index(name)))
        if len(members):
            facts[name] = _facts(rows, members)
            shards += _shards(rows, members, name, options.shard_bytes)
    return Decisions(
        shards, facts, _duplicates(rows, like, [names[code] for code in splits[~kept]])
    )


def _duplicates(
    rows: Rows, like: Mapping[Reason, Int64[np.ndarray, " n"]], splits: list[str]
) -> Duplicates:
    """From the first record that each is like, by reason; -1 where there is none."""
    first = np.max(list(like.values()), axis=0)  # no record has two reasons
    left_out = np.flatnonzero(first >= 0)
    first = first[left_out]

    def row_in_part(row: Int64[np.ndarray, " d"]) -> Int64[np.ndarray, " d"]:
        return row - np.searchsorted(rows.part, rows.part[row])

    return Duplicates(
        part=rows.part[left_out],
        row=row_in_part(left_out),
        entry=rows.numbers["entry"][left_out].astype(np.int64),
        first_part=rows.part[first],
        first_row=row_in_part(first),
        reasons=[next(r for r, rows_like in like.items() if rows_like[n] >= 0) for n in left_out],
        splits=splits,
    )


def read_rows(staging: Staging, number_of_parts: int) -> Rows:
    """The tables of all parts, in order."""
    columns = [*part_files.NUMBERS, "split", "licence"]
    codes: dict[str, dict[str, int]] = {"split": {}, "licence": {}}
    collected = collections.defaultdict(list)
    progress = Progress("decide", number_of_parts)
    read = functools.partial(part_files.read_rows, staging, columns=columns)
    with ThreadPoolExecutor(_READERS) as readers:
        for number, table in enumerate(readers.map(read, range(number_of_parts))):
            for name in part_files.NUMBERS:
                collected[name].append(table[name].to_numpy())
            for name, known in codes.items():
                values = [known.setdefault(v, len(known)) for v in table[name].to_pylist()]
                collected[name].append(np.array(values, np.int64))
            ends = np.cumsum(collected["bytes"][-1], dtype=np.uint64)
            collected["offset"].append(ends - collected["bytes"][-1])
            collected["part"].append(np.full(len(table), number, np.int64))
            progress.advance()
    joined = {name: np.concatenate(arrays) for name, arrays in collected.items()}
    return Rows(
        part=joined["part"],
        offset=joined["offset"],
        numbers={name: joined[name] for name in part_files.NUMBERS},
        split=joined["split"],
        licence=joined["licence"],
        split_names=list(codes["split"]),
        licence_names=list(codes["licence"]),
    )


def first_equal(
    rows: Rows, digest: str, candidates: Bool[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """For each candidate that is like an earlier one, the first of them; -1 for all others."""
    places = np.flatnonzero(candidates)
    keys = [rows.numbers[f"{digest}_{half}"][places] for half in (0, 1)]
    order = np.lexsort(keys)  # stable: equal ones stay in the order of the source
    same = np.zeros(len(order), bool)  # as the one before
    same[1:] = np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0)
    beginnings = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    first = np.full(len(rows), -1, np.int64)
    first[places[order]] = np.where(same, places[order[beginnings]], -1)
    return first


def assigned_splits(
    rows: Rows, kept: Bool[np.ndarray, " n"], validation_fraction: float
) -> tuple[list[str], Int64[np.ndarray, " n"]]:
    """Names of splits, and for every row which of them it belongs to.

    InputError if holding out the lowest hash alone, or the fraction, would leave nothing to train
    on: with few captions chance may otherwise hold out nothing.
    """
    pairs = (rows.numbers["captions"] > 0) & (rows.numbers["image_bytes"] > 0)
    free = rows.split == (rows.split_names.index("") if "" in rows.split_names else -1)
    hashes = np.where(
        rows.numbers["captions"] > 0,
        rows.numbers["caption_hash"].astype(np.uint64),
        rows.numbers["image_0"] % _HASHES,
    )
    held_out = free & (hashes < _threshold(hashes[free & kept & pairs], validation_fraction))
    names = [*rows.split_names, TRAIN, VALIDATION]
    base = np.where(free, np.where(held_out, len(names) - 1, len(names) - 2), rows.split)
    kinds = ["", IMAGES_ONLY, TEXTS_ONLY]
    kind = np.where(pairs, 0, np.where(rows.numbers["captions"] > 0, 2, 1))
    full_names = [name + suffix for name in names for suffix in kinds]
    distinct = list(dict.fromkeys(full_names))  # a source may name splits like ours
    code = np.array([distinct.index(name) for name in full_names])
    return distinct, code[base * len(kinds) + kind]


def _threshold(hashes: UInt64[np.ndarray, " pairs"], validation_fraction: float) -> int:
    """Pairs with a hash below it are held out."""
    if validation_fraction == 0:
        return 0
    threshold = round(validation_fraction * _HASHES)
    if not len(hashes):
        return threshold
    threshold = max(threshold, int(hashes.min()) + 1)
    if hashes.max() < threshold:
        raise InputError(
            f"--validation_fraction={validation_fraction}: holding out equal captions together "
            f"leaves no training examples among {len(hashes)}; give 0, or more different captions"
        )
    return threshold


def _facts(rows: Rows, members: Int64[np.ndarray, " m"]) -> dict[str, Any]:
    """What the manifest says of a split's records."""
    captions = rows.numbers["captions"][members]
    image_bytes = rows.numbers["image_bytes"][members]
    licences, counts = np.unique(rows.licence[members], return_counts=True)
    by_licence = {
        rows.licence_names[code]: int(n) for code, n in zip(licences, counts, strict=True)
    }
    return {
        "pairs": int(((captions > 0) & (image_bytes > 0)).sum()),
        "images_only": int((captions == 0).sum()),
        "texts_only": int((image_bytes == 0).sum()),
        "captions": int(captions.sum()),
        "image_bytes": int(image_bytes.sum()),
        "record_bytes": int(rows.numbers["bytes"][members].sum()),
        "licences": dict(sorted(by_licence.items())),
    }


def _shards(
    rows: Rows, members: Int64[np.ndarray, " m"], split: str, shard_bytes: int
) -> list[Shard]:
    lengths = rows.numbers["bytes"]
    shards = []
    cuts = records.cut_into_shards(lengths[members], shard_bytes)
    for number, (first, after) in enumerate(cuts):
        chosen = members[first:after]
        borders = np.flatnonzero(np.diff(rows.part[chosen])) + 1
        pieces = [
            Piece(int(rows.part[these[0]]), rows.offset[these], lengths[these])
            for these in np.split(chosen, borders)
        ]
        shards.append(Shard(split, number, tuple(pieces)))
    return shards
