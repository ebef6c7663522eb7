"""An image file without what only describes its picture, for a reader that the description stops.

Pillow refuses a PNG whose profile or text unfolds to more than a megabyte, and one with a wrong
checksum anywhere; libavif refuses an AVIF whose EXIF is none. Neither is a reason to lose the
picture: browsers show it. (EXIF stops no reader of other formats: `preprocessing.upright`.)
"""

import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LENGTH = struct.Struct(">I")
_FRAME_BYTES = 12  # a chunk's length, type and checksum
# Chunks that a decoder may leave out, though these say how the picture looks or stands.
_KEPT = (b"tRNS", b"eXIf")

_AVIF_BRANDS = (b"avif", b"avis")


def without_metadata(file: bytes) -> bytes | None:
    """Return the file with its picture only; None where it is of another format, or nothing goes.

    Damage to the picture itself stays in it.
    """
    if file.startswith(_SIGNATURE):
        bare = _bare_png(file)
    elif file[4:8] == b"ftyp" and file[8:12] in _AVIF_BRANDS:
        bare = _bare_avif(file)
    else:
        return None
    return None if bare == file else bare


def _bare_png(file: bytes) -> bytes:
    """Critical chunks as they are, and whole ones of `_KEPT`; the file where it has no end."""
    kept, kind = [_SIGNATURE], b""
    for kind, chunk in _chunks(file):
        is_critical = kind[:1].isupper()
        if is_critical or (kind in _KEPT and _checksum_holds(chunk)):
            kept.append(chunk)
    return b"".join(kept) if kind == b"IEND" else file


def _chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and bytes of each chunk that is there whole, up to the one that ends the picture."""
    start, kind = len(_SIGNATURE), b""
    while kind != b"IEND" and start + _FRAME_BYTES <= len(file):
        end = start + _FRAME_BYTES + _LENGTH.unpack_from(file, start)[0]
        if end > len(file):
            return
        kind = file[start + 4 : start + 8]
        yield kind, file[start:end]
        start = end


def _checksum_holds(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == _LENGTH.unpack_from(chunk, len(chunk) - 4)[0]


def _bare_avif(file: bytes) -> bytes:
    """Its item of EXIF under a type that no reader knows, and so passes over."""
    pictures = file.find(b"mdat")  # after the list of items
    return file[:pictures].replace(b"Exif", b"free") + file[pictures:]
