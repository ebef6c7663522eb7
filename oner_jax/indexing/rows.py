"""What of a source becomes a row of embeddings."""

from collections.abc import Iterator
from typing import NamedTuple

from oner_jax.data.reasons import Reason
from oner_jax.data.sources import Dropped, RawExample

# By what the user calls it: the encoder's view.
VIEWS = {"image": "I", "text": "T", "joint": "IT"}


class Row(NamedTuple):
    """One embedding's origin: the example's id, its image's path (empty if it is no file of its
    own) and the caption (that was embedded, or the main one)."""

    id: str
    image: str
    caption: str


class Item(NamedTuple):
    """A row to be, with where it comes from and, where its view has a picture, that example.

    `has_file` says that the row's image is a file of the source.
    """

    row: Row
    location: str
    example: RawExample | None
    has_file: bool


def items_of(entry: RawExample, view: str) -> Iterator[Item | Dropped]:
    """The rows of one example: its picture, each caption, or its picture with the main caption.

    Dropped if it has not what the view needs.
    """
    main = entry.captions[0] if entry.captions else ""
    if "I" in VIEWS[view] and entry.read_image is None:
        yield Dropped(entry.location, Reason.MISSING_IMAGE, f"--view={view} needs a picture")
    elif "T" in VIEWS[view] and not main:
        detail = "; ".join(filter(None, [f"--view={view} needs a caption", entry.without_captions]))
        yield Dropped(entry.location, Reason.MISSING_CAPTION, detail)
    elif view == "text":
        for caption in entry.captions:
            yield Item(Row(entry.id, entry.image_path, caption), entry.location, None, False)
    else:
        row = Row(entry.id, entry.image_path, main)
        yield Item(row, entry.location, entry, bool(entry.image_path))
