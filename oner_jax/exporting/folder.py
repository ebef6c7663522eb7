"""An export's folder: what every format shares, written whole or not at all."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import oner_jax
from oner_jax.data import preprocessing
from oner_jax.errors import InputError
from oner_jax.exporting.model_card import model_card
from oner_jax.exporting.source import Source
from oner_jax.files import held_folder
from oner_jax.models.files import CONFIG_FILE, FORMAT, FORMAT_VERSION, TOKENIZER_FILE

PREPROCESSING_FILE = "preprocessing.py"
PARITY_FILE = "parity.json"
CARD = "README.md"


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which gets that name if the block ends without an error.

    Raises InputError if there is something by that name already, and where another process is
    about to make it.
    """
    _refuse_existing(out)
    beside = out.absolute().with_name(f".{out.name}.partial")
    with held_folder(beside, f"--out={out}"):
        _refuse_existing(out)  # by now, another process may have finished it
        partial = beside / "whole"
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process
        partial.mkdir()
        try:
            yield partial
            partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out={out} exists: remove it, or give a folder that is not there")


def write_shared(source: Source, folder: Path) -> None:
    """`config.json`, the tokenizer and `preprocessing.py`: what every format needs beside it."""
    (folder / CONFIG_FILE).write_text(json.dumps(_description(source), indent=2) + "\n")
    (folder / TOKENIZER_FILE).write_bytes(source.tokenizer.model)
    shutil.copyfile(Path(preprocessing.__file__), folder / PREPROCESSING_FILE)


def write_account(
    source: Source, folder: Path, formats: Sequence[str], parity: Mapping[str, Mapping[str, float]]
) -> None:
    """`README.md`, the model card, and `parity.json`: what is in the folder, and how exact."""
    (folder / PARITY_FILE).write_text(json.dumps(parity, indent=2) + "\n")
    (folder / CARD).write_text(model_card(source, formats, parity), encoding="utf-8")


def _description(source: Source) -> dict[str, Any]:
    settings = source.settings
    # Through the config, so that its keys are those that `ModelSettings` reads.
    config = source.config.copy_and_resolve_references().unlock()
    for key in ("dtype", "attention", "remat"):
        config.model[key] = getattr(settings, key)
    training = config.to_dict()
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "oner_jax_version": oner_jax.__version__,
        "model_type": "oner",
        "model": training.pop("model"),
        "views": source.views,
        "preprocessing": {
            "image_size": settings.image_size,
            "background": "white",
            "crop": "largest centred square",
            "resize": "area mean when shrinking, linear when enlarging",
            "scale": 1 / 127.5,
            "offset": -1.0,
        },
        "tokenizer": {
            "file": TOKENIZER_FILE,
            "type": "sentencepiece",
            "max_tokens": settings.text_tokens,
            "pad_id": source.tokenizer.pad_id,
            "sha256": source.tokenizer.content_hash,
        },
        "weights": {
            "dtype": source.dtype,
            "kind": source.weights,
            "steps": list(source.steps),
        },
        "training": training,
    }
