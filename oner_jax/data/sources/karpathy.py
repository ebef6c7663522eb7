"""Karpathy's splits of COCO, Flickr30k and Flickr8k: `dataset_coco.json` and its like.

Splits are called as they are there: COCO's `restval`, 30,504 pictures that most papers train on
too, is a split of its own.
"""

import posixpath
from typing import Any

from oner_jax.data.sources import fields, files
from oner_jax.data.sources.annotations import Annotated, AnnotationRange, head_of, ranges
from oner_jax.data.sources.raw import Part


class KarpathySplit(AnnotationRange):
    """A range of the pictures."""

    array = "images"

    @staticmethod
    def annotated(element: Any, file: files.File) -> Annotated:
        """Its sentences as written; COCO's own number as id, elsewhere the file's name."""
        name: str = element["filename"]
        stem = posixpath.splitext(name)[0]
        return Annotated(
            id=str(element.get("cocoid", stem)),
            # `filepath` is COCO's folder (train2014); Flickr30k comes in flickr30k-images.
            paths=tuple(
                posixpath.join(folder, name)
                for folder in (element.get("filepath", "flickr30k-images"), "images", "")
            ),
            captions=tuple(sentence["raw"] for sentence in element["sentences"]),
            split=element["split"],
        )


def recognises(found: files.Found) -> bool:
    """Whether it begins like such a file."""
    return b'"sentences"' in head_of(found)


def parts(
    name: str, examples_per_part: int, names: fields.FieldNames, *, image_directory: str = ""
) -> list[Part]:
    """Ranges of the files that the name means; see `annotations.ranges`."""
    return [*ranges(KarpathySplit, name, examples_per_part, names, image_directory)]
