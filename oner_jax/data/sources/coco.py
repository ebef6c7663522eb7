"""COCO's own caption annotations: `captions_train2014.json`, `captions_val2017.json`.

Pictures are one array, captions another. The split is what the file's name says.
"""

import collections
import functools
import json
import posixpath
import re
from typing import Any

from oner_jax.data.sources import fields, files
from oner_jax.data.sources.annotations import Annotated, AnnotationRange, head_of, ranges
from oner_jax.data.sources.json_arrays import array_elements
from oner_jax.data.sources.raw import Part
from oner_jax.errors import InputError

_SPLIT_AND_YEAR = re.compile(r"(train|val|test)\d{4}")


class CocoCaptions(AnnotationRange):
    """A range of the pictures."""

    array = "images"

    @staticmethod
    def annotated(element: Any, file: files.File) -> Annotated:
        """The captions of the picture's number, in the order in which the file has them."""
        name: str = element["file_name"]
        named = _SPLIT_AND_YEAR.search(posixpath.basename(file.path))
        folders = (named[0], "images", "") if named else ("images", "")
        return Annotated(
            id=str(element["id"]),
            paths=tuple(posixpath.join(folder, name) for folder in folders),
            captions=_captions(file).get(element["id"], ()),
            split=named[1] if named else "",
        )


@functools.lru_cache(maxsize=2)
def _captions(file: files.File) -> dict[int, tuple[str, ...]]:
    """The captions of every picture by its number: about 60 MB for COCO's largest file."""
    captions = collections.defaultdict(list)
    for _, element in array_elements(file.path, "annotations"):
        annotation = json.loads(element.decode(errors="surrogateescape"), strict=False)
        try:
            captions[annotation["image_id"]].append(annotation["caption"])
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{file.path}: its annotations are no captions (no {error}); "
                "name a captions_*.json file"
            ) from error
    return {image: tuple(texts) for image, texts in captions.items()}


def recognises(found: files.Found) -> bool:
    """Whether it begins like such a file."""
    head = head_of(found)
    return head.startswith(b"{") and b'"images"' in head and b'"file_name"' in head


def parts(
    name: str, examples_per_part: int, names: fields.FieldNames, *, image_directory: str = ""
) -> list[Part]:
    """Ranges of the files that the name means; see `annotations.ranges`."""
    return [*ranges(CocoCaptions, name, examples_per_part, names, image_directory)]
