"""A model and pictures for the page's tests."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np

from tests.data.samples import encoded, picture

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (40, 60, 210)}
THINGS = ("car", "kite", "boat")
CAPTIONS = [f"a {colour} {thing}" for thing in THINGS for colour in COLOURS]


def write_photos(folder: Path) -> Path:
    """Nine pictures, taller and wider ones, with a caption each; returns the JSONL of them."""
    folder.mkdir(parents=True)
    lines = []
    for number, caption in enumerate(CAPTIONS):
        levels = picture(number, 60 + 7 * number, 90) // 2
        levels = levels + np.array(COLOURS[caption.split()[1]], np.uint8) // 2
        (folder / f"{number}.png").write_bytes(encoded(levels, "PNG"))
        lines.append(json.dumps({"image": f"{number}.png", "caption": caption}))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_bad_uploads(folder: Path) -> dict[str, Path]:
    """Files that are no pictures to search by."""
    folder.mkdir(parents=True)
    text = folder / "notes.png"
    text.write_text("no picture at all\n")
    bomb = folder / "bomb.png"
    bomb.write_bytes(_with_sides(encoded(picture(3), "PNG"), 30_000))
    cut = folder / "cut.jpg"
    cut.write_bytes(encoded(picture(3, 64, 64), "JPEG")[:400])
    return {"text": text, "bomb": bomb, "cut": cut}


def _with_sides(png: bytes, side: int) -> bytes:
    """The file with another width and height in its header."""
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
