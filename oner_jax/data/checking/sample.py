"""A sample of a split's records, each read and decoded as it will be."""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int32

from oner_jax.data import images
from oner_jax.data.cores import available_cores
from oner_jax.data.progress import Progress
from oner_jax.data.reading import order
from oner_jax.data.reading.kinds import Kind
from oner_jax.data.records import Record, Split
from oner_jax.errors import first_line

_NAMED = 10


@dataclasses.dataclass(frozen=True)
class Sample:
    """The records that can be used, in their order in the split, and what is wrong with others.

    `kind` is what training reads of them; None for evaluation, which does without captions.
    """

    split: Split
    kind: Kind | None
    records: list[Record]
    faults: list[str]

    @classmethod
    def take(cls, split: Split, number: int, kind: Kind | None) -> "Sample":
        """So many records, or all, drawn at random: the same each time."""
        number = min(number, len(split))
        drawn = order.example_indices(np.arange(number), len(split), seed=0)[0]
        usable, faults = [], []
        progress = Progress(f"records of {split.name}", number)
        with ThreadPoolExecutor(available_cores()) as pool:
            examine = functools.partial(_examine, split, kind)
            for found in pool.map(examine, np.sort(drawn).tolist()):
                if isinstance(found, Record):
                    usable.append(found)
                else:
                    faults.append(found)
                progress.advance()
        progress.finish()
        return cls(split, kind, usable, faults)

    @property
    def captions(self) -> list[str]:
        """Of all usable records; none where captions are not read."""
        if self.kind is not None and not self.kind.captions:
            return []
        return [caption for record in self.records for caption in record.captions]

    def fault_lines(self) -> list[str]:
        """What cannot be used, by name; of many, the first."""
        total = len(self.records) + len(self.faults)
        if not self.faults:
            decoded = self.kind is None or self.kind.pictures
            can = "decode" if decoded else "can be read"
            return [f"{self.split.name}: all of {total:,} sampled records {can}"]
        lines = [
            f"{self.split.name}: {len(self.faults):,} of {total:,} sampled records cannot be used"
        ]
        lines += [f"  {fault}" for fault in self.faults[:_NAMED]]
        if len(self.faults) > _NAMED:
            lines.append(f"  and {len(self.faults) - _NAMED:,} more")
        return lines


def length_line(name: str, lengths: Int32[np.ndarray, " captions"], text_tokens: int) -> str:
    """How long captions are, and how many the model's input cuts off."""
    middle, long = np.percentile(lengths, [50, 95])
    return (
        f"{name}: captions have {middle:.0f} tokens (median), 95% at most {long:.0f}, the longest "
        f"{lengths.max()}; {(lengths > text_tokens).mean():.2%} are cut at "
        f"model.text_tokens={text_tokens}"
    )


def _examine(split: Split, kind: Kind | None, index: int) -> Record | str:
    """The record; if it cannot be used its name and why."""
    name = f"number {index}"
    try:
        record = Record.parse(split.read([index])[0])
        name = record.id
        if kind is not None and kind.captions and not record.captions:
            return f"record {name}: it has no caption"
        if kind is None or kind.pictures:
            if not record.image:
                return f"record {name}: it has no picture"
            images.check_decodes(record.image, record.height, record.width)
    except Exception as error:  # array_record raises bare exceptions of several kinds
        return f"record {name}: {first_line(error)}"
    return record
