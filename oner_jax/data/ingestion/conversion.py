"""One entry of a source: the record it becomes, or the reason why it becomes none.

An image is read, judged by its header, stored as `image_files` says, and decoded once the way
training will decode it. What one caption lacks costs that caption; an example goes when it has no
caption left, under the reason of its first (where unpaired ones are kept, its image stays, alone).
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable

from oner_jax.data import image_files, images
from oner_jax.data.host_tensorflow import tf
from oner_jax.data.image_files import UnfitImage
from oner_jax.data.ingestion.options import ConversionOptions, Filters
from oner_jax.data.records import RECORD_FEATURES, Record
from oner_jax.data.sources import Dropped, RawExample, Reason
from oner_jax.data.tokenizer import is_blank, is_unicode
from oner_jax.errors import first_line

DIGEST_BYTES = 16  # two different files have the same with probability 2^-128

# Files beside the splits have names with a dot, so no split takes one of theirs.
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an example: `result`, and the captions that it lost on the way.

    `image_digest` tells equal image files; None where there was no image to read.
    """

    result: Record | Dropped
    captions_left_out: tuple[Dropped, ...]
    image_digest: bytes | None


class _Refused(Exception):
    def __init__(self, reason: Reason, detail: str = ""):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def convert(example: RawExample, options: ConversionOptions) -> Outcome:
    """The example as a record. Nothing in it raises."""
    captions, left_out = _filtered_captions(example, options.filters)
    image_digest = None
    result: Record | Dropped
    try:
        file = _read_image(example)
        if file is not None:
            image_digest = digest(file)
        _check_texts(example)
        _check_paired(example, file is not None, captions, left_out, options.unpaired == "keep")
        result = _record(example, file, captions, options)
    except _Refused as refusal:
        result = Dropped(example.location, refusal.reason, refusal.detail)
    return Outcome(result, tuple(left_out), image_digest)


def digest(content: bytes) -> bytes:
    """16 bytes of BLAKE2b."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _read_image(example: RawExample) -> bytes | None:
    if example.read_image is None:
        return None
    try:
        file = example.read_image()
    except FileNotFoundError as error:
        raise _Refused(Reason.MISSING_IMAGE, str(error.filename or error)) from error
    except OSError as error:
        raise _Refused(Reason.MISSING_IMAGE, f"cannot be read ({first_line(error)})") from error
    if not file:
        raise _Refused(Reason.EMPTY_IMAGE)
    return file


def _filtered_captions(
    example: RawExample, filters: Filters
) -> tuple[tuple[str, ...], list[Dropped]]:
    """The captions that pass, and those that do not."""
    kept, left_out = [], []
    for number, caption in enumerate(example.captions, start=1):
        fault = _caption_fault(caption, filters)
        if fault is None:
            kept.append(caption)
        else:
            reason, detail = fault
            left_out.append(Dropped(example.location, reason, f"caption {number}{detail}"))
    return tuple(kept), left_out


def _caption_fault(caption: str, filters: Filters) -> tuple[Reason, str] | None:
    if not is_unicode(caption):
        return Reason.INVALID_TEXT, " is no UTF-8"
    length = len(caption)
    if is_blank(caption):
        return Reason.MISSING_CAPTION, " is blank"
    if length < filters.minimum_caption_characters:
        return Reason.CAPTION_TOO_SHORT, f" has {length:,} characters"
    if length > filters.maximum_caption_characters > 0:
        return Reason.CAPTION_TOO_LONG, f" has {length:,} characters"
    return None


def _check_texts(example: RawExample) -> None:
    """All but the captions."""
    texts = {"id": example.id, "label": example.label, "split": example.split, **example.metadata}
    for name, value in texts.items():
        if not is_unicode(name) or not is_unicode(value):
            raise _Refused(Reason.INVALID_TEXT, f"{name!a} is no UTF-8")
    if clash := sorted(set(example.metadata) & set(RECORD_FEATURES)):
        raise _Refused(Reason.BROKEN_ENTRY, f"metadata named like a feature: {', '.join(clash)}")
    if example.split and not _SPLIT_NAME.fullmatch(example.split):
        detail = f"{example.split[:100]!r} cannot name a split: use letters, digits, _ and -"
        raise _Refused(Reason.BAD_SPLIT, detail)


def _check_paired(
    example: RawExample,
    has_image: bool,
    captions: Iterable[str],
    left_out: list[Dropped],
    keep_unpaired: bool,
) -> None:
    if not captions and not (has_image and keep_unpaired):
        if left_out:
            raise _Refused(left_out[0].reason, left_out[0].detail)
        raise _Refused(Reason.MISSING_CAPTION, example.without_captions)
    if not has_image and not keep_unpaired:
        raise _Refused(Reason.MISSING_IMAGE)


def _record(
    example: RawExample, file: bytes | None, captions: tuple[str, ...], options: ConversionOptions
) -> Record:
    stored = image_files.StoredImage(b"", 0, 0)
    if file is not None:
        stored = _stored_image(file, options)
    return Record(
        id=example.id,
        image=stored.encoded,
        height=stored.height,
        width=stored.width,
        captions=captions,
        label=example.label,
        metadata=example.metadata,
    )


def _stored_image(file: bytes, options: ConversionOptions) -> image_files.StoredImage:
    """The image as it is stored, which training then decodes."""
    try:
        _check_shape(*image_files.size_in_pixels(file), options.filters)
        stored = image_files.stored_image(file, options.images)
        images.check_decodes(stored.encoded, stored.height, stored.width)
    except UnfitImage as error:
        raise _Refused(error.reason, str(error)) from error
    except tf.errors.OpError as error:
        raise _Refused(Reason.UNDECODABLE_IMAGE, _decoders_words(error)) from error
    return stored


def _decoders_words(error: tf.errors.OpError) -> str:
    """What TensorFlow says is wrong, which stands between the lines of the program and the node."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    node = next((n for n, line in enumerate(lines) if "{{node" in line), len(lines))
    return lines[node - 1]


def _check_shape(width: int, height: int, filters: Filters) -> None:
    short, long = sorted((width, height))
    if short < filters.minimum_side:
        raise _Refused(Reason.IMAGE_TOO_SMALL, f"{width} x {height} pixels")
    if long > filters.maximum_aspect * short > 0:
        raise _Refused(Reason.ASPECT_TOO_WIDE, f"{width} x {height} pixels")
