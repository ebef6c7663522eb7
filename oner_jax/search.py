"""Search a collection by words, by a picture, or by both:

    python -m oner_jax.search --index=photos.index --source=photos --text="a red car"
    python -m oner_jax.search --index=photos.index --image=car.jpg --text="in red"

The first embeds the folder of pictures into `--index` (`oner_jax.embed` makes the same folder), or
brings it up to date; the second only searches. A picture and a text together are one query, "this,
but". Search is exact, on the device, and goes over to FAISS where a collection is large and FAISS
is installed (`--engine`). `--model` is a run or an export; without it, the released model.
"""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float32

from oner_jax.api import Model, TruncatedTexts
from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.required_flags import required
from oner_jax.data.tokenizer import is_blank
from oner_jax.errors import InputError
from oner_jax.files import Access, is_remote
from oner_jax.indexing import embedding_flags as command_line
from oner_jax.indexing.index import ENGINES, Hit, Index


def define_flags() -> None:
    """The program's command line."""
    command_line.define_flags()
    path_flags.define("index", None, "folder of embeddings", Access.LOCAL)
    flags.DEFINE_string("text", None, "words to search by")
    path_flags.define("image", None, "picture to search by")
    flags.DEFINE_integer("k", 10, "how many to find", lower_bound=1)
    flags.DEFINE_enum("engine", ENGINES[0], ENGINES, "how to search")
    flags.DEFINE_boolean("json", False, "print one JSON object a line")


def main(_: Sequence[str]) -> None:
    """Index if asked to, search, and print what was found."""
    (folder,) = required("index")
    values = flags.FLAGS
    if not (values.source or values.text or values.image):
        raise InputError("give --text, --image or both to search by, or --source to index")
    for name in ("text", "image"):
        if values[name].present and is_blank(str(values[name].value)):
            raise InputError(f"--{name} is empty: give something to search by")
    model = command_line.chosen_model()
    if values.source:
        made = command_line.embed_source(model, values.source, Path(folder), "npy")
        said = f"{folder}: {command_line.described(made)}"
        print(said, file=sys.stderr if values.json else sys.stdout)
    if values.text is None and values.image is None:
        return
    index = Index(Path(folder), values.engine)
    index.check_model(model)
    hits = index.search(_query(model, values.image, values.text), values.k)[0]
    for place, hit in enumerate(hits, start=1):
        print(_as_json(place, hit) if values.json else _as_text(place, hit))
    gone = [hit.row.image for hit in hits if _has_gone(hit.row.image)]
    if gone:
        print(
            f"{len(gone)} of these {len(hits)} images have gone, {gone[0]} among them: give "
            "--source again to bring the index up to date",
            file=sys.stderr,
        )


def _has_gone(path: str) -> bool:
    return bool(path) and not is_remote(path) and not os.path.exists(path)


def _query(model: Model, image: str | None, text: str | None) -> Float32[np.ndarray, "1 features"]:
    """Embed the query; print a line where its text is longer than the model reads."""
    with warnings.catch_warnings(action="ignore", category=TruncatedTexts):
        query = model.embed(images=image, texts=text)
    limit = model.settings.text_tokens
    ids, lengths = model.tokenizer.encode_with_lengths([text or ""], limit)
    if lengths[0] > limit:
        print(
            f"--text has {lengths[0]} tokens, of which the model reads "
            f"{np.count_nonzero(ids)}: {model.tokenizer.decode(ids)[0]!r}",
            file=sys.stderr,
        )
    return query


def _as_json(place: int, hit: Hit) -> str:
    fields = {"place": place, "score": hit.score, **hit.row._asdict()}
    return json.dumps(fields, ensure_ascii=False)


def _as_text(place: int, hit: Hit) -> str:
    # One line a hit, whatever lines its caption has.
    caption = " ".join(hit.row.caption.split())
    what = "  ".join(filter(None, [hit.row.image or hit.row.id, caption]))
    return f"{place:3}  {hit.score:.3f}  {what}"


if __name__ == "__main__":
    define_flags()
    run_program(main)
