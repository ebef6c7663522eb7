"""Visual Genome's `region_descriptions.json`: phrases for some fifty regions of each picture.

A picture is one example, and each different phrase a caption of it: what is said of a region is
true of the picture that shows it.
"""

from typing import Any

from oner_jax.data.sources import fields, files
from oner_jax.data.sources.annotations import Annotated, AnnotationRange, head_of, ranges
from oner_jax.data.sources.raw import Part


class RegionDescriptions(AnnotationRange):
    """A range of the pictures."""

    array = ""

    @staticmethod
    def annotated(element: Any, file: files.File) -> Annotated:
        """The phrases in their order. Pictures are in two folders, after the two archives."""
        number: int = element["id"]
        return Annotated(
            id=str(number),
            paths=tuple(
                f"{folder}{number}.jpg" for folder in ("VG_100K/", "VG_100K_2/", "images/", "")
            ),
            captions=tuple(region["phrase"] for region in element["regions"]),
        )


def recognises(found: files.Found) -> bool:
    """Whether it begins like such a file."""
    head = head_of(found)
    return head.startswith(b"[") and b'"regions"' in head and b'"phrase"' in head


def parts(
    name: str, examples_per_part: int, names: fields.FieldNames, *, image_directory: str = ""
) -> list[Part]:
    """Ranges of the files that the name means; see `annotations.ranges`."""
    return [*ranges(RegionDescriptions, name, examples_per_part, names, image_directory)]
