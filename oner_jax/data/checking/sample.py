"""A sample of a split's records, each read and decoded as training would."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int32

from oner_jax.data import images, order
from oner_jax.data.progress import Progress
from oner_jax.data.records import Record, Split
from oner_jax.data.stopwatch import cores

_NAMED = 10


@dataclasses.dataclass(frozen=True)
class Sample:
    """The records that can be used, in their order in the split, and what is wrong with others."""

    split: Split
    records: list[Record]
    faults: list[str]

    @classmethod
    def take(cls, split: Split, number: int) -> "Sample":
        """So many records, or all, drawn at random: the same each time."""
        number = min(number, len(split))
        drawn = order.example_indices(np.arange(number), len(split), seed=0)[0]
        usable, faults = [], []
        progress = Progress(f"records of {split.name}", number)
        with ThreadPoolExecutor(cores()) as pool:
            for found in pool.map(lambda index: _examine(split, index), np.sort(drawn).tolist()):
                if isinstance(found, Record):
                    usable.append(found)
                else:
                    faults.append(found)
                progress.advance()
        progress.finish()
        return cls(split, usable, faults)

    @property
    def captions(self) -> list[str]:
        """Of all usable records."""
        return [caption for record in self.records for caption in record.captions]

    def fault_lines(self) -> list[str]:
        """What cannot be used, by name; of many, the first."""
        total = len(self.records) + len(self.faults)
        if not self.faults:
            return [f"{self.split.name}: all of {total:,} sampled records decode"]
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


def _examine(split: Split, index: int) -> Record | str:
    """The record; if it cannot be used its name and why."""
    name = f"number {index}"
    try:
        record = Record.parse(split.read([index])[0])
        name = record.id
        images.check_decodes(record.image, record.height, record.width)
    except Exception as error:  # array_record raises bare exceptions of several kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"record {name}: {reason}"
    return record
