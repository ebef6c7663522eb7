"""A model and pictures for the page's tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

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
    # White, so that 900 million pixels are few bytes.
    bomb = folder / "bomb.png"
    Image.new("1", (30_000, 30_000), 1).save(bomb)
    cut = folder / "cut.jpg"
    cut.write_bytes(encoded(picture(3, 64, 64), "JPEG")[:400])
    return {"text": text, "bomb": bomb, "cut": cut}
