"""Sources of other people's data: `open_source` finds the reader for what the user names.

A format is a row of `FORMATS`: how to recognise it and how to cut it into parts.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence

from oner_jax.data.sources import (
    class_folders,
    coco,
    delimited,
    files,
    folder,
    jsonl,
    karpathy,
    layout,
    ours,
    parquet,
    tfds,
    tfrecord,
    visual_genome,
    webdataset,
)
from oner_jax.data.sources.fields import SPLITS, FieldNames
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
    "has_containers",
    "listed_endings",
    "open_source",
    "recognised_format",
    "taken_for",
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
        ("lines", "splits"),
    ),
    "tfrecord": Format(
        "TFRecord files with a feature per field (img2dataset's)",
        lambda found: found.has(*tfrecord.SUFFIXES),
        tfrecord.parts,
        ("splits",),
    ),
    "jsonl": Format(
        "one JSON object a line, with the path of an image",
        lambda found: found.has(*jsonl.SUFFIXES),
        jsonl.parts,
        ("splits",),
    ),
    "csv": Format(
        "CSV or TSV with names of columns, and paths of images",
        lambda found: found.has(*delimited.SUFFIXES),
        delimited.parts,
        ("splits",),
    ),
    "parquet": Format(
        "Parquet with images or their paths (img2dataset's, Hugging Face's)",
        parquet.recognises,
        parquet.parts,
        ("splits",),
    ),
    "folder": Format(
        "folder of images with a text file of the same name beside each",
        folder.recognises,
        folder.parts,
        ("lines", "splits"),
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


# Known by a name, or by files in the directory itself.
NAMED = ("tfds", "records", "karpathy", "coco", "visual_genome")
# Files of these hold examples or name the files that do; what else lies there goes with them.
CONTAINERS = {
    "webdataset": webdataset.SUFFIXES,
    "tfrecord": tfrecord.SUFFIXES,
    "jsonl": jsonl.SUFFIXES,
    "csv": delimited.SUFFIXES,
    "parquet": parquet.SUFFIXES,
}


def recognised_format(name: str) -> str:
    """The key of `FORMATS` that reads what is there.

    InputError if none does, or if several might and would read different files.
    """
    try:
        return _recognised(usable(name))
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error


def _recognised(name: str) -> str:
    found = files.find(name)
    for key in NAMED:
        if FORMATS[key].recognises(found):
            return key
    found = layout.find(name)
    for key, source_format in FORMATS.items():
        if key not in NAMED and source_format.recognises(found):
            _refuse_others(key, found)
            return key
    if not found.is_directory and not any(files.exists(path) for path in found.files):
        raise InputError(f"{name}: no such file or directory; name the data to read")
    tree = layout.Tree.of(found) if found.is_directory else None
    seen = tree.described() if tree else ""
    unpaired = (
        "; images without captions are taken with --format=folder --unpaired=keep"
        if tree and tree.images
        else ""
    )
    raise InputError(
        f"{name}: its format is not recognised{seen and f'; it holds {seen}'}; "
        f"say which it is, {_choices()}{unpaired}"
    )


def has_containers(name: str) -> bool:
    """Whether a directory holds archives or tables, or is a split of records."""
    suffixes = [suffix for own in CONTAINERS.values() for suffix in own]
    return bool(layout.survey(name).ending_in(*suffixes, ".array_record"))


def _refuse_others(key: str, found: files.Found) -> None:
    """InputError where the directory holds something else that the format would not read.

    Tables go with archives, and images with the tables that name them.
    """
    if key not in CONTAINERS or not found.is_directory:
        return
    tree, archives = layout.Tree.of(found), ("webdataset", "tfrecord")
    others = [
        other
        for other in CONTAINERS
        if other != key
        and (other in archives or key not in archives)
        and FORMATS[other].recognises(found)
    ]
    if tree.images if key in archives else layout.has_texts_beside(tree):
        others.append("folder")
    if others:
        choices = " or ".join(f"--format={choice}" for choice in (key, *others))
        raise InputError(
            f"{found.name}: may be read in several ways; it holds {tree.described()}; "
            f"give {choices}"
        )


def taken_for(name: str, source_format: str, parts: Sequence[Part]) -> str:
    """What an opened source was taken for, as a line: its format, and how much of it was found."""
    by_split: collections.Counter[str] = collections.Counter()
    if source_format in CONTAINERS:
        found = dict.fromkeys(map(_file_of, parts))
        count = f"{len(found):,} file{'s' * (len(found) != 1)}"
        by_split.update(file.split for file in found)
    else:
        known = [part.examples or 0 for part in parts]
        count = f"{sum(known):,} entries"
        for part, examples in zip(parts, known, strict=True):
            if isinstance(part, folder.Samples):
                by_split.update(part.splits)
            elif isinstance(part, class_folders.ClassFolder):
                by_split[SPLITS.get(part.split, part.split)] += examples
        if source_format == "folder":
            count = f"{by_split.total():,} files of {count}"
    named = ", ".join(f"{split} {number:,}" for split, number in sorted(by_split.items()) if split)
    description = FORMATS[source_format].description
    return f"{name}: read as {source_format} ({description}): {count}{named and f'; {named}'}"


def _file_of(part: Part) -> files.File:
    """The file that a part of an archive or a table is from."""
    if isinstance(part, parquet.Rows | delimited.Rows):
        return part.table.file
    assert isinstance(
        part, parquet.Unreadable | jsonl.JsonLines | webdataset.Archive | tfrecord.TfRecords
    )
    return part.file


def _choices() -> str:
    return "one of " + ", ".join(FORMATS)
