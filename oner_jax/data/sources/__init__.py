"""Sources of other people's data: `open_source` finds the reader for what the user names.

A format is a row of `FORMATS`: how to recognise it and how to cut it into parts.
"""

import dataclasses
from collections.abc import Callable

from oner_jax.data.sources import delimited, files, folder, jsonl, parquet, webdataset
from oner_jax.data.sources.fields import FieldNames
from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason
from oner_jax.errors import InputError

__all__ = ["FORMATS", "Dropped", "FieldNames", "Part", "RawExample", "Reason", "open_source"]


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of source: `recognises` what a name stands for, and gives the `parts` of it.

    `parts(name, examples_per_part, names)` raises InputError for what no part can say: that there
    are no such files, or other fields than `names` says.
    """

    description: str
    recognises: Callable[[files.Found], bool]
    parts: Callable[[str, int, FieldNames], list[Part]]


# The first that recognises a name reads it. Tables stand beside the archives that they list, and
# lie in one folder with the images whose paths they hold.
FORMATS: dict[str, Format] = {
    "webdataset": Format(
        "tar archives of images, texts and JSON (img2dataset's, webdataset's)",
        lambda found: found.has(*webdataset.SUFFIXES),
        webdataset.parts,
    ),
    "jsonl": Format(
        "one JSON object a line, with the path of an image",
        lambda found: found.has(*jsonl.SUFFIXES),
        jsonl.parts,
    ),
    "csv": Format(
        "CSV or TSV with names of columns, and paths of images",
        lambda found: found.has(*delimited.SUFFIXES),
        delimited.parts,
    ),
    "parquet": Format(
        "Parquet with images or their paths (img2dataset's, Hugging Face's)",
        parquet.recognises,
        parquet.parts,
    ),
    "folder": Format(
        "folder of images with a text file of the same name beside each",
        folder.recognises,
        folder.parts,
    ),
}


def open_source(
    name: str,
    source_format: str = "",
    *,
    examples_per_part: int,
    names: FieldNames | None = None,
) -> list[Part]:
    """The parts of a source: a path, local or remote, or a pattern of paths.

    `source_format` is a key of `FORMATS`, empty to find it out. Raises InputError if that cannot be
    done, if there is nothing by that name, or if its fields are not as `names` says.
    """
    if examples_per_part < 1:
        raise ValueError(f"examples_per_part is {examples_per_part}")
    if not source_format:
        source_format = _recognised(name)
    if source_format not in FORMATS:
        raise InputError(f"source format {source_format!r} is unknown; give {_choices()}")
    return FORMATS[source_format].parts(name, examples_per_part, names or FieldNames())


def _recognised(name: str) -> str:
    found = files.find(name)
    for key, source_format in FORMATS.items():
        if source_format.recognises(found):
            return key
    if not found.is_directory and not any(files.exists(path) for path in found.files):
        raise InputError(f"{name}: no such file or directory; name the data to read")
    raise InputError(f"{name}: its format is not recognised; say which it is, {_choices()}")


def _choices() -> str:
    return "one of " + ", ".join(FORMATS)
