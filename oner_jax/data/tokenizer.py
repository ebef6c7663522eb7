"""Captions to token ids: SentencePiece unigram pieces, and hashes that tell equal captions.

Normalisation is SentencePiece's `nmt_nfkc_cf`: Unicode NFKC, case folding, and white space
collapsed; a tokenizer may instead be trained to keep case (`nmt_nfkc`), and then carries that with
it. Piece `▁x` begins a word, any other piece continues one. Characters outside the vocabulary fall
back to their UTF-8 bytes, so every script can be encoded. (Our choice: the paper does not name its
tokenizer.)

Ids: 0 `<pad>`, 1 `<unk>`, 2 `<mask>`, then 256 bytes, then pieces. The model adds no [CLS] or end
token here: [CLS] is a learned vector of the encoder.

Train a tokenizer on the captions of one split:

    python -m oner_jax.data.tokenizer --data=embedded:train --vocabulary_size=4096 --output=F.model

Large splits are sampled: a million captions train 32,000 ids in half a minute and 2 GB. For Chinese
or Japanese, `--character_coverage=0.9995` leaves the rarest characters to their bytes.
"""

import hashlib
import io
import itertools
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from absl import flags
from jaxtyping import Bool, Int32, UInt32

from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.required_flags import required
from oner_jax.errors import InputError
from oner_jax.files import Access, read_bytes, write_whole

EMBEDDED = "embedded"
EMBEDDED_MODEL = Path(__file__).parent / "embedded" / "tokenizer.model"

PAD_ID = 0
UNKNOWN_ID = 1
MASK_ID = 2
MASK_PIECE = "<mask>"
WORD_START = "▁"
JOINING_WORD = "and"

NORMALIZATIONS = ("nmt_nfkc_cf", "nmt_nfkc")  # folding case, keeping it
MAXIMUM_SENTENCES = 1_000_000


