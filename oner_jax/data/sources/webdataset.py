"""Webdataset's tar archives, those of img2dataset among them: files of one name in a row.

    00000.tar: 000000000.jpg 000000000.txt 000000000.json 000000001.jpg ...

The key of an example is its files' path up to the first dot of the name. As in webdataset, names
without a dot, hidden ones and `__names__` like this belong to none. Files of one name that do not
follow one another are examples of their own with the same id.
"""

import contextlib
import dataclasses
import gzip
import io
import re
from collections.abc import Iterator, Sequence

from oner_jax.data.sources import fields, files, img2dataset, layout, sample
from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason
from oner_jax.data.sources.tar_members import Damage, read_members

_COMPRESSED = (".tar.gz", ".tgz")
SUFFIXES = (".tar", *_COMPRESSED)

_KEY_AND_ENDING = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive, with img2dataset's log of it where there is one."""

    file: files.File
    names: fields.FieldNames
    id_prefix: str
    log: files.File | None

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
        keys: set[str] = set()
        cut: list[Dropped] = []
        empty = True
        for entry in self._entries(keys, cut):
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

    def _entries(self, keys: set[str], cut: list[Dropped]) -> Iterator[RawExample | Dropped]:
        """What is whole in it. Adds the keys of that, and to `cut` what a cut has taken."""
        damages: list[Damage] = []
        for key, contents in sample.grouped(self._files(damages)):
            entries = list(
                sample.sample_entries(
                    contents,
                    self.names,
                    location=self._location(key),
                    default_id=self.id_prefix + key,
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
        with self._open() as file:
            size_bytes = None if self._compressed else self.file.size_bytes
            for member in read_members(file, size_bytes):
                if isinstance(member, Damage):
                    damages.append(member)
                elif split := key_and_ending(member.name):
                    yield *split, member.content

    @contextlib.contextmanager
    def _open(self) -> Iterator[io.BufferedIOBase]:
        with files.open_file(self.file.path) as file:
            yield gzip.GzipFile(fileobj=file) if self._compressed else file

    @property
    def _compressed(self) -> bool:
        return self.file.path.lower().endswith(_COMPRESSED)

    def _dropped(self, damage: Damage) -> Dropped:
        location = self._location(damage.name) if damage.name else self.file.path
        return Dropped(location, damage.reason, fields.one_line(damage.detail))

    def _location(self, name: str) -> str:
        return f"{self.file.path}: {fields.one_line(name)}"


def parts(
    name: str, examples_per_part: int, names: fields.FieldNames, *, splits: Sequence[str] = ()
) -> list[Part]:
    """One part for each archive that the name means. InputError if there is none."""
    del examples_per_part  # an archive can be read from its start alone
    found = layout.matching_files(name, SUFFIXES, splits)
    logs = img2dataset.logs_beside(file.path for file in found)
    return [
        Archive(file, dataclasses.replace(names, split=file.split), prefix, logs.get(file.path))
        for file, prefix in zip(found, files.id_prefixes(found), strict=True)
    ]


def key_and_ending(name: str) -> tuple[str, str] | None:
    """The key of a member and what follows it, in small letters; None if it belongs to none."""
    name = name.removeprefix("./")
    match = _KEY_AND_ENDING.fullmatch(name)
    if not match or _META.match(name):
        return None
    return match[1], match[2].lower()


def _reaches(damage: Damage, key: str, entries: list[RawExample | Dropped]) -> bool:
    """Whether this is a cut through the group, as far as can be seen."""
    if damage.reason != Reason.TRUNCATED_ARCHIVE:
        return False
    split = key_and_ending(damage.name)
    return (split is not None and split[0] == key) or not all(
        isinstance(entry, RawExample) and entry.read_image and entry.captions for entry in entries
    )
