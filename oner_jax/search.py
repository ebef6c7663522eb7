"""Search a collection by words, by a picture, or by both:

    python -m oner_jax.search --index=photos.index --source=photos --text="a red car"
    python -m oner_jax.search --index=photos.index --image=car.jpg --text="in red"

The first embeds the folder of pictures into `--index` (`oner_jax.embed` makes the same folder), the
second only searches. A picture and a text together are one query, "this, but". Search is exact, on
the device, and goes over to FAISS where a collection is large and FAISS is installed (`--engine`).
`--model` is a run or an export; without it, the released model.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from oner_jax import path_flags
from oner_jax.data.command_line import required
from oner_jax.data.text import is_blank
from oner_jax.errors import InputError, run_program
from oner_jax.files import Access
from oner_jax.indexing import command_line
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
        manifest = command_line.embed_source(model, values.source, Path(folder), "npy")
        print(f"{folder}: {manifest['rows']:,} rows")
    if values.text is None and values.image is None:
        return
    index = Index(Path(folder), values.engine)
    index.check_model(model)
    query = model.embed(images=values.image, texts=values.text)
    for place, hit in enumerate(index.search(query, values.k)[0], start=1):
        print(_as_json(place, hit) if values.json else _as_text(place, hit))


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
