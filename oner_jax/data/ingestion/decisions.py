"""What no part can know alone: which records double others, which are held out, which shard each
goes to. A function of the tables of all parts, in NumPy: about 150 bytes of memory a record.

Records of one image become one example (`joining`). An example with the id of an earlier one gets
an id of its own.

Examples without a split of their own go to `train`, or to `val` if the hash of their main caption
(of an image without captions or in a class: of its file) is among the lowest `validation_fraction`
of all hashes, so that equal captions are on one side. Records that are no pairs go to a split of
their own beside it.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from oner_jax.data import records
from oner_jax.data.ingestion import part_files
from oner_jax.data.ingestion.joining import Members, joined, members_of
from oner_jax.data.ingestion.options import IngestOptions
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.ingestion.tables import Rows, caption_digests, equal_rows, read_rows
from oner_jax.data.sources import Reason
from oner_jax.errors import InputError

TRAIN = "train"
VALIDATION = "val"
# What is appended to the name of a split for its records that are no pairs.
IMAGES_ONLY = "_images_only"
TEXTS_ONLY = "_texts_only"

_HASHES = 2**32


@dataclasses.dataclass(frozen=True)
class Place:
    """Where records are: in which parts, and where in the files of these."""

    part: Int64[np.ndarray, " n"]
    offset: UInt64[np.ndarray, " n"]
    length: UInt64[np.ndarray, " n"]

    @classmethod
    def of(cls, rows: Rows, chosen: Int64[np.ndarray, " n"]) -> "Place":
        """Of these rows."""
        return cls(rows.part[chosen], rows.offset[chosen], rows.numbers["bytes"][chosen])


@dataclasses.dataclass(frozen=True)
class Piece:
    """Records of one part that follow one another in a shard, and how examples are made of them.

    Example n gets the captions of the records `others[bounds[n]:bounds[n + 1]]`, and where
    `id_number[n]` is above 0, `id_mark` and this number behind its id.
    """

    part: int
    offsets: UInt64[np.ndarray, " n"]
    lengths: UInt64[np.ndarray, " n"]
    bounds: Int64[np.ndarray, " bounds"]
    others: Place
    id_number: Int64[np.ndarray, " n"]
    id_mark: str

    def others_of(self, n: int) -> list[tuple[int, int, int]]:
        """Part, offset and length of the records whose captions example n gets."""
        first, last = self.bounds[n : n + 2].tolist()
        columns = (self.others.part, self.others.offset, self.others.length)
        return list(zip(*(column[first:last].tolist() for column in columns), strict=True))


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
        """The parts that they are made of."""
        others = [np.unique(piece.others.part).tolist() for piece in self.pieces]
        return {piece.part for piece in self.pieces}.union(*others)


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
    """All shards, what the manifests say of their records by split, and what is left out.

    `joined` is how many records gave their captions to another of the same image, `renamed` how
    many examples got an id of their own.
    """

    shards: list[Shard]
    splits: dict[str, dict[str, Any]]
    duplicates: Duplicates
    joined: int
    renamed: int


@dataclasses.dataclass(frozen=True)
class _Examples:
    """How the rows that are kept become examples."""

    rows: Rows
    members: Members
    id_number: Int64[np.ndarray, " n"]
    id_mark: str


def decide(staging: Staging, number_of_parts: int, options: IngestOptions) -> Decisions:
    """The same for the same parts. InputError if no training examples would be left."""
    rows = read_rows(staging, number_of_parts)
    images = joined(rows, functools.partial(caption_digests, staging, rows))
    changed = {"captions": images.captions, "caption_hash": images.caption_hash}
    rows = dataclasses.replace(rows, numbers=rows.numbers | changed)
    first, added, kept = images.first, images.adds, images.first < 0
    like = {Reason.DUPLICATE_PAIR: np.where(added, -1, first)}
    if options.drop_duplicate_images:
        again = equal_rows(rows, "image", kept & (rows.numbers["image_bytes"] > 0)).first
        kept = kept & (again < 0)
        # What was to go into an example goes with it.
        of_example = np.where(added, again[first], -1)
        like[Reason.DUPLICATE_IMAGE] = np.maximum(again, of_example)
        added = added & (of_example < 0)
    names, splits = assigned_splits(rows, kept, options.validation_fraction)
    splits = np.where(first < 0, splits, splits[first])  # with the example it goes into
    ids = equal_rows(rows, "id", kept)
    mark = part_files.ID_MARK * (1 + int(rows.numbers["id_marks"].max(initial=0)))
    id_number = np.where(ids.number > 0, ids.number + 1, 0)
    examples = _Examples(rows, members_of(first, added), id_number, mark)
    shards: list[Shard] = []
    facts = {}
    for name in sorted(names):
        members = np.flatnonzero(kept & (splits == names.index(name)))
        if len(members):
            facts[name] = _facts(rows, members)
            shards += _shards(examples, members, name, options.shard_bytes)
    duplicates = _duplicates(rows, like, names, splits)
    return Decisions(shards, facts, duplicates, int(added.sum()), int((id_number > 0).sum()))


def _duplicates(
    rows: Rows,
    like: Mapping[Reason, Int64[np.ndarray, " n"]],
    names: list[str],
    splits: Int64[np.ndarray, " n"],
) -> Duplicates:
    """From the first record that each is like, by reason; -1 where there is none."""
    first = np.max(list(like.values()), axis=0)  # no record has two reasons
    left_out = np.flatnonzero(first >= 0)
    first = first[left_out]
    return Duplicates(
        part=rows.part[left_out],
        row=rows.row_in_part(left_out),
        entry=rows.numbers["entry"][left_out].astype(np.int64),
        first_part=rows.part[first],
        first_row=rows.row_in_part(first),
        reasons=[next(r for r, rows_like in like.items() if rows_like[n] >= 0) for n in left_out],
        splits=[names[code] for code in splits[left_out]],
    )


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
        "licences": dict(sorted(by_licence.items())),
    }


def _shards(
    examples: _Examples, members: Int64[np.ndarray, " m"], split: str, shard_bytes: int
) -> list[Shard]:
    rows = examples.rows
    lengths = rows.numbers["bytes"]
    shards = []
    cuts = records.cut_into_shards(lengths[members], shard_bytes)
    for number, (first, after) in enumerate(cuts):
        chosen = members[first:after]
        borders = np.flatnonzero(np.diff(rows.part[chosen])) + 1
        pieces = [_piece(examples, these) for these in np.split(chosen, borders)]
        shards.append(Shard(split, number, tuple(pieces)))
    return shards


def _piece(examples: _Examples, chosen: Int64[np.ndarray, " n"]) -> Piece:
    rows, members = examples.rows, examples.members.of(chosen)
    return Piece(
        part=int(rows.part[chosen[0]]),
        offsets=rows.offset[chosen],
        lengths=rows.numbers["bytes"][chosen],
        bounds=members.bounds,
        others=Place.of(rows, members.rows),
        id_number=examples.id_number[chosen],
        id_mark=examples.id_mark,
    )
