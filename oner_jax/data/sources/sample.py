"""Files of one name that make an example together: an image, and texts and JSON beside it.

So webdataset's archives and folders of pictures are laid out. Image files are those with an ending
in use for them; `.txt` and `.caption` are texts, and the fields of `.json` (img2dataset's, several
captions, anything else) count like columns of a table. Files with other endings are left alone.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from oner_jax.data.sources import fields
from oner_jax.data.sources.raw import Dropped, RawExample, Reason

# By ending, without the dot in front.
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
CAPTIONS = ("txt", "caption")  # the second is what Kohya's scripts write
METADATA = "json"

_TEXTS = (*CAPTIONS, "text", "cls")

Content = TypeVar("Content")


def grouped(files: Iterable[tuple[str, str, Content]]) -> Iterator[tuple[str, dict[str, Content]]]:
    """Files (name, ending, content) that follow one another and have the same name, by ending.

    An ending that comes again begins another group of that name.
    """
    name, group = "", dict[str, Content]()
    for file_name, ending, content in files:
        if group and (file_name != name or ending in group):
            yield name, group
            group = {}
        name = file_name
        group[ending] = content
    if group:
        yield name, group


def sample_entries(
    files: Mapping[str, bytes | str],
    names: fields.FieldNames,
    *,
    location: str,
    default_id: str,
    directory: str = "",
) -> Iterator[RawExample | Dropped]:
    """The entries that files make, each given by its ending: contents, or an image's path.

    That is one, or one for each image where there are several. `names` may choose among endings
    and the fields of the JSON; what it leaves open is found here.
    """
    images = image_choices(files, names)
    try:
        described = _json_fields(files.get(METADATA, b"{}"))
    except UnicodeDecodeError:
        detail = f"its .{METADATA} is no UTF-8 text"
        yield from [Dropped(location, Reason.INVALID_TEXT, detail)] * len(images)
        return
    except (ValueError, RecursionError) as error:
        detail = fields.one_line(f"its .{METADATA} is no JSON object: {error}")
        yield from [Dropped(location, Reason.BROKEN_ENTRY, detail)] * len(images)
        return
    captions = names.captions or (*CAPTIONS, "captions")
    chosen = {*captions, names.id, *_TEXTS}
    texts = {ending: content for ending, content in files.items() if ending in chosen}
    known_id = next((name for name in fields.ID_NAMES if name in described), "")
    for image in images:
        found = {image: files[image]} if image in files else {}
        yield fields.example_of(
            {**described, **texts, **found},
            fields.FieldNames(
                image="" if image == fields.NO_FIELD else image,
                captions=tuple(name for name in captions if name != fields.NO_FIELD),
                id="" if names.id == fields.NO_FIELD else names.id or known_id,
                split=names.split,
            ),
            location=location,
            default_id=default_id,
            directory=directory,
        )


def image_choices(endings: Iterable[str], names: fields.FieldNames) -> list[str]:
    """Which of the files is the image of each entry that they make; `none` where there is none."""
    if names.image:
        return [names.image]
    return [ending for ending in endings if ending in IMAGES] or [fields.NO_FIELD]


def _json_fields(content: bytes | str) -> dict[str, Any]:
    """ValueError (UnicodeDecodeError for text that is no UTF-8) if it is no JSON object."""
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("write {...}")
    return found
