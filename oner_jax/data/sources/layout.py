"""How the files of a source lie: below which folders, of which kinds, and in which splits.

A directory stands for the files in it at any depth, but for hidden ones. Their splits are taken
from their names where these tell them apart: `train/a.tar`, `test-00000-of-00002.parquet`. What
could be read in two ways is refused, with what was seen and the flag that decides.
"""

import collections
import dataclasses
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from oner_jax.data.sources import files, sample
from oner_jax.data.sources.fields import SPLITS, FieldNames, split_of_folders
from oner_jax.errors import InputError
from oner_jax.files import is_remote

# For --splits: no split is taken from names.
NO_SPLITS = "none"
# Folders of images, and folders with the texts of these beside them; no class is called so.
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "pictures", "photos", "jpg", "jpeg", "png")
TEXT_FOLDERS = ("captions", "caption", "texts", "text", "txt", "annotations", "labels")

_ENDING = re.compile(r"\.tar\.gz$|\.[^./]*$")
_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Tree:
    """The files below a directory, by their paths from it, sorted."""

    root: str
    paths: tuple[str, ...]

    @classmethod
    def of(cls, found: files.Found) -> "Tree":
        """The files that were found, as `survey` finds them."""
        below = len(_root(found.name)) + 1
        return cls(found.name, tuple(path[below:] for path in found.files))

    def ending_in(self, *suffixes: str) -> list[str]:
        """Those whose names end so (in any case)."""
        return [path for path in self.paths if path.lower().endswith(suffixes)]

    @property
    def images(self) -> list[str]:
        """Those that are called like images."""
        return self.ending_in(*(f".{ending}" for ending in sample.IMAGES))

    @property
    def texts(self) -> list[str]:
        """Those that are called like captions."""
        return self.ending_in(*(f".{ending}" for ending in sample.CAPTIONS))

    def described(self) -> str:
        """Return `8 .jpg in train/images, 8 .txt in train/captions`, as much of it as is read."""
        places = collections.Counter(
            (_ending(path), posixpath.dirname(path)) for path in self.paths
        )
        shown = [
            f"{count:,} {ending or 'without ending'}" + (f" in {folder}" if folder else "")
            for (ending, folder), count in places.most_common(_SHOWN)
        ]
        more = len(places) - len(shown)
        return ", ".join(shown) + (f" and {more:,} more kinds or folders" if more > 0 else "")


def find(name: str) -> files.Found:
    """Find what a name stands for, of a directory all files and folders at any depth."""
    if not files.is_directory(name):
        return files.find(name)
    paths, root = survey(name).paths, _root(name)
    folders = {posixpath.dirname(path) for path in paths} - {""}
    inside, below = ([posixpath.join(root, path) for path in some] for some in (paths, folders))
    return files.Found(name, True, tuple(inside), tuple(sorted(below)))


def _root(directory: str) -> str:
    return directory.rstrip("/") or directory


def survey(directory: str) -> Tree:
    """Look below a directory. Links are followed, but not around in a circle."""
    found = _walk_remote(directory) if is_remote(directory) else _walk_local(directory)
    return Tree(directory, tuple(sorted(found)))


def _walk_local(directory: str) -> Iterator[str]:
    visited = set()
    for folder, folders, names in os.walk(directory, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if name[0] != "."]
        below = os.path.relpath(folder, directory)
        for name in names:
            if name[0] != ".":
                yield name if below == "." else os.path.join(below, name)


def _walk_remote(directory: str) -> Iterator[str]:
    root = _root(directory)
    folders = [root]
    while folders:
        inside = files.find(folders.pop())
        folders += inside.folders
        yield from (path[len(root) + 1 :] for path in inside.files)


