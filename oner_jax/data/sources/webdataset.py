"""Webdataset's tar archives, those of img2dataset among them: files of one name in a row.

    00000.tar: 000000000.jpg 000000000.txt 000000000.json 000000001.jpg ...

The key of an example is its files' path up to the first dot of the name. As in webdataset, names
without a dot, hidden ones and `__names__` like this belong to none. Files of one name that do not
follow one another are examples of their own with the same id. Where that makes no example, or would
lose an image with its text, names go to the last dot: `shop.v1.0.jpg` and `shop.v1.0.txt`.

Whether an archive is compressed is seen from its first bytes, whatever its name says.
"""

import contextlib
import dataclasses
import gzip
import io
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from oner_jax.data.sources import fields, files, img2dataset, layout, sample
from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason, Unread
from oner_jax.data.sources.tar_members import Damage, read_members

SUFFIXES = (".tar", ".tar.gz", ".tgz")

_KEY_AND_ENDING = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
_GZIP = b"\x1f\x8b"
# Of one key in memory at once, before those up to the last dot are told apart.
_MOST_FILES = 256
_META = re.compile(r"__[^/]*__($|/)")


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive, with img2dataset's log of it where there is one."""

    file: files.File
    names: fields.FieldNames
    id_prefix: str
    log: files.File | None
    lines: str = ""

    @property
    def name(self) -> str:
        """The archive's path."""
        return self.file.path

    @property
    def examples(self) -> int | None:
        """Only reading tells."""
        return None

    def read(self) -> Iterator[RawExample | Dropped]:
        """Its examples, and what became none. OSError if it cannot be opened."""
        return self.read_and_count(Unread())

    def read_and_count(self, unread: Unread) -> Iterator[RawExample | Dropped]:
        """As `read`; adds the files that are no part of an example to `unread`."""
        keys: set[str] = set()
        cut: list[Dropped] = []
        empty = True
        for entry in self._entries(keys, cut, unread):
            empty = False
            yield entry
        # With a log what lies behind a cut is known one by one.
        missing = list(img2dataset.missing_entries(self.log, keys)) if self.log else []
        lost = any(entry.reason == Reason.TRUNCATED_ARCHIVE for entry in missing)
        yield from missing
        if not lost:
            yield from cut
        if empty and not missing and not cut:
            yield Dropped(self.file.path, Reason.EMPTY_ARCHIVE, "holds no example")

    def _entries(
        self, keys: set[str], cut: list[Dropped], unread: Unread
    ) -> Iterator[RawExample | Dropped]:
        """What is whole in it. Adds the keys of that, and to `cut` what a cut has taken."""
        damages: list[Damage] = []
        endings = sample.endings_read(self.names) | set(sample.TEXTS)
        for key, contents in _examples(self._files(damages), endings):
            unread.update(map(sample.unread_ending, contents.keys() - endings))
            entries = list(
                sample.sample_entries(
                    contents,
                    self.names,
                    location=self._location(key),
                    default_id=self.id_prefix + key,
                    lines=self.lines,
                )
            )
            # The end of what can be read comes last, before the last group is complete.
            if damages and _reaches(damages[-1], key, entries):
                detail = "is not whole, and the archive ends"
                cut.append(Dropped(self._location(key), Reason.TRUNCATED_ARCHIVE, detail))
                continue
            keys.add(key)
            yield from entries
        for damage in damages:
            dropped = self._dropped(damage)
            if damage.reason == Reason.TRUNCATED_ARCHIVE:
                cut.append(dropped)
            else:
                yield dropped

    def _files(self, damages: list[Damage]) -> Iterator[tuple[str, str, bytes]]:
        """Key, ending and content of what belongs to an example; adds what is none to `damages`."""
        with self._open() as (file, size_bytes):
            for member in read_members(file, size_bytes):
                if isinstance(member, Damage):
                    damages.append(member)
                elif split := key_and_ending(member.name):
                    yield *split, member.content

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[io.BufferedIOBase, int | None]]:
        """The archive, and its size where that is known."""
        with files.open_file(self.file.path) as file:
            is_compressed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            if is_compressed:
                yield gzip.GzipFile(fileobj=file), None
            else:
                yield file, self.file.size_bytes

    def _dropped(self, damage: Damage) -> Dropped:
        location = self._location(damage.name) if damage.name else self.file.path
        return Dropped(location, damage.reason, fields.one_line(damage.detail))

    def _location(self, name: str) -> str:
        return f"{self.file.path}: {fields.one_line(name)}"


