"""Annotation files: one JSON file that lists pictures, and captions for them.

Karpathy's splits, COCO's own captions and Visual Genome's regions are each a long array, of up to
some hundred megabytes. It is never held whole: planning notes which bytes the elements take, and a
part reads its own.
"""

import abc
import dataclasses
import itertools
import json
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from oner_jax.data.sources import fields, files
from oner_jax.data.sources.json_arrays import array_elements
from oner_jax.data.sources.raw import Dropped, RawExample, Reason
from oner_jax.errors import InputError

SUFFIXES = (".json",)

_NAMES = fields.FieldNames("image", ("captions",), "id")
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
_PICTURES_TO_LOOK_FOR = 100
_HEAD_BYTES = 2**16


@dataclasses.dataclass(frozen=True)
class Annotated:
    """What an annotation file says of a picture. `paths`: where it may be, the likeliest first."""

    id: str
    paths: tuple[str, ...]
    captions: tuple[str, ...]
    split: str = ""


@dataclasses.dataclass(frozen=True)
class AnnotationRange(abc.ABC):
    """A range of the elements of a file's array of pictures, from number `first`.

    A kind of annotation file is a subclass: it says under which key the `array` is (empty if the
    file is the array), and reads an element. Paths of pictures start at `image_directory`.
    """

    array: ClassVar[str]

    file: files.File
    image_directory: str
    first: int
    examples: int
    offset_bytes: int
    length_bytes: int

    @staticmethod
    @abc.abstractmethod
    def annotated(element: Any, file: files.File) -> Annotated:
        """What an element says. KeyError, TypeError or ValueError if it is not as it should be."""

    @property
    def name(self) -> str:
        """The file and the first element's number."""
        return f"{self.file.path}[{self.first}]"

    def read(self) -> Iterator[RawExample | Dropped]:
        """Its elements. OSError if the file cannot be opened."""
        with files.open_file(self.file.path) as opened:
            opened.seek(self.offset_bytes)
            content = opened.read(self.length_bytes)
        try:
            elements = _parsed(b"[" + content + b"]")
            if len(elements) != self.examples:
                raise ValueError(f"{len(elements)} of {self.examples} are left")
        except (ValueError, RecursionError) as error:  # it was JSON when it was cut into parts
            detail = fields.one_line(f"the file has changed ({error})")
            yield Dropped(self.name, Reason.BROKEN_ENTRY, detail)
            return
        for number, element in enumerate(elements, start=self.first):
            yield self._entry(element, f"{self.file.path}[{number}]")

    def _entry(self, element: Any, location: str) -> RawExample | Dropped:
        try:
            found = self.annotated(element, self.file)
        except _MALFORMED as error:
            detail = f"not as it should be ({type(error).__name__}: {error})"
            return Dropped(location, Reason.BROKEN_ENTRY, fields.one_line(detail))
        row = {
            "image": _likeliest(self.image_directory, found.paths),
            "captions": found.captions,
            "id": found.id,
            "split": found.split,
        }
        return fields.example_of(
            row, _NAMES, location=location, default_id=found.id, directory=self.image_directory
        )


Range = TypeVar("Range", bound=AnnotationRange)


def ranges(
    kind: type[Range],
    name: str,
    examples_per_part: int,
    names: fields.FieldNames,
    image_directory: str,
) -> list[Range]:
    """Ranges of `examples_per_part` pictures of the annotation files that the name means.

    Pictures are looked for in `image_directory`, or where it is not given in the directory of the
    file and the one above. InputError if there are no such files, if one is not whole or of another
    kind, or if none of its first pictures is found.
    """
    if names != fields.FieldNames():
        raise InputError(f"{name}: its fields have fixed names; leave out --caption_field and such")
    return [
        part
        for file in files.matching_files(name, SUFFIXES)
        for part in _file_ranges(kind, file, examples_per_part, image_directory)
    ]


def _file_ranges(
    kind: type[Range], file: files.File, examples_per_part: int, image_directory: str
) -> Iterator[Range]:
    elements = array_elements(file.path, kind.array)
    beginning = list(itertools.islice(elements, _PICTURES_TO_LOOK_FOR))
    directory = _image_directory(kind, file, [value for _, value in beginning], image_directory)
    elements = itertools.chain(beginning, elements)
    first = 0
    while taken := list(itertools.islice(elements, examples_per_part)):
        start, (last, value) = taken[0][0], taken[-1]
        yield kind(file, directory, first, len(taken), start, last + len(value) - start)
        first += len(taken)


def _image_directory(
    kind: type[Range], file: files.File, elements: Sequence[bytes], given: str
) -> str:
    """Where the pictures are: the first of the likely directories in which there is any of them."""
    looked_for: list[str] = []
    for element in elements:
        try:
            looked_for += kind.annotated(_parsed(element), file).paths
        except _MALFORMED:
            continue
    if not looked_for:
        raise InputError(f"{file.path}: describes no pictures; it is not the right file")
    above = files.parent(file.path)
    directories = [given] if given else list(dict.fromkeys([above, files.parent(above)]))
    for directory in directories:
        if any(files.exists(posixpath.join(directory, path)) for path in looked_for):
            return directory
    raise InputError(
        f"{file.path}: {looked_for[0]} and the like are not in "
        f"{' or '.join(map(repr, directories))}; give --image_directory=DIR"
    )


def _likeliest(directory: str, paths: Sequence[str]) -> str:
    """The first of these paths that is there; the first of all if none is."""
    for path in paths[:-1]:
        if files.exists(posixpath.join(directory, path)):
            return path
    last = paths[-1]
    return last if files.exists(posixpath.join(directory, last)) else paths[0]


def _parsed(content: bytes) -> Any:
    """The JSON. What is no UTF-8 in its strings is left for `fields` to find."""
    return json.loads(content.decode(errors="surrogateescape"), strict=False)


def head_of(found: files.Found) -> bytes:
    """The beginning of the annotation file that a source's name stands for; empty if for none."""
    if found.is_directory or not found.has(*SUFFIXES):
        return b""
    try:
        with files.open_file(found.files[0]) as opened:
            return opened.read(_HEAD_BYTES).lstrip()
    except OSError:
        return b""
