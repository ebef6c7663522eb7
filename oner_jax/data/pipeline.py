"""Batches for training: pairs, and beside them pictures alone and captions alone.

The batch of a step is a pure function of (datasets, options, seed, step): the order comes from
`order` and `mixture`, and every random choice from a hash of (seed, position). So an iterator may
start at any step, and hosts may split a batch in any number. That holds for what replaces a damaged
record, too.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64

from oner_jax.data.options import DataOptions
from oner_jax.data.reading.damage import Loss
from oner_jax.data.reading.kinds import IMAGE_ONLY, KINDS, PAIRS, TEXT_ONLY
from oner_jax.data.reading.mixture import Mixture, open_mixture, rest_of
from oner_jax.data.reading.reader import Reader
from oner_jax.data.reading.streams import Stream
from oner_jax.data.records import Record
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError

# Rows of global batches by key of the data they come from.
Rows = Mapping[str, Int64[np.ndarray, " _"]]


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The mixtures that a run trains on, opened, by their key of `config.data`."""

    mixtures: Mapping[str, Mixture]

    @classmethod
    def open(cls, data: DataOptions) -> "TrainingData":
        """Raises InputError, naming the key or the dataset, where something cannot be used."""
        pairs = open_mixture(
            "data.train",
            data.train,
            lane=PAIRS.lane,
            pictures=True,
            captions=True,
            fraction=data.paired_fraction,
        )
        if data.shuffle_captions and min(len(part.split) for part in pairs.parts) < 2:
            raise InputError(
                f"dataset {data.train}: shuffling captions takes at least two examples"
            )
        if data.reads_concepts and data.concept_field:
            _check_concepts(data.train, pairs, data.concept_field)
        mixtures = {PAIRS.key: pairs}
        for kind in (IMAGE_ONLY, TEXT_ONLY):
            if not getattr(data, f"{kind.key}_batch_size"):
                continue
            if named := getattr(data, kind.key):
                mixtures[kind.key] = open_mixture(
                    f"data.{kind.key}",
                    named,
                    lane=kind.lane,
                    pictures=kind.pictures,
                    captions=kind.captions,
                )
            else:
                mixtures[kind.key] = rest_of(pairs, data.paired_fraction, kind.lane)
        return cls(mixtures)

    @property
    def pairs(self) -> int:
        """How many pairs an epoch has; with weights, all splits' together."""
        return self.mixtures[PAIRS.key].number

    def description(self) -> dict[str, Any]:
        """What identifies the data: `records` (pairs), and each split by key of the config."""
        splits = {key: mixture.description() for key, mixture in self.mixtures.items()}
        return {"records": self.pairs, **splits}


def _check_concepts(name: str, mixture: Mixture, field: str) -> None:
    """Raise InputError where no split's first record names its concept."""
    found: set[str] = set()
    for part in mixture.parts:
        # A damaged record is replaced and reported where it is read for training.
        with contextlib.suppress(Exception):
            (serialised,) = part.split.read(part.indices(np.array([0])))
            found |= {"label", *Record.parse(serialised).metadata}
    if found and field not in found:
        raise InputError(
            f"data.concept_field={field}: records of {name} have no such field (they have "
            f'{", ".join(sorted(found))}); name one of these, or give "" to compare captions'
        )


class TrainingBatches(Iterator[dict[str, np.ndarray]]):
    """Batches of `training_batches`, and what was replaced in them."""

    def __init__(self, streams: list[Stream]):
        self._streams = streams

    def __next__(self) -> dict[str, np.ndarray]:
        return {name: array for stream in self._streams for name, array in next(stream).items()}

    def take_losses(self) -> list[Loss]:
        """The examples that were replaced in batches taken since the last call."""
        losses = [loss for stream in self._streams for loss in stream.losses]
        for stream in self._streams:
            stream.losses.clear()
        return losses


def training_batches(
    data: DataOptions,
    *,
    global_batch_size: int,
    seed: int,
    first_step: int,
    rows: Rows | None = None,
    opened: TrainingData | None = None,
) -> TrainingBatches:
    """The global batches of steps `first_step`, `first_step` + 1, ... for ever: the given rows.

    `rows` are, by "train", "image_only" and "text_only", the numbers of rows in a global batch that
    this host needs; all by default. `opened` are the data of these options, opened if not given.

    Each batch: image uint8 [b, size, size, 3], text int32 [b, text_tokens] (0 is padding),
    caption_hash uint32 [b], index int64 [b] (of the example in its split; in a mixture the sizes of
    the splits before it are added) and, where the options ask for them, concept_hash uint32 [b],
    image_only uint8 [e, size, size, 3] and text_only int32 [t, text_tokens].

    Raises InputError if a dataset or the tokenizer cannot be opened, and later if so many records
    are damaged that an example cannot be replaced.
    """
    opened = TrainingData.open(data) if opened is None else opened
    tokenizer = Tokenizer.load(data.tokenizer)
    sizes = {
        PAIRS.key: global_batch_size,
        IMAGE_ONLY.key: data.image_only_batch_size,
        TEXT_ONLY.key: data.text_only_batch_size,
    }
    streams = [
        Stream(
            kind,
            # Captions are shuffled among pairs alone.
            Reader(
                opened.mixtures[kind.key],
                tokenizer,
                data if kind is PAIRS else dataclasses.replace(data, shuffle_captions=False),
                seed,
            ),
            data,
            batch_size=sizes[kind.key],
            rows=np.arange(sizes[kind.key]) if rows is None else rows[kind.key],
            first_step=first_step,
        )
        for kind in KINDS
        if kind.key in opened.mixtures
    ]
    return TrainingBatches(streams)