def parts(
    name: str,
    examples_per_part: int,
    names: fields.FieldNames,
    *,
    splits: Sequence[str] = (),
    lines: str = "",
) -> list[Part]:
    """One part for each archive that the name means. InputError if there is none."""
    del examples_per_part  # an archive can be read from its start alone
    found = layout.matching_files(name, SUFFIXES, splits)
    logs = img2dataset.logs_beside(file.path for file in found)
    return [
        Archive(
            file, dataclasses.replace(names, split=file.split), prefix, logs.get(file.path), lines
        )
        for file, prefix in zip(found, files.id_prefixes(found), strict=True)
    ]


def key_and_ending(name: str) -> tuple[str, str] | None:
    """The key of a member and what follows it, in small letters; None if it belongs to none."""
    name = name.removeprefix("./")
    match = _KEY_AND_ENDING.fullmatch(name)
    if not match or _META.match(name):
        return None
    return match[1], match[2].lower()


def _examples(
    files: Iterable[tuple[str, str, bytes]], endings: set[str]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and files, by ending, of each example of files (key, ending, content) in their order."""
    for key, group in _groups(files, endings):
        is_example = not endings.isdisjoint(group)
        apart = {
            stem: own
            for stem, own in _by_last_dot(group, endings).items()
            if not is_example or (_holds(own, sample.IMAGES) and _holds(own, sample.CAPTIONS))
        }
        taken = {f"{stem}.{last}" for stem, own in apart.items() for last in own}
        rest = {ending: content for ending, content in group.items() if ending not in taken}
        if is_example or not apart:
            yield key, rest
            rest = {}
        for stem, own in apart.items():
            yield f"{key}.{stem}", own | rest
            rest = {}


def _groups(
    files: Iterable[tuple[str, str, bytes]], endings: set[str]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """As `sample.grouped`; many files of one key that make no example stay together only as far as
    their names to the last dot agree."""
    key, stem, group = "", "", dict[str, bytes]()
    for file_key, ending, content in files:
        file_stem = f"{file_key}.{ending}".rpartition(".")[0]
        is_full = len(group) >= _MOST_FILES and file_stem != stem and endings.isdisjoint(group)
        if group and (file_key != key or ending in group or is_full):
            yield key, group
            group = {}
        key, stem = file_key, file_stem
        group[ending] = content
    if group:
        yield key, group


def _by_last_dot(group: dict[str, bytes], endings: set[str]) -> dict[str, dict[str, bytes]]:
    """The files whose ending is only known from its last dot on, by what is before that."""
    found: dict[str, dict[str, bytes]] = {}
    for ending, content in group.items():
        stem, _, last = ending.rpartition(".")
        if stem and last in endings and ending not in endings:
            found.setdefault(stem, {})[last] = content
    return found


def _holds(group: Iterable[str], endings: Collection[str]) -> bool:
    return any(ending in endings for ending in group)


def _reaches(damage: Damage, key: str, entries: list[RawExample | Dropped]) -> bool:
    """Whether this is a cut through the group, as far as can be seen."""
    if damage.reason != Reason.TRUNCATED_ARCHIVE:
        return False
    split = key_and_ending(damage.name)
    keys = (split[0], ".".join(split).rpartition(".")[0]) if split else ()
    return key in keys or not all(
        isinstance(entry, RawExample) and entry.read_image and entry.captions for entry in entries
    )
