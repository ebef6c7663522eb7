"""Folders that are classes, as ImageNet comes: `train/n01440764/n01440764_10026.JPEG`.

A picture's caption is what its class is called: the folder's name, or what a file of class names
says. Above the classes there may be folders of splits.
"""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence

from oner_jax.configuration import nearest
from oner_jax.data.sources import fields, files, layout
from oner_jax.data.sources.class_names import Names, names_of_classes
from oner_jax.data.sources.raw import Dropped, Part, RawExample
from oner_jax.errors import InputError
from oner_jax.files import is_remote

_NAMES = fields.FieldNames("image", ("captions",))


@dataclasses.dataclass(frozen=True)
class ClassFolder:
    """A range of the files in the folder of a class, in alphabetical order, from number `first`.

    `content_hash` is that of their names and sizes. `captions` are empty where none are wanted.
    """

    root: str
    split: str
    class_name: str
    label: str
    captions: Names
    first: int
    examples: int
    content_hash: str

    @property
    def name(self) -> str:
        """The folder and the first file's number."""
        return f"{self._folder}[{self.first}]"

    @property
    def _folder(self) -> str:
        return os.path.join(self.root, self.split, self.class_name)

    def read(self) -> Iterator[RawExample | Dropped]:
        """Its files: whatever is there is meant to be a picture. OSError if there is no folder."""
        names = [name for name, _ in _files(self._folder)]
        for name in names[self.first : self.first + self.examples]:
            path = os.path.join(self._folder, name)
            row = {
                "image": path,
                "captions": self.captions,
                "label": self.label,
                "split": fields.SPLITS.get(self.split, self.split),
                "class": self.class_name if self.class_name != self.label else None,
            }
            yield fields.example_of(
                row,
                _NAMES,
                location=path,
                default_id=os.path.relpath(path, self.root),
                directory="",
            )


def recognises(found: files.Found) -> bool:
    """Whether it is a directory with all images in folders that may be classes."""
    return (
        bool(found.folders)
        and not is_remote(found.name)
        and layout.are_classes(layout.Tree.of(found))
    )


def parts(
    name: str,
    examples_per_part: int,
    names: fields.FieldNames,
    *,
    class_names: str = "",
    splits: Sequence[str] = (),
) -> list[Part]:
    """Ranges of at most `examples_per_part` files of each class, in alphabetical order.

    InputError if there are no classes or splits of that kind, or if a class has no name. Only
    local folders: elsewhere looking at a million files would take longer than reading them.
    """
    if is_remote(name):
        raise InputError(
            f"{name}: folders of classes must be local; copy them, or pack them in tar"
        )
    root = name.rstrip("/") or name
    by_split = {split: _folders(os.path.join(root, split)) for split in _splits(root, splits)}
    classes = sorted(set(itertools.chain(*by_split.values())))
    if not classes:
        raise InputError(f"{name}: has no folders of classes; name the folder above them")
    with_captions = fields.NO_FIELD not in names.captions
    if with_captions or class_names:
        called = names_of_classes(classes, class_names, name)
    else:
        called = {class_name: (class_name,) for class_name in classes}
    return [
        part
        for split, own in by_split.items()
        for class_name in own
        for part in _class_parts(
            root, split, class_name, called[class_name], with_captions, examples_per_part
        )
    ]


def _splits(root: str, wanted: Sequence[str]) -> list[str]:
    """The folders of splits to read; one with an empty name if there are none."""
    folders = _folders(root)
    available = folders if folders and set(folders) <= set(fields.SPLITS) else []
    if unknown := [split for split in wanted if split not in available]:
        listing = ", ".join(available) or "no folders of splits"
        raise InputError(
            f"{root}: has no split {unknown[0]!r}{nearest(unknown[0], available)}; it has {listing}"
        )
    return list(wanted) or available or [""]


def _class_parts(
    root: str,
    split: str,
    class_name: str,
    called: Names,
    with_captions: bool,
    examples_per_part: int,
) -> Iterator[ClassFolder]:
    listed = _files(os.path.join(root, split, class_name))
    for first in range(0, len(listed), examples_per_part):
        content = listed[first : first + examples_per_part]
        yield ClassFolder(
            root=root,
            split=split,
            class_name=class_name,
            label=called[0],
            captions=called if with_captions else (),
            first=first,
            examples=len(content),
            content_hash=hashlib.sha256(repr(content).encode(errors="replace")).hexdigest(),
        )


def _files(folder: str) -> list[tuple[str, int]]:
    """Name and size of every file in it but the hidden ones, sorted."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry.name, entry.stat().st_size)
            for entry in entries
            if entry.name[:1] != "." and entry.is_file()
        )


def _folders(folder: str) -> list[str]:
    """The names of the folders in it but the hidden ones, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.name[:1] != "." and e.is_dir())
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); name another directory"
        ) from error