class Tokenizer:
    """A trained SentencePiece model with this project's special ids. Pickled by its path.

    `model` is the file's content.
    """

    def __init__(self, path: str, model: bytes):
        self.path = path
        self.model = model
        self.content_hash = hashlib.sha256(model).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise InputError(
                f"tokenizer {path}: no SentencePiece model; train one with "
                "python -m oner_jax.data.tokenizer"
            ) from error
        special = [self._processor.pad_id(), self._processor.unk_id()]
        special.append(self._processor.piece_to_id(MASK_PIECE))
        if special != [PAD_ID, UNKNOWN_ID, MASK_ID]:
            raise InputError(
                f"tokenizer {path}: its <pad>, <unk>, <mask> ids are {special}, not [0, 1, 2]; "
                "train one with python -m oner_jax.data.tokenizer"
            )
        pieces = [self._processor.id_to_piece(i) for i in range(self.vocabulary_size)]
        self.word_start: Bool[np.ndarray, " vocabulary"] = np.array(
            [piece.startswith(WORD_START) for piece in pieces]
        )
        self.is_byte: Bool[np.ndarray, " vocabulary"] = np.array(
            [self._processor.is_byte(i) for i in range(self.vocabulary_size)]
        )

    @classmethod
    def load(cls, path: str) -> "Tokenizer":
        """Reads a tokenizer model; "embedded" is the one that comes with the package."""
        try:
            model = read_bytes(EMBEDDED_MODEL if path == EMBEDDED else path)
        except OSError as error:
            raise InputError(
                f"tokenizer {path}: cannot be read ({error.strerror or error}); give a .model "
                f'file, or "{EMBEDDED}"'
            ) from error
        return cls(path, model)

    def __reduce__(self) -> tuple:
        return Tokenizer.load, (self.path,)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, special ones and bytes included."""
        return self._processor.vocab_size()

    @property
    def pad_id(self) -> int:
        """Fills a row behind the caption's last token."""
        return PAD_ID

    @property
    def unknown_id(self) -> int:
        """Reserved: byte fallback leaves nothing unknown."""
        return UNKNOWN_ID

    @property
    def mask_id(self) -> int:
        """Replaces a hidden token in masked language modelling; no text encodes to it."""
        return MASK_ID

    @property
    def joiner(self) -> tuple[int, ...]:
        """Ids of "and": between those of two captions, the ids of "CAPTION and CAPTION"."""
        (ids,) = self._processor.encode([JOINING_WORD], out_type=int)
        return tuple(ids)

    def encode(self, texts: Sequence[str], max_tokens: int) -> Int32[np.ndarray, "n max_tokens"]:
        """Ids of each text, padded with `pad_id`.

        A text longer than `max_tokens` is cut before the first word that does not fit whole; a
        single word longer than that is cut inside. Raises InputError for half a surrogate pair.
        """
        return self.encode_with_lengths(texts, max_tokens)[0]

    def encode_with_lengths(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[Int32[np.ndarray, "n max_tokens"], Int32[np.ndarray, " n"]]:
        """Return what `encode` does, and how many tokens each text has, none cut off."""
        rows = np.full((len(texts), max_tokens), PAD_ID, np.int32)
        lengths = np.zeros(len(texts), np.int32)
        for number, (row, ids) in enumerate(zip(rows, self._ids(texts), strict=True)):
            length = lengths[number] = len(ids)
            if length > max_tokens:
                starts = np.flatnonzero(self.word_start[ids[: max_tokens + 1]])
                length = starts[-1] if len(starts) and starts[-1] > 0 else max_tokens
            row[:length] = ids[:length]
        return rows, lengths

    def lengths(self, texts: Sequence[str]) -> Int32[np.ndarray, " n"]:
        """Tokens of each text, none cut off."""
        return np.array([len(row) for row in self._ids(texts)], np.int32)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """All ids of each text. InputError for one that no encoding has bytes for."""
        try:
            return self._processor.encode(list(texts), out_type=int)
        except (TypeError, UnicodeEncodeError):
            for number, text in enumerate(texts):
                if not is_unicode(text):
                    raise InputError(
                        f"text {number} ({text[:50]!a}) holds half of a surrogate pair, which is "
                        "not a character: correct it"
                    ) from None
            raise

    def cut(self, texts: Sequence[str], max_tokens: int) -> Bool[np.ndarray, " n"]:
        """Return which texts `encode` cuts off."""
        return self.lengths(texts) > max_tokens

    def decode(self, ids: Int32[np.ndarray, "n max_tokens"]) -> list[str]:
        """Normalised text of each row, padding left out."""
        return self._processor.decode([[int(i) for i in row if i != PAD_ID] for row in ids])


# Marks that are seen only on what they are on, and letters and signs that are drawn as nothing.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0]|"
    "[\U000e0100-\U000e01ef]"
)


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 has bytes for it: not for half a surrogate pair, as JSON can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_blank(text: str) -> bool:
    """Return whether a reader would see nothing: white space, zero-width and control characters."""
    # C*: control, format, surrogate, private and unassigned; Z*: separators. Half a surrogate pair
    # and a private character are something, if nothing good.
    seen = (c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp", "Zs"))
    return all(map(_UNSEEN.match, seen))


def normalised_caption(text: str) -> str:
    """NFKC, case-folded, white space collapsed: equal strings count as equal captions."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def caption_hash(texts: Sequence[str]) -> UInt32[np.ndarray, " n"]:
    """32 bits of BLAKE2b of each normalised caption; never 0, which is free to mean "none".

    Two different captions collide with probability 2^-32: in a batch of 32,768 the expected number
    of wrongly equal pairs is 0.13.
    """
    hashes = [
        int.from_bytes(
            hashlib.blake2b(normalised_caption(text).encode(), digest_size=4).digest(), "little"
        )
        for text in texts
    ]
    return np.maximum(np.array(hashes, np.uint32), np.uint32(1))


def concept_hash(
    concepts: Sequence[bytes] | np.ndarray, captions: UInt32[np.ndarray, " n"]
) -> UInt32[np.ndarray, " n"]:
    """Return the hash of each concept's name (in UTF-8), or of a nameless one its caption's."""
    names = [concept.decode(errors="replace") for concept in concepts]
    return np.where([bool(name) for name in names], caption_hash(names), captions)


def train_tokenizer(
    captions: Iterable[str],
    vocabulary_size: int,
    *,
    character_coverage: float = 1.0,
    normalization: str = NORMALIZATIONS[0],
) -> bytes:
    """A SentencePiece unigram model of the captions, serialised. Same captions, same bytes.

    The most frequent characters that make up `character_coverage` of the text become pieces; the
    others are written as bytes. Captions of more than 4,192 bytes are not learned from. Raises
    InputError if there are no captions, or too few or too many pieces for the size.
    """
    model = io.BytesIO()
    captions = iter(captions)
    first = next(captions, None)
    if first is None:
        raise InputError("there are no captions to train a tokenizer on; give data that has some")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], captions),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocabulary_size,
            byte_fallback=True,
            character_coverage=character_coverage,
            normalization_rule_name=normalization,
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=-1,
            eos_id=-1,
            control_symbols=[MASK_PIECE],
            num_threads=1,  # the order of floating-point sums, and so the model, depends on it
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(_training_failure(str(error), vocabulary_size)) from error
    return model.getvalue()


def _training_failure(message: str, vocabulary_size: int) -> str:
    """SentencePiece's complaint about the vocabulary size, as one line with the fix."""
    if limit := re.search(r"value <= (\d+)", message):
        return (
            f"--vocabulary_size={vocabulary_size}: these captions have too few pieces for it; "
            f"give at most {limit[1]}"
        )
    if limit := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"--vocabulary_size={vocabulary_size}: smaller than the captions' alphabet with 256 "
            f"bytes and 3 special ids; give more than {limit[1]}"
        )
    return f"--vocabulary_size={vocabulary_size}: no tokenizer could be trained ({message})"


