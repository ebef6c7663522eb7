"""Files of one name that make an example together: an image, and texts and JSON beside it.

So webdataset's archives and folders of pictures are laid out. Image files are those with an ending
in use for them; `.txt` and `.caption` are texts, and the fields of `.json` (img2dataset's, several
captions, anything else) count like columns of a table. Files with other endings are counted only.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from oner_jax.data import image_formats
from oner_jax.data.sources import fields
from oner_jax.data.sources.raw import Dropped, RawExample, Reason

# By ending, without the dot in front.
IMAGES = image_formats.ENDINGS
CAPTIONS = ("txt", "caption")  # the second is what Kohya's scripts write
METADATA = "json"
# What the lines of a text file are: together one caption, or each a caption.
LINES = ("caption", "captions")

TEXTS = (*CAPTIONS, "text", "cls")

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
    lines: str = "",
) -> Iterator[RawExample | Dropped]:
    """The entries that files make, each given by its ending: contents, or an image's path.

    That is one, or one for each image where there are several. `names` may choose among endings
    and the fields of the JSON; what it leaves open is found here. With `lines` "captions" each line
    of a text is a caption.
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
    chosen = {*captions, names.id, *TEXTS}
    texts: dict[str, Any] = {ending: text for ending, text in files.items() if ending in chosen}
    if lines:
        texts |= {name: texts[name].splitlines() for name in captions if name in texts}
    known_id = next((name for name in fields.ID_NAMES if name in described), "")
    for image in images:
        found = {image: files[image]} if image in files else {}
        entry = fields.example_of(
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
        if isinstance(entry, RawExample) and not entry.captions:
            others = [name for name in entry.metadata if name not in ("url", "key")]
            entry = dataclasses.replace(entry, without_captions=_without(captions, others))
        yield entry


def _without(captions: Iterable[str], others: Sequence[str]) -> str:
    """What there is in place of captions under these names."""
    if not others:
        return ""
    return fields.one_line(
        f"has no {' or '.join(captions)}, but {', '.join(others)}; "
        "if one of these is the caption, give --caption_field=NAME"
    )


def endings_read(names: fields.FieldNames) -> set[str]:
    """Return the endings of files that can be part of an example, as far as all readers agree."""
    chosen = {names.image, *names.captions, names.id} - {"", fields.NO_FIELD}
    return {*IMAGES, *CAPTIONS, METADATA} | chosen


def unread_ending(ending: str) -> str:
    """Return what files of an ending that is not read are counted as: `.svg`, of `seg.png` `*.png`.

    The part of a name before the last dot may be different in each.
    """
    before, dot, last = ending.rpartition(".")
    return f"{'*' if before else ''}.{last}" if dot or last else "without an ending"


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
