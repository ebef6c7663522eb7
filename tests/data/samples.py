"""Small pictures and datasets for the tests of data."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
from absl import flags
from PIL import Image

from oner_jax.command_line import program as program_ends
from oner_jax.data import records
from oner_jax.data.records import Record


def picture(seed: int, height: int = 24, width: int = 24, channels: int = 3) -> np.ndarray:
    """Smooth random colours uint8 [height, width, channels]: any codec renders them closely."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, channels), np.uint8)
    layers = [
        Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC)
        for c in range(channels)
    ]
    return np.stack([np.asarray(layer) for layer in layers], axis=-1)


def encoded(image: Image.Image | np.ndarray, image_format: str, **options) -> bytes:
    """The image as a file of this format."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def on_white(file: bytes) -> np.ndarray:
    """Pillow's reading of a file: RGB uint8, transparency over white."""
    image = Image.open(io.BytesIO(file)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def record(number: int, captions: tuple[str, ...] = (), **changes) -> Record:
    """A valid record whose picture and captions depend on its number."""
    height, width = 20 + number % 5, 24 - number % 3
    values: dict[str, Any] = {
        "id": f"example-{number}",
        "image": encoded(picture(number, height, width), "PNG"),
        "height": height,
        "width": width,
        "captions": captions or (f"thing {number}", f"the thing numbered {number}"),
        "label": f"thing {number}",
        "metadata": {"source": "tests"},
    }
    return Record(**values | changes)


def write_split(directory: Path, items: list[Record], shard_bytes: int = 8000) -> str:
    """A split of these records, in several shards; returns its name."""
    directory.mkdir(parents=True)
    records.write_split(directory, [item.serialise() for item in items], shard_bytes)
    return str(directory)


def write_jsonl(directory: Path, rows: Sequence[dict | str]) -> Path:
    """A JSONL of these rows (text is written as it is), with an image file for each `image`."""
    lines = []
    for number, row in enumerate(rows):
        if isinstance(row, dict):
            file = directory / row.get("image", "")
            if "image" in row and not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encoded(picture(number), "PNG"))
            row = json.dumps(row, ensure_ascii=False)
        lines.append(row + "\n")
    path = directory / "pairs.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def run_program(program: ModuleType, *arguments: str) -> int:
    """Runs a program in this process, all but starting Python, and returns its exit code."""
    # What other programs define, at import, under the same names: put aside, with their modules.
    others = [
        (module, flag)
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if module.startswith(("oner_jax", "launch"))
        for flag in defined
    ]
    for _, flag in others:
        delattr(flags.FLAGS, flag.name)
    before = set(flags.FLAGS)
    program.define_flags()
    try:
        with (
            mock.patch.object(sys, "argv", [program.__name__, *arguments]),
            pytest.raises(SystemExit) as end,
        ):
            program_ends.run_program(program.main)
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        for module, flag in others:
            flags.FLAGS[flag.name] = flag
            flags.FLAGS.register_flag_by_module(module, flag)
    return int(end.value.code or 0)
