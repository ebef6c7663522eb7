"""Sources of other people's data: `open_source` finds the reader for what the user names.

A format is a row of `FORMATS`: how to recognise it and how to cut it into parts.
"""

import dataclasses
from collections.abc import Callable, Iterable

from oner_jax.data.sources import (
    class_folders,
    coco,
    delimited,
    files,
    folder,
    jsonl,
    karpathy,
    ours,
    parquet,
    tfds,
    tfrecord,
    visual_genome,
    webdataset,
)
from oner_jax.data.sources.fields import FieldNames
from oner_jax.data.sources.raw import (
    ChangedPart,
    Dropped,
    Part,
    RawExample,
    Reason,
    Unread,
    entries_of,
    listed_endings,
)
from oner_jax.errors import InputError
from oner_jax.files import usable

__all__ = [
    "FORMATS",
    "ChangedPart",
    "Dropped",
    "FieldNames",
    "Options",
    "Part",
    "RawExample",
    "Reason",
    "Unread",
    "entries_of",
    "listed_endings",
    "open_source",
    "recognised_format",
]


@dataclasses.dataclass(frozen=True)
class Options:
    """What some formats can be told beside the name; empty: not told. Also the names of flags.

    `image_directory`: where the pictures of an annotation file are. `class_names`: a file that says
    what classes are called. `data_dir`: where TFDS keeps what it prepared. `splits`: the only ones
    to read. `lines`: "captions" if each line of a text file is a caption.
    """

    image_directory: str = ""
    class_names: str = ""
    data_dir: str = ""
    splits: tuple[str, ...] = ()
    lines: str = ""


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of source: `recognises` what a name stands for, and gives the `parts` of it.

    `parts(name, examples_per_part, names)` raises InputError for what no part can say: that there
    are no such files, or other fields than `names` says. It also takes, by name, those of `Options`
    that the format has a use for.
    """

    description: str
    recognises: Callable[[files.Found], bool]
    parts: Callable[..., list[Part]]
    options: tuple[str, ...] = ()


# The first that recognises a name reads it. Tables stand beside the archives that they list, and
# lie in one folder with the images whose paths they hold.
FORMATS: dict[str, Format] = {
    "tfds": Format(
        "set that TensorFlow Datasets has prepared: tfds:NAME, or its directory",
        tfds.recognises,
        tfds.parts,
        ("data_dir", "class_names", "splits"),
    ),
    "records": Format(
        "split of records, made by ingest: its directory, or embedded:NAME",
        ours.recognises,
        ours.parts,
    ),
    "karpathy": Format(
        "Karpathy's splits of COCO and Flickr30k: dataset_coco.json",
        karpathy.recognises,
        karpathy.parts,
        ("image_directory",),
    ),
    "coco": Format(
        "COCO's own captions: captions_train2014.json",
        coco.recognises,
        coco.parts,
        ("image_directory",),
    ),
    "visual_genome": Format(
        "Visual Genome's region_descriptions.json",
        visual_genome.recognises,
        visual_genome.parts,
        ("image_directory",),
    ),
    "webdataset": Format(
        "tar archives of images, texts and JSON (img2dataset's, webdataset's)",
        lambda found: found.has(*webdataset.SUFFIXES),
        webdataset.parts,
        ("lines",),
    ),
    "tfrecord": Format(
        "TFRecord files with a feature per field (img2dataset's)",
        lambda found: found.has(*tfrecord.SUFFIXES),
        tfrecord.parts,
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
        ("lines",),
    ),
    "class_folders": Format(
        "folder for each class of pictures, as ImageNet comes",
        class_folders.recognises,
        class_folders.parts,
        ("class_names", "splits"),
    ),
}


# Those of `Options` that lead somewhere.
_PATHS = ("image_directory", "class_names", "data_dir")


def open_source(
    name: str,
    source_format: str = "",
    *,
    examples_per_part: int,
    names: FieldNames | None = None,
    options: Options | None = None,
) -> list[Part]:
    """The parts of a source: a path, local or remote, a pattern of paths, `tfds:NAME` or
    `embedded:NAME`.

    `source_format` is a key of `FORMATS`, empty to find it out. Raises InputError if that cannot be
    done, if there is nothing by that name, if its fields are not as `names` says, or if the format
    has no use for one of the options.
    """
    if examples_per_part < 1:
        raise ValueError(f"examples_per_part is {examples_per_part}")
    name = usable(name)
    if not source_format:
        source_format = recognised_format(name)
    if source_format not in FORMATS:
        raise InputError(f"source format {source_format!r} is unknown; give {_choices()}")
    given = {
        option: value for option, value in dataclasses.asdict(options or Options()).items() if value
    }
    _check_use(source_format, given)
    for option in _PATHS:
        if option in given:
            given[option] = usable(given[option])
    try:
        return FORMATS[source_format].parts(name, examples_per_part, names or FieldNames(), **given)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error


def _check_use(source_format: str, given: Iterable[str]) -> None:
    for option in given:
        if option not in FORMATS[source_format].options:
            users = [key for key, other in FORMATS.items() if option in other.options]
            raise InputError(
                f"--{option}: is for {', '.join(users)}; the format here is {source_format}"
            )


def recognised_format(name: str) -> str:
    """The key of `FORMATS` that reads what is there. InputError if none does."""
    try:
        return _recognised(usable(name))
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error


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
