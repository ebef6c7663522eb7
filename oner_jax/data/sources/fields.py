"""From named fields, as every source has them in some form, to a raw example.

Which field is the image, which are captions and which is the id is said by `FieldNames`, or guessed
from names in common use. `label` and `split` are called so everywhere. All others become metadata.
"""

import collections
import dataclasses
import functools
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from oner_jax.data import image_formats
from oner_jax.data.records import RECORD_FEATURES
from oner_jax.data.sources.files import read_file
from oner_jax.data.sources.raw import Dropped, RawExample, Reason
from oner_jax.data.tokenizer import is_blank
from oner_jax.errors import InputError
from oner_jax.files import is_remote

# By the words that files and folders are called: what the split is called here.
SPLITS = {
    **{"train": "train", "training": "train", "val": "val", "valid": "val"},
    **{"validation": "validation", "dev": "dev", "test": "test", "testing": "test"},
}

# Said of a source that has no such field, where the name cannot be guessed.
NO_FIELD = "none"

_OURS = {"image": ("image",), "caption": ("caption", "captions")}
# Those of open_clip, Hugging Face and img2dataset.
_USUAL = {
    "image": (
        *("filepath", "file_name", "filename", "image_path", "image_file", "path", "img"),
        *sorted(image_formats.ENDINGS),
    ),
    "caption": ("title", "text", "txt", "description", "sentence"),
}
ID_NAMES = ("id", "key", "uid", "__key__")

# Sizes are measured from the image, so a source's own word on them is not kept.
_IGNORED = ("width", "height")
_KNOWN = ("label", "split", *_IGNORED)
# img2dataset's account of an image; the two stand together in all it writes.
_STATUS, _ERROR, _SUCCESS = "status", "error_message", "success"

_MESSAGE_CHARACTERS = 200
_MOST_EXACT = 2.0**53  # beyond, a float does not tell neighbouring whole numbers apart


@dataclasses.dataclass(frozen=True)
class FieldNames:
    """Which field is the image, which are captions (the main one first), which is the id.

    What is empty is guessed; `none` says that there is no such field. As `resolve` returns it,
    nothing is left to guess, and an empty name stands for no field. `split` is that of examples
    without such a field; where it is empty, with `split_folders`, it is the folder of splits that
    the image's path leads through, as in `test/0001.jpg`.
    """

    image: str = ""
    captions: tuple[str, ...] = ()
    id: str = ""
    split: str = ""
    split_folders: bool = False


class _Unusable(Exception):
    """The fields make no example."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def split_of_folders(folders: Iterable[str]) -> str:
    """Return the split that the first folder called like one stands for; empty if none is."""
    return next((SPLITS[name.lower()] for name in folders if name.lower() in SPLITS), "")


def resolve(names: FieldNames, columns: Iterable[str], source: str) -> FieldNames:
    """The names to use for a source with these fields (as far as they are known).

    InputError if one that was asked for is not there, or if the image or the captions could be any
    of several fields or, with fields of unknown meaning there, none.
    """
    columns = list(columns)
    listing = ", ".join(columns)
    if twice := [name for name, count in collections.Counter(columns).items() if count > 1]:
        raise InputError(f"{source}: field {twice[0]!r} occurs twice; rename one")
    for name in (names.image, *names.captions, names.id):
        if columns and name not in ("", NO_FIELD, *columns):
            raise InputError(f"{source}: has no field {name!r}; its fields are {listing}")
    images = (names.image,) if names.image else guess("image", columns, source)
    captions = names.captions or guess("caption", columns, source)
    identifier = names.id or next((name for name in ID_NAMES if name in columns), "id")
    unknown = set(columns) - {*images, *captions, identifier, *_KNOWN}
    for option, found in (("image", images), ("caption", captions)):
        if unknown and not found:
            raise InputError(
                f"{source}: which field is the {option}? Its fields are {listing}; "
                f"give --{option}_field=NAME, or --{option}_field={NO_FIELD}"
            )
    return FieldNames(
        image=_or_empty((images or _OURS["image"])[0]),
        captions=tuple(name for name in captions or _OURS["caption"] if name != NO_FIELD),
        id=_or_empty(identifier),
        split=names.split,
        split_folders=names.split_folders,
    )


def _or_empty(name: str) -> str:
    return "" if name == NO_FIELD else name


def guess(option: str, columns: list[str], source: str) -> tuple[str, ...]:
    """Our own names if one is there, else the only field with a usual name; nothing if none has."""
    if _ERROR in columns and option == "caption" and "txt" in columns:
        return (*_OURS[option], "txt")  # img2dataset writes the caption twice
    if set(_OURS[option]) & set(columns):
        return _OURS[option]
    found = [name for name in columns if name.lower() in _USUAL[option]]
    if len(found) > 1:
        raise InputError(
            f"{source}: {' and '.join(found)} may each be the {option}; "
            f"choose one with --{option}_field=NAME"
        )
    return tuple(found)


def example_of(
    fields: Mapping[str, Any],
    names: FieldNames,
    *,
    location: str,
    default_id: str,
    directory: str,
    numbered: bool = False,
) -> RawExample | Dropped:
    """The example with these fields, or why there is none.

    `numbered` says that `default_id` is only the entry's place, and so names nothing.

    A field that is None is absent. The image is the path of a file (from `directory`), or a file's
    bytes, or a mapping with `bytes` or `path`. Captions are texts or lists of texts, and each is
    kept once, without the space around it. Texts may be bytes. An absent image or caption is left
    to the caller, but not both.
    """
    try:
        status = _text(fields, _STATUS) if _STATUS in fields and _ERROR in fields else _SUCCESS
        if status != _SUCCESS:
            raise _Unusable(Reason.NOT_DOWNLOADED, _text(fields, _ERROR) or status)
        captions = _captions(fields, names.captions)
        value = fields.get(names.image) if names.image else None
        image = _image(value, directory)
        own_id = _text(fields, names.id)
        if image is None and not captions:
            raise _Unusable(Reason.MISSING_IMAGE, "has neither an image nor a caption")
        return RawExample(
            location=location,
            id=own_id or _utf8(default_id, "its name"),
            read_image=functools.partial(read_file, image) if isinstance(image, str) else image,
            image_path=image if isinstance(image, str) else "",
            captions=captions,
            label=_text(fields, "label"),
            split=_text(fields, "split") or names.split or _split_folder(value, names),
            metadata=_metadata(fields, names),
            image_name=_name_inside(value),
            numbered=numbered and not own_id,
        )
    except _Unusable as unusable:
        return Dropped(location, unusable.reason, one_line(unusable.detail))


def _captions(fields: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in names:
        value = fields.get(name)
        for text in value if isinstance(value, list | tuple) else [value]:
            if text is None:
                continue
            if not isinstance(text, str | bytes):
                raise _Unusable(Reason.BROKEN_ENTRY, f"{name} is no string or list of strings")
            caption = _utf8(text, name).strip()
            if not is_blank(caption):
                found[caption] = None
    return tuple(found)


def _image(value: Any, directory: str) -> Callable[[], bytes] | str | None:
    """How to get at the file's content, or its path; None if there is none."""
    if isinstance(value, Mapping):  # as Hugging Face's datasets hold it
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        if not value:
            raise _Unusable(Reason.EMPTY_IMAGE, "the image has 0 bytes")
        return functools.partial(bytes, value)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _Unusable(Reason.BROKEN_ENTRY, "the image is no path")
    if value.startswith(("http://", "https://")):
        raise _Unusable(Reason.MISSING_IMAGE, f"{value} has to be downloaded first (img2dataset)")
    path = value if is_remote(value) else os.path.join(directory, value)
    if not is_remote(path):  # elsewhere asking costs as much as reading, which says it, too
        _check_local_file(path)
    return path


