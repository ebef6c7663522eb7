"""Records that fail while training: what is said of one, and where the pipeline finds out.

A damaged example is replaced by another one of its split, chosen by (seed, position) alone, so that
batches stay the same on any number of hosts. Each is a `Loss`, counted by reason.
"""

import dataclasses
from typing import Any

from oner_jax.errors import first_line

UNREADABLE = "unreadable"  # ArrayRecord cannot give its bytes
UNPARSABLE = "unparsable"  # the bytes are no record, or its texts no UTF-8
NO_CAPTION = "no_caption"
NO_PICTURE = "no_picture"
UNDECODABLE = "undecodable"  # the picture is none, or not of the size that the record states
REASONS = (UNREADABLE, UNPARSABLE, NO_CAPTION, NO_PICTURE, UNDECODABLE)


class DamagedRecord(Exception):
    """A record cannot be used, for one of `REASONS`. `id` is empty where it cannot be read."""

    def __init__(self, dataset: str, index: int, record_id: str, reason: str, detail: object):
        self.dataset, self.index, self.id, self.reason = dataset, index, record_id, reason
        self.detail = first_line(detail)
        name = record_id or f"number {index}"
        super().__init__(f"dataset {dataset}: record {name}: {reason} ({self.detail})")


@dataclasses.dataclass(frozen=True)
class Loss:
    """An example that was replaced: in which step (from 1) and row of which stream, and why.

    `dataset` and `index` say which record it was, and `id` its name where that could be read.
    """

    step: int
    stream: str
    row: int
    attempt: int
    dataset: str
    index: int
    id: str
    reason: str
    detail: str

    @property
    def place(self) -> tuple[int, str, int, int]:
        """Where it was to be used: no other loss of a run has the same."""
        return self.step, self.stream, self.row, self.attempt

    @classmethod
    def of(cls, error: DamagedRecord, step: int, stream: str, row: int, attempt: int) -> "Loss":
        """The damaged record that was tried there, as the first one (0) or as a replacement."""
        return cls(
            step,
            stream,
            row,
            attempt,
            error.dataset,
            error.index,
            error.id,
            error.reason,
            error.detail,
        )

    def to_json(self) -> dict[str, Any]:
        """As a line of `damaged.jsonl` has it."""
        return dataclasses.asdict(self)
