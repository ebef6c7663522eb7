"""The tables of all converted parts as one: columns in NumPy, and which rows in them are equal."""

import collections
import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from oner_jax.data.ingestion import part_files
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.progress import Progress

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

    def row_in_part(self, rows: Int64[np.ndarray, " r"]) -> Int64[np.ndarray, " r"]:
        """Where these rows are in the table of their part."""
        return rows - np.searchsorted(self.part, self.part[rows])


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


def caption_digests(
    staging: Staging, rows: Rows, chosen: Int64[np.ndarray, " c"]
) -> tuple[UInt64[np.ndarray, " captions"], Int64[np.ndarray, " captions"]]:
    """The digests of all captions of the chosen rows (in ascending order), and whose each is."""
    digests, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for part in np.unique(rows.part[chosen]).tolist():
        own = chosen[rows.part[chosen] == part]
        found, counts = part_files.read_caption_digests(staging, part, rows.row_in_part(own))
        digests.append(found)
        owners.append(np.repeat(own, counts))
    return np.concatenate(digests), np.concatenate(owners)


@dataclasses.dataclass(frozen=True)
class Equal:
    """For each row `first` is the first one that it is equal to, -1 where it is the first itself;
    `number` is how many equal ones are before it.
    """

    first: Int64[np.ndarray, " n"]
    number: Int64[np.ndarray, " n"]


def equal_rows(rows: Rows, digest: str, candidates: Bool[np.ndarray, " n"]) -> Equal:
    """Which of the candidates have an equal digest of this name; a digest of 0 equals none."""
    halves = [rows.numbers[f"{digest}_{half}"] for half in (0, 1)]
    places = np.flatnonzero(candidates & ((halves[0] | halves[1]) > 0))
    keys = [half[places] for half in halves]
    order = np.lexsort(keys)  # stable: equal ones stay in the order of the source
    same = np.zeros(len(order), bool)  # as the one before
    same[1:] = np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0)
    beginnings = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    first = np.full(len(rows), -1, np.int64)
    first[places[order]] = np.where(same, places[order[beginnings]], -1)
    number = np.zeros(len(rows), np.int64)
    number[places[order]] = np.arange(len(order)) - beginnings
    return Equal(first, number)