def define_flags() -> None:
    """The program's command line; not at import, where it would be every program's."""
    path_flags.define("data", None, "split to read captions from, e.g. embedded:train", Access.GS)
    path_flags.define("output", None, "file to write, e.g. tokenizer.model", Access.LOCAL)
    flags.DEFINE_integer("vocabulary_size", 4096, "number of ids, special ones included")
    flags.DEFINE_float(
        "character_coverage",
        1.0,
        "fraction of the text whose characters become pieces; the rarest others are bytes",
        lower_bound=0.9,
        upper_bound=1.0,
    )
    flags.DEFINE_enum(
        "normalization", NORMALIZATIONS[0], NORMALIZATIONS, "NFKC with case folded, or kept"
    )
    flags.DEFINE_integer(
        "maximum_sentences",
        MAXIMUM_SENTENCES,
        "captions to train on; larger splits are sampled, evenly",
        lower_bound=1,
    )


def main(_: Sequence[str]) -> None:
    """Trains a tokenizer on the captions of a split."""
    # Reading records takes TensorFlow, which users of `Tokenizer` alone must not need.
    from oner_jax.data import records

    data, output_name = required("data", "output")
    values, output = flags.FLAGS, Path(output_name)
    if not output.parent.is_dir():
        raise InputError(f"--output={output}: directory {output.parent} does not exist")
    split = records.open_split(data)
    model = train_tokenizer(
        split.captions(values.maximum_sentences),
        values.vocabulary_size,
        character_coverage=values.character_coverage,
        normalization=values.normalization,
    )
    write_whole(output, model)
    print(
        f"wrote {output}: {values.vocabulary_size:,} ids from the captions of {len(split):,} "
        f"examples; {PAD_ID} <pad>, {UNKNOWN_ID} <unk>, {MASK_ID} {MASK_PIECE}, then 256 bytes, "
        f"then pieces; {values.normalization}"
    )
    print(f"next: train with {shlex.quote(f'--config.data.tokenizer={output}')}")


if __name__ == "__main__":
    define_flags()
    run_program(main)
