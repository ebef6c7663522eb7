"""The formats of image files that are read: one list for sources, the decoder and the API.

Pillow has readers for many more. The others are fit for a hostile file: some have no signature, and
PostScript would start another program. HEIF, the format of telephones, takes the package
pillow-heif; without it, and without a reader that a build of Pillow lacks, a file of that format is
dropped with the reason, not skipped.
"""

import functools
from collections.abc import Mapping

from PIL import Image

# Pillow's name of each format, and the endings of its files.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "AVIF": ("avif", "avifs"),
    "BMP": ("bmp",),
    "GIF": ("gif",),
    "HEIF": ("heic", "heics", "heif", "heifs", "hif"),
    "ICO": ("ico",),
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "JPEG2000": ("jp2", "j2c", "j2k", "jpc", "jpf", "jpx"),
    "MPO": ("mpo",),
    "PNG": ("png", "apng"),
    "PPM": ("ppm", "pbm", "pgm", "pnm"),
    "TIFF": ("tif", "tiff"),
    "WEBP": ("webp",),
}

# Without the dot in front.
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)

# What gives Pillow the reader of a format that it can lack.
_PACKAGES = {"AVIF": "pillow>=11.3", "HEIF": "oner_jax[heif]"}
# ISO/IEC 14496-12: a file begins with its size, `ftyp` and the brand of what is in it.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
    ),
}


@functools.cache
def known_formats() -> list[str]:
    """Return those of `FORMATS` that Pillow can read here."""
    Image.init()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def missing_reader(file: bytes) -> str:
    """Return why a file of a known format has no reader here, and the fix; empty if it has one."""
    name = _BRANDS.get(file[8:12], "") if file[4:8] == b"ftyp" else ""
    if not name or name in known_formats():
        return ""
    return f"{name} cannot be read here: pip install '{_PACKAGES[name]}'"
