"""A folder of images with a text file of the same name beside each, at any depth.

    photos/0001.jpg photos/0001.txt photos/trip/boat.png photos/trip/boat.txt

The whole text is one caption, line breaks and all; with `--lines=captions` each line is one. A
`.json` of the same name adds what it says, more captions (`"captions": [...]`) among it.
img2dataset's `files` output is such a folder. Texts may lie in a folder beside that of the images:
`train/images/1.jpg train/captions/1.txt`. Links are followed, hidden files are not read, files with
other endings are counted.
"""

import dataclasses
import itertools
import posixpath
from collections.abc import Iterable, Iterator, Sequence

from oner_jax.data.sources import fields, files, img2dataset, layout, sample
from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason, Unread
from oner_jax.errors import InputError

_TEXTS = (*sample.CAPTIONS, sample.METADATA)
_NONE_UNREAD: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Samples:
    """Files below `directory` that follow one another; those of one example are together.

    `size_bytes` is that of all of them. `beside` are folders whose files belong together, and
    `splits` those of the files, one for each. `unread` are the files of the folder that are no part
    of an example, by ending; the first range has them.
    """

    directory: str
    paths: tuple[str, ...]
    size_bytes: int
    examples: int
    names: fields.FieldNames
    splits: tuple[str, ...]
    beside: tuple[str, ...] = ()
    unread: tuple[tuple[str, int], ...] = _NONE_UNREAD
    lines: str = ""

    @property
    def name(self) -> str:
        """The first file."""
        return posixpath.join(self.directory, self.paths[0])

    def read(self) -> Iterator[RawExample | Dropped]:
        """An entry for each image, and for each text without one. Images are not read yet."""
        return self.read_and_count(Unread())

    def read_and_count(self, unread: Unread) -> Iterator[RawExample | Dropped]:
        """As `read`; adds the files that are no part of an example to `unread`."""
        unread.update(dict(self.unread))
        named = ((*layout.stem_and_ending(path, self.beside), path) for path in self.paths)
        splits = dict(zip(self.paths, self.splits, strict=True))
        for stem, paths in sample.grouped(named):
            location = fields.one_line(posixpath.join(self.directory, stem))
            try:
                contents = {ending: self._content(ending, path) for ending, path in paths.items()}
            except FileNotFoundError as error:  # removed since, or a link to nowhere
                yield Dropped(location, Reason.MISSING_CAPTION, fields.one_line(str(error)))
                continue
            yield from sample.sample_entries(
                contents,
                dataclasses.replace(self.names, split=splits[next(iter(paths.values()))]),
                location=location,
                default_id=stem,
                directory=self.directory,
                lines=self.lines,
            )

    def _content(self, ending: str, path: str) -> bytes | str:
        """The bytes of a text, the path of an image."""
        if ending in sample.IMAGES:
            return path
        return files.read_file(posixpath.join(self.directory, path))


def parts(
    name: str,
    examples_per_part: int,
    names: fields.FieldNames,
    *,
    splits: Sequence[str] = (),
    lines: str = "",
) -> list[Part]:
    """Ranges of about `examples_per_part` examples of the folder, then img2dataset's logs in it.

    InputError if the name is no directory, or holds no image or text.
    """
    name = name.rstrip("/") or name
    if not files.is_directory(name):
        raise InputError(f"{name}: is no directory; name one with images and texts")
    logs = img2dataset.logs_beside([name, *files.find(name).folders])
    walked = files.walk(name)
    beside = layout.folders_beside(file.path for file in walked)
    groups, unread = _examples(name, walked, beside, names, set(logs.values()))
    kept, split_of = _with_splits(name, groups, splits)
    found: list[Part] = []
    while some := list(itertools.islice(kept, examples_per_part)):
        members = [file for group in some for file in group.values()]
        paths = tuple(file.path for file in members)
        size_bytes = sum(file.size_bytes for file in members)
        examples = sum(len(sample.image_choices(group, names)) for group in some)
        own = tuple(split_of[path] for path in paths)
        passed_over = _NONE_UNREAD if found else tuple(sorted(unread.items()))
        found.append(
            Samples(name, paths, size_bytes, examples, names, own, beside, passed_over, lines)
        )
    if not found:
        there = ", ".join(f"{count} {ending}" for ending, count in unread.most_common(5))
        raise InputError(
            f"{name}: holds no image and no text{there and f' (but {there})'}; "
            "name the folder that does"
        )
    return [*found, *map(img2dataset.LoggedFailures, logs.values())]


def _examples(
    name: str,
    walked: Iterable[files.File],
    beside: tuple[str, ...],
    names: fields.FieldNames,
    logs: set[files.File],
) -> tuple[list[dict[str, files.File]], Unread]:
    """The files of each example, by ending, in order of their names; and what is no part of one."""
    read: list[tuple[str, str, files.File]] = []
    unread, endings = Unread(), sample.endings_read(names)
    known = {log.path for log in logs}
    for file in walked:
        stem, ending = layout.stem_and_ending(file.path, beside)
        if ending in endings:
            read.append((stem, ending, file))
        elif posixpath.join(name, file.path) not in known:
            unread[sample.unread_ending(ending)] += 1
    read.sort(key=lambda item: (*item[:2], item[2].path))
    groups = []
    for _, group in sample.grouped(read):
        if set(group) == {sample.METADATA}:  # alone it describes something else
            unread[sample.unread_ending(sample.METADATA)] += 1
        else:
            groups.append(group)
    return groups, unread


def _with_splits(
    name: str, groups: list[dict[str, files.File]], wanted: Sequence[str]
) -> tuple[Iterator[dict[str, files.File]], dict[str, str]]:
    """The groups of the wanted splits, and the split of every file of these."""
    firsts = [next(iter(group.values())).path for group in groups]
    found = layout.splits_of(name, firsts, wanted)
    kept = [(group, own) for group, own in zip(groups, found, strict=True) if own is not None]
    return iter([group for group, _ in kept]), {
        file.path: own for group, own in kept for file in group.values()
    }


def recognises(found: files.Found) -> bool:
    """Whether images in a directory have texts beside them."""
    return found.is_directory and layout.has_texts_beside(layout.Tree.of(found))