def _split_folder(value: Any, names: FieldNames) -> str:
    path = value if isinstance(value, str) else _name_inside(value)
    if not names.split_folders or os.path.isabs(path) or is_remote(path):
        return ""
    return split_of_folders(path.split("/")[:-1])


def _name_inside(value: Any) -> str:
    """What Hugging Face's datasets call an image whose bytes they hold."""
    path = value.get("path") if isinstance(value, Mapping) else None
    return path if isinstance(path, str) else ""


def _check_local_file(path: str) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: no file can be called that
        raise _Unusable(Reason.MISSING_IMAGE, f"{path!r} does not exist") from error
    if not stat.S_ISREG(status.st_mode):
        raise _Unusable(Reason.MISSING_IMAGE, f"{path!r} is no file")
    if not status.st_size:
        raise _Unusable(Reason.EMPTY_IMAGE, f"{path!r} has 0 bytes")


def _text(fields: Mapping[str, Any], name: str) -> str:
    """A field as text; empty if absent. A list of one is what is in it, a longer one is JSON."""
    value = fields.get(name) if name else None
    while isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if value is None or value == [] or value != value:  # pandas has NaN for what is absent
        return ""
    if isinstance(value, str | bytes):
        return _utf8(value, name)
    if isinstance(value, Mapping):
        raise _Unusable(Reason.BROKEN_ENTRY, f"{name} is no string")
    if isinstance(value, float) and value.is_integer():
        # A column of whole numbers with gaps becomes one of floats in pandas: 12.0 is 12.
        return str(int(value)) if abs(value) < _MOST_EXACT else repr(value)
    return _utf8(_json(value) if isinstance(value, bool | list | tuple) else str(value), name)


def _metadata(fields: Mapping[str, Any], names: FieldNames) -> dict[str, str]:
    used = {names.image, *names.captions, names.id, *_KNOWN}
    if _STATUS in fields and _ERROR in fields:
        used |= {_STATUS, _ERROR}
    metadata: dict[str, str] = {}
    for name, value in fields.items():
        if name in used or value is None:
            continue
        text = value if isinstance(value, str | bytes) else _json(value)
        metadata[_free_name(_utf8(name, "a field's name"), fields)] = _utf8(text, name)
    return metadata


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    """The name, or a longer one where a record has a feature of that name."""
    if name not in RECORD_FEATURES:
        return name
    name = f"source_{name}"
    while name in taken:
        name += "_"
    return name


def _utf8(text: str | bytes, name: str) -> str:
    """The text, if UTF-8 it is (JSON's escapes can name what UTF-8 has no bytes for)."""
    try:
        if isinstance(text, bytes):
            return text.decode("utf-8-sig")  # some editors begin a file with a mark
        text.encode()
    except UnicodeError as error:
        raise _Unusable(Reason.INVALID_TEXT, f"{name} is no UTF-8 text") from error
    return text


def one_line(text: str) -> str:
    """What a source says as part of a message: printable, in one line, of limited length."""
    printable = " ".join(text.encode(errors="backslashreplace").decode().split())
    return (
        printable
        if len(printable) <= _MESSAGE_CHARACTERS
        else printable[:_MESSAGE_CHARACTERS] + "..."
    )
