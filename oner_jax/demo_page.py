"""A page that shows what the one space is good for:

    python -m oner_jax.demo_page
    python -m oner_jax.demo_page --model=DIR --images=photos

Search by words, by a picture or by both, where in a picture a phrase is, and a map of the space.
`--images` is a folder of pictures, anything else that ingest reads, or what `oner_jax.embed` made;
without it the page shows the pictures embedded in the package. They are embedded once and kept in
`--cache`. The page answers this machine alone unless `--host` says otherwise, and nothing of it
calls out. It needs Gradio: `pip install "oner_jax[page]"`.
"""

import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.data import sources
from oner_jax.errors import InputError
from oner_jax.files import Access
from oner_jax.indexing import embedding_flags as command_line

EXAMPLES = "embedded:val"


def define_flags() -> None:
    """The program's command line."""
    command_line.define_model_flags()
    path_flags.define("images", EXAMPLES, "pictures: a folder, anything ingest reads, or an index")
    flags.DEFINE_enum(
        "images_format", "", ["", *sources.FORMATS], "format of the pictures; found if not given"
    )
    path_flags.define(
        "cache", "~/.cache/oner_jax/page", "folder to keep embeddings in", Access.LOCAL
    )
    flags.DEFINE_integer("k", 12, "how many to find", lower_bound=1, upper_bound=100)
    flags.DEFINE_string("host", "127.0.0.1", "address to answer; 0.0.0.0 is the whole network")
    flags.DEFINE_integer("port", 7860, "port to answer", lower_bound=1, upper_bound=65535)


def main(_: Sequence[str]) -> None:
    """Embed what is not embedded yet, then serve the page."""
    values = flags.FLAGS
    _check_free(values.host, values.port)
    # What is uploaded ends with the program, however it is asked to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="oner_jax_page_") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # read when Gradio is imported
        try:
            from oner_jax.page import interface
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise InputError(
                'the page needs Gradio: pip install "oner_jax[page]", or -r requirements-page.txt'
            ) from None
        from oner_jax.page.collection import open_collection
        from oner_jax.page.space_map import make_map

        model = command_line.chosen_model()
        cache = Path(values.cache)
        collection = open_collection(model, values.images, values.images_format, cache)
        drawn_map = make_map(model, collection)
        page = interface.Page(model, collection, values.k)
        page.warm_up()
        interface.serve(interface.build(page, drawn_map), values.host, values.port)


def _check_free(host: str, port: int) -> None:
    """Raise InputError, before anything is embedded, if this address cannot be answered."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise InputError(
            f"--host={host} --port={port} cannot be used ({error.strerror or error}): choose others"
        ) from None


if __name__ == "__main__":
    define_flags()
    run_program(main)
