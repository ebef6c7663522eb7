"""Run the encoders of this folder with JAX and NumPy alone.

    encoders = load(FOLDER)
    encoders["image"](pixels)        # uint8 [n, size, size, 3]: see ../preprocessing.py
    encoders["text"](ids)            # int32 [n, text_tokens]: see token_ids
    encoders["joint"](pixels, ids)   # picture and text together

Each gives float32 [n, features], rows at unit length: their inner products are cosines. A program
is compiled at its first call with a batch of that size; always give the same few sizes.

As a program it embeds a picture and texts: python load.py PICTURE "a text" "another text"
"""

import functools
import json
import runpy
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

TYPES = {"F32": "float32", "BF16": "bfloat16"}


def load(folder):
    """The encoders in `folder` by name."""
    folder = Path(folder)
    weights = read_safetensors(folder / "weights.safetensors")
    weights = {name: jnp.asarray(array) for name, array in weights.items()}
    encoders = {}
    for path in sorted(folder.glob("*.stablehlo")):
        program = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
        encoders[path.stem] = functools.partial(_run, program, weights)
    return encoders


def read_safetensors(path):
    """Arrays by name: 8 bytes with the length of a JSON header, the header, then the arrays."""
    content = Path(path).read_bytes()
    behind = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:behind])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        first, last = (behind + offset for offset in entry["data_offsets"])
        array = np.frombuffer(content[first:last], jnp.dtype(TYPES[entry["dtype"]]))
        arrays[name] = array.reshape(entry["shape"])
    return arrays


def token_ids(texts, model_file, max_tokens):
    """int32 [n, max_tokens], padded with 0; needs the package sentencepiece.

    Texts that are too long are cut before the first word that does not fit whole.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    rows = np.zeros((len(texts), max_tokens), np.int32)
    for row, ids in zip(rows, processor.encode(list(texts)), strict=True):
        length = len(ids)
        if length > max_tokens:
            starts = [
                place
                for place, token in enumerate(ids[: max_tokens + 1])
                if place and processor.id_to_piece(token).startswith("▁")
            ]
            length = starts[-1] if starts else max_tokens
        row[:length] = ids[:length]
    return rows


def _run(program, weights, *inputs):
    return np.asarray(program(weights, *inputs))


def _main(picture, texts):
    from PIL import Image

    here = Path(__file__).parent
    encoder_pixels = runpy.run_path(str(here.parent / "preprocessing.py"))["encoder_pixels"]
    config = json.loads((here.parent / "config.json").read_text())
    encoders = load(here)
    pixels = encoder_pixels(Image.open(picture), config["model"]["image_size"])
    ids = token_ids(texts, here.parent / "tokenizer.model", config["model"]["text_tokens"])
    cosines = encoders["text"](ids) @ encoders["image"](pixels[None])[0]
    for text, cosine in zip(texts, cosines, strict=True):
        print(f"{cosine:.4f}  {text}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit('usage: python load.py PICTURE "a text" ["another text" ...]')
    _main(sys.argv[1], sys.argv[2:])
