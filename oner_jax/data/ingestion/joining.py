"""Which records are of one image, and so become one example with the captions of all of them.

Tables that have a row for each caption name an image in several rows. As examples of their own
these would be each other's negatives in training, and ties in evaluation.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from oner_jax.data.ingestion.tables import Rows, equal_rows

CaptionDigests = Callable[
    [Int64[np.ndarray, " c"]],
    tuple[UInt64[np.ndarray, " captions"], Int64[np.ndarray, " captions"]],
]
"""Rows, in ascending order -> digests of all their captions, and the row of each."""


@dataclasses.dataclass(frozen=True)
class Joined:
    """Which rows go into an earlier one of the same image.

    `first` is the row that a row goes into, -1 where it stays an example; `adds` says whether it
    brings a caption that no earlier row of the image has. `captions` and `caption_hash` are those
    of the tables, for examples with the captions that they get.
    """

    first: Int64[np.ndarray, " n"]
    adds: Bool[np.ndarray, " n"]
    captions: Int64[np.ndarray, " n"]
    caption_hash: Int64[np.ndarray, " n"]


def joined(rows: Rows, caption_digests: CaptionDigests) -> Joined:
    """Join the rows of every image.

    Rows of an equal path are of one image, then examples of an equal id are, each with equal bytes
    (`part_files.DIGESTS` says when paths and ids count as equal).
    """
    first = equal_rows(rows, "place", np.ones(len(rows), bool)).first
    by_entry = equal_rows(rows, "entry", first < 0).first
    first = np.where(first < 0, by_entry, first)
    # What went into an example that itself goes into an earlier one.
    further = np.where(first >= 0, by_entry[first], -1)
    first = np.where(further >= 0, further, first)
    captions = rows.numbers["captions"].astype(np.int64)
    caption_hash = rows.numbers["caption_hash"].astype(np.int64)
    adds = np.zeros(len(rows), bool)
    members = np.flatnonzero(first >= 0)
    if len(members):
        example = np.where(first >= 0, first, np.arange(len(rows)))
        digests, owners = caption_digests(np.union1d(members, first[members]))
        # In the order of the source, so that of equal captions the first one counts.
        order = np.lexsort((digests, example[owners]))  # stable
        keys = (digests[order], example[owners[order]])
        same = np.all([key[1:] == key[:-1] for key in keys], axis=0)
        new = order[np.concatenate([[True], ~same])] if len(order) else order
        adds[owners[new]] = True
        adds &= first >= 0
        own = np.unique(first[members])
        captions[own] = np.bincount(example[owners[new]], minlength=len(rows))[own]
        # An image alone takes the main caption of the first row that has one.
        giving = np.flatnonzero(adds)
        giving = giving[rows.numbers["captions"][first[giving]] == 0]
        taking, which = np.unique(first[giving], return_index=True)
        caption_hash[taking] = rows.numbers["caption_hash"][giving[which]]
    return Joined(first, adds, captions, caption_hash)


@dataclasses.dataclass(frozen=True)
class Members:
    """Example number e gets the captions of `rows[bounds[e]:bounds[e + 1]]`, in this order."""

    bounds: Int64[np.ndarray, " bounds"]
    rows: Int64[np.ndarray, " rows"]

    def of(self, examples: Int64[np.ndarray, " e"]) -> "Members":
        """Those of some of the examples, in their order."""
        counts = np.diff(self.bounds)[examples]
        bounds = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], counts)
        return Members(bounds, self.rows[np.repeat(self.bounds[examples], counts) + within])


def members_of(first: Int64[np.ndarray, " n"], added: Bool[np.ndarray, " n"]) -> Members:
    """For every row, the rows that were `added` to it, in ascending order."""
    rows = np.flatnonzero(added)
    counts = np.bincount(first[rows], minlength=len(first))
    bounds = np.concatenate([[0], np.cumsum(counts)])
    return Members(bounds, rows[np.argsort(first[rows], kind="stable")])
