"""The pictures that the page searches: an index, made once and kept, and a file for each picture.

CACHE/KEY/index       embeddings of the pictures, as `oner_jax.embed` makes them
CACHE/KEY/pictures    pictures that are no files of their own (of archives and records)
CACHE/KEY/map-DIGEST.json    the map of the space, of the pictures that there were

KEY depends on the model and on the source's name. All of it may be removed at any time.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from oner_jax.api import Model
from oner_jax.data.image_files import UnfitImage, open_image
from oner_jax.data.preprocessing import on_white
from oner_jax.data.sources import RawExample
from oner_jax.errors import InputError
from oner_jax.files import read_bytes, write_whole
from oner_jax.indexing.index import Index, is_index
from oner_jax.indexing.making import absolute_name, make_embeddings, parts_of
from oner_jax.indexing.rows import Row

VIEW = "image"
SHOWN_PIXELS = 640  # a picture's longer side on the page


class Collection:
    """What is searched. `folder` is where whatever is computed from it is kept."""

    def __init__(self, index: Index, folder: Path):
        self.index = index
        self.folder = folder

    def __len__(self) -> int:
        return len(self.index)

    def picture(self, row: Row, pixels: int = SHOWN_PIXELS) -> Image.Image:
        """The picture of a row in RGB, upright, shrunk to `pixels` a side."""
        return shown_picture(row.image, pixels)

    def title(self, row: Row) -> str:
        """Its caption; without one the name of its file."""
        is_kept = Path(row.image).is_relative_to(_pictures(self.folder).absolute())
        return row.caption or (row.id if is_kept else os.path.basename(row.image))


def open_collection(model: Model, name: str, source_format: str, cache: Path) -> Collection:
    """The collection of this name: an index that `oner_jax.embed` made, or anything it reads.

    Raises InputError for what cannot be read, and for an index of another model or without files.
    """
    if is_index(Path(name)):
        return _from_index(model, Path(name), cache)
    name = absolute_name(name)
    parts = parts_of(name, source_format, model.batch_size)
    if not parts:
        raise InputError(f"--images={name} holds no pictures")
    folder = cache / _key(model.identity, str(model.batch_size), name, source_format)
    make_embeddings(
        model,
        parts,
        VIEW,
        folder / "index",
        file_format="npy",
        source=name,
        change=functools.partial(_with_file, _pictures(folder.absolute())),
    )
    return Collection(Index(folder / "index"), folder)


def _from_index(model: Model, folder: Path, cache: Path) -> Collection:
    index = Index(folder)
    index.check_model(model)
    made_from = index.manifest["source"]
    if index.manifest["view"] != VIEW:
        raise InputError(
            f"--images={folder} was made with --view={index.manifest['view']}: give one of pictures"
        )
    if not all(row.image for row in index.rows):
        raise InputError(
            f"--images={folder}: its pictures are no files of their own; give what it was made "
            f"from, --images={made_from}"
        )
    return Collection(index, cache / _key(model.identity, index.manifest["fingerprint"]))


def _key(*made_from: str) -> str:
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def _pictures(folder: Path) -> Path:
    return folder / "pictures"


def shown_picture(path: str, pixels: int = SHOWN_PIXELS) -> Image.Image:
    """The picture in a file, upright, on white, no longer than `pixels` on either side.

    Raises InputError, naming the file without its folder, for what is no picture.
    """
    name = os.path.basename(path)
    try:
        picture = on_white(open_image(read_bytes(path), pixels))
    except UnfitImage as error:
        raise InputError(f"{name}: {error.reason.replace('_', ' ')} ({error})") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from None
    picture.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    return picture


def _with_file(folder: Path, example: RawExample) -> RawExample:
    """Its picture is a file, or is written into `folder` when it is read.

    That file is named by where it stands in the source, so that nothing in it chooses a path.
    """
    if example.read_image is None or example.image_path:
        return example
    digest = hashlib.sha256(example.location.encode()).hexdigest()
    path = folder / digest[:2] / digest
    return dataclasses.replace(
        example,
        image_path=str(path),
        read_image=functools.partial(_read_and_keep, example.read_image, path),
    )


def _read_and_keep(read: Callable[[], bytes], path: Path) -> bytes:
    content = read()
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return content
