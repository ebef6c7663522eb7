"""Examples made one by one: where a record fails, what stands in for it and why.

The same operations as the pipeline's, in the same order, so that an example comes out the same.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from oner_jax.data.host_tensorflow import tf
from oner_jax.data.options import DataOptions
from oner_jax.data.reading import damage
from oner_jax.data.reading.damage import DamagedRecord
from oner_jax.data.reading.decoding import as_strings, decoder, features_of
from oner_jax.data.reading.kinds import Kind
from oner_jax.data.reading.reader import Reader, Varied
from oner_jax.data.records import Record
from oner_jax.data.tokenizer import concept_hash
from oner_jax.errors import InputError

# With half of all records damaged, one in 10^30 examples would not be replaced.
_MAXIMUM_ATTEMPTS = 100

# TensorFlow quotes what it cannot parse, and then fails to make a message of it.
_FAILURES = (tf.errors.OpError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class Mended:
    """Arrays of one row by name, and the damaged records that were tried before."""

    arrays: dict[str, np.ndarray]
    damaged: list[DamagedRecord]


class Mender:
    """Makes single examples of a kind of data. Safe to use from several threads."""

    def __init__(self, kind: Kind, reader: Reader, data: DataOptions):
        self._kind, self._reader, self._data = kind, reader, data
        self._features = features_of(kind, data)
        self._decode = decoder(data.image_size, data.augment)

    def make(self, position: int) -> Mended:
        """The example at a position, or its replacement. Raises InputError if there is none."""
        damaged: list[DamagedRecord] = []
        for example in self._candidates(position):
            try:
                return Mended(self._make_from(position, example), damaged)
            except DamagedRecord as error:
                damaged.append(error)
        raise InputError(
            f"data.{self._kind.key}: {len(damaged)} records in a row cannot be used, the last: "
            f"{damaged[-1]}; ingest the data again"
        )

    def _candidates(self, position: int) -> Iterator[int]:
        example = int(self._reader.examples(np.array([position]))[0])
        yield example
        for attempt in range(1, _MAXIMUM_ATTEMPTS):
            yield self._reader.replacement(example, position, attempt)

    def _make_from(self, position: int, example: int) -> dict[str, np.ndarray]:
        """As the pipeline makes it. Raises DamagedRecord, with the reason."""
        positions, examples = np.array([position]), np.array([example])
        parsed = [self._parsed(int(source)) for (source,) in self._reader.sources(examples)]
        picture, captions = parsed[0], parsed[-1]
        arrays = {"position": positions, "index": examples}
        if self._kind.captions:
            varied = self._varied(positions, picture, captions)
            boxes, mirror = varied.box, varied.mirror
            arrays |= {"text": varied.text, "caption_hash": varied.caption_hash}
            if self._data.reads_concepts and "concept_hash" in self._kind.fields:
                concept = [captions.concept]
                arrays["concept_hash"] = concept_hash(concept, varied.caption_hash)
        else:
            boxes, mirror = self._reader.frame(positions, picture.height, picture.width)
        if self._kind.pictures:
            if not picture.image:
                raise self._damaged(picture, damage.NO_PICTURE, "it has no picture")
            changes = self._reader.changes(positions) if self._data.augment.is_active else ()
            try:
                pixels = self._decode(picture.image, boxes[0], mirror[0], *changes)
            except _FAILURES as error:
                raise self._damaged(picture, damage.UNDECODABLE, error) from error
            arrays["image"] = pixels.numpy()[np.newaxis]
        return arrays

    def _varied(
        self, positions: Int64[np.ndarray, "1"], picture: "_Parsed", captions: "_Parsed"
    ) -> Varied:
        if not len(captions.texts):
            raise self._damaged(captions, damage.NO_CAPTION, "it has no caption")
        ends = np.array([0, len(captions.texts)])
        try:
            return self._reader.vary(positions, captions.texts, ends, picture.height, picture.width)
        except UnicodeDecodeError as error:
            raise self._damaged(captions, damage.UNPARSABLE, error) from error

    def _damaged(self, parsed: "_Parsed", reason: str, detail: object) -> DamagedRecord:
        return self._reader.damaged(parsed.example, parsed.id, reason, detail)

    def _parsed(self, example: int) -> "_Parsed":
        serialised, named = self._reader.read_one(example), self._data.concept_field
        try:
            parsed = tf.io.parse_single_example(serialised, self._features)
        except _FAILURES as error:
            raise self._reader.damaged(
                example, _id_of(serialised), damage.UNPARSABLE, error
            ) from error
        return _Parsed(
            example=example,
            id=_id_of(serialised),
            image=parsed["image"].numpy(),
            height=parsed["height"].numpy()[np.newaxis],
            width=parsed["width"].numpy()[np.newaxis],
            concept=parsed[named].numpy() if named in parsed else b"",
            texts=as_strings(parsed["captions"].numpy().tolist()),
        )


@dataclasses.dataclass(frozen=True)
class _Parsed:
    """A record's features; its sizes as arrays of one, its concept empty where it has none."""

    example: int
    id: str
    image: bytes
    height: Int64[np.ndarray, "1"]
    width: Int64[np.ndarray, "1"]
    concept: bytes
    texts: np.ndarray


def _id_of(serialised: bytes) -> str:
    """The record's name, where it can be made out."""
    try:
        return Record.parse(serialised).id
    except Exception:  # it is damaged, in whatever way
        return ""