def split_of(path: str) -> str:
    """Return the split that a path names, by the first folder that is called so, else by the only
    such word in the file's name; empty where it names none.
    """
    *folders, name = path.split("/")
    if split := split_of_folders(folders):
        return split
    words = re.split(r"[^a-z]+", _ENDING.sub("", name).lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def splits_of(name: str, paths: Sequence[str], wanted: Sequence[str] = ()) -> list[str | None]:
    """Return the split of each path; None for those that are not `wanted` (empty: all are).

    Names count where they tell files apart, or where all of a directory say the same split other
    than `train`. InputError where some name a split and others none, and where a split that is
    wanted is not there.
    """
    found = [split_of(path) for path in paths]
    there = sorted(set(found) - {""})
    if list(wanted) == [NO_SPLITS]:
        return [""] * len(paths)
    if wanted:
        if unknown := sorted(set(wanted) - set(there)):
            has = ", ".join(there) or "no files or folders called like splits"
            raise InputError(f"{name}: has no split {unknown[0]!r}; it has {has}")
        return [split if split in wanted else None for split in found]
    if there in ([], ["train"]):
        return [""] * len(paths)
    if "" in found:
        with_split, without = (
            next(path for path, split in zip(paths, found, strict=True) if bool(split) == named)
            for named in (True, False)
        )
        raise InputError(
            f"{name}: {len(found) - found.count(''):,} files name a split ({with_split}: "
            f"{split_of(with_split)}) and {found.count(''):,} do not ({without}); give "
            f"--splits={','.join(there)} to read only those that do, or --splits={NO_SPLITS} to "
            "take none from names"
        )
    return list(found)


def matching_files(
    name: str, suffixes: tuple[str, ...], splits: Sequence[str] = ()
) -> list[files.File]:
    """Return the files that a name means, with their splits, sorted; of a directory those with such
    a suffix at any depth.

    InputError as `splits_of`, and if there is none, or one that a pattern with braces names is
    missing.
    """
    if files.is_directory(name):
        root = _root(name)
        paths = survey(root).ending_in(*suffixes)
        if not paths:
            raise InputError(
                f"{name}: holds no {' or '.join(suffixes)} file; name another directory"
            )
        own = splits_of(name, paths, splits)
        paths = [posixpath.join(root, path) for path in paths]
    else:
        paths = [file.path for file in files.matching_files(name, suffixes)]
        own = _splits_of_named(name, paths, splits)
    return [
        dataclasses.replace(files.file_at(path), split=split)
        for path, split in zip(paths, own, strict=True)
        if split is not None
    ]


def names_for(file: files.File, names: FieldNames, splits: Sequence[str]) -> FieldNames:
    """Return the names of fields for a file of a source, with what its name says of its split."""
    return dataclasses.replace(names, split=file.split, split_folders=list(splits) != [NO_SPLITS])


def _splits_of_named(name: str, paths: list[str], wanted: Sequence[str]) -> list[str | None]:
    """Of files that were named themselves: only where their names tell them apart."""
    common = posixpath.commonpath([files.parent(path) for path in paths]) if paths else ""
    below = [path[len(common) :].lstrip("/") for path in paths]
    if not wanted and len({split_of(path) for path in below}) < 2:
        return [""] * len(paths)
    return splits_of(name, below, wanted)


def folders_beside(paths: Iterable[str]) -> tuple[str, ...]:
    """Return names of folders whose files belong together: `images/1.jpg` and `captions/1.txt`.

    Empty where there are no such folders.
    """
    places: Mapping[tuple[str, str], list[set[str]]] = collections.defaultdict(
        lambda: [set(), set()]
    )
    for path in paths:
        folder, name = posixpath.split(path)
        above, own = posixpath.split(folder)
        stem, ending = posixpath.splitext(name)
        kind = ending[1:].lower()
        if own.lower() in IMAGE_FOLDERS and kind in sample.IMAGES:
            places[above, stem][0].add(own)
        elif own.lower() in TEXT_FOLDERS and kind in (*sample.CAPTIONS, sample.METADATA):
            places[above, stem][1].add(own)
    both = [images | texts for images, texts in places.values() if images and texts]
    return tuple(sorted(set().union(*both)))


def stem_and_ending(path: str, beside: Sequence[str] = ()) -> tuple[str, str]:
    """Return what names the example of a file, without the folders `beside` one another, and the
    ending in small letters.
    """
    stem, ending = posixpath.splitext(path)
    folder, name = posixpath.split(stem)
    above, own = posixpath.split(folder)
    return (posixpath.join(above, name) if own in beside else stem), ending[1:].lower()


def has_texts_beside(tree: Tree) -> bool:
    """Whether some image has a text of the same name beside it."""
    beside = folders_beside(tree.paths)
    texts = tree.ending_in(*(f".{ending}" for ending in (*sample.CAPTIONS, sample.METADATA)))
    stems = {stem_and_ending(path, beside)[0] for path in texts}
    return any(stem_and_ending(path, beside)[0] in stems for path in tree.images)


def are_classes(tree: Tree) -> bool:
    """Whether all images lie in folders that may be classes, with splits above all or none."""
    folders = [path.split("/")[:-1] for path in tree.images]
    if not folders:
        return False
    with_splits = all(len(above) == 2 and above[0].lower() in SPLITS for above in folders)
    return (with_splits or all(len(above) == 1 for above in folders)) and not any(
        above[-1].lower() in (*IMAGE_FOLDERS, *TEXT_FOLDERS, *SPLITS) for above in folders
    )


def _ending(path: str) -> str:
    match = _ENDING.search(path.lower())
    return match[0] if match else ""
