"""The same thirty examples, written in each format by whatever else writes it."""

import csv
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

from oner_jax.data.host_tensorflow import tf
from oner_jax.data.sources import Dropped, Part, RawExample, Reason, open_source
from tests.data.samples import encoded, picture

ODD_CAPTIONS = (
    'a sign that says "open, please"',
    "first line\nsecond line, after a comma",
    "\tein grünes Schild\u2028日本語 🦊",
    '"',
    "x" * 5000,
    "semi;colon\x0bvertical tab\x1cseparator",
)


@dataclasses.dataclass(frozen=True)
class Example:
    """What is written, and what should be read."""

    id: str
    image: bytes
    ending: str
    captions: tuple[str, ...]
    label: str
    split: str
    metadata: dict[str, str]

    @property
    def file(self) -> str:
        """A path for its image."""
        return f"images/{self.id}.{self.ending}"

    @property
    def texts(self) -> dict[str, Any]:
        """All but the image and its captions as fields, among them sizes, which nobody believes."""
        return {
            "id": self.id,
            "label": self.label,
            "split": self.split,
            "width": 5,
            **self.metadata,
        }


def examples() -> list[Example]:
    """Thirty of them, in three kinds of image files, with one caption or two."""
    made = []
    for n in range(30):
        ending = ("jpg", "png", "webp")[n % 3]
        kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[ending]
        caption = f"{ODD_CAPTIONS[n % 6].strip()} {n}" if n % 2 else f"a picture of thing {n}"
        made.append(
            Example(
                id=f"{n:05d}",
                image=encoded(picture(n, 12, 10), kind),
                ending=ending,
                captions=(caption, f"another caption of {n}") if n % 4 else (caption,),
                label=f"thing {n}",
                split="test" if n % 5 == 0 else "train",
                metadata={"license": "CC-BY 4.0", "url": f"https://example.org/{n}?a=1,b"},
            )
        )
    return made


def write_images(folder: Path, items: Iterable[Example]) -> None:
    """The image files."""
    (folder / "images").mkdir(parents=True)
    for item in items:
        (folder / item.file).write_bytes(item.image)


def write_jsonl(folder: Path, items: list[Example]) -> Path:
    """One file, by the json module."""
    write_images(folder, items)
    rows = [{"image": i.file, "captions": list(i.captions), **i.texts} for i in items]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(folder: Path, items: list[Example], delimiter: str = ",") -> Path:
    """One file, by the csv module."""
    write_images(folder, items)
    rows = [
        {"image": i.file, "caption": i.captions[0], "captions": "".join(i.captions[1:]), **i.texts}
        for i in items
    ]
    path = folder / ("pairs.tsv" if delimiter == "\t" else "pairs.csv")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tsv(folder: Path, items: list[Example]) -> Path:
    """One file, by the csv module."""
    return write_csv(folder, items, "\t")


def write_parquet(folder: Path, items: list[Example]) -> Path:
    """One file with paths of images, by pyarrow."""
    write_images(folder, items)
    rows = [{"image": i.file, "captions": list(i.captions), **i.texts} for i in items]
    path = folder / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    return path


def write_parquet_with_images(folder: Path, items: list[Example]) -> Path:
    """Several files with images in them as Hugging Face's datasets library does it, by pyarrow."""
    folder.mkdir(parents=True)
    rows = [
        {"image": {"bytes": i.image, "path": i.file}, "captions": list(i.captions), **i.texts}
        for i in items
    ]
    for n in range(3):
        table = pa.Table.from_pylist(rows[n * 10 : (n + 1) * 10])
        pq.write_table(table, folder / f"train-{n:05d}-of-00003.parquet")
    return folder


def write_folder(folder: Path, items: list[Example]) -> Path:
    """Image, text and JSON beside one another, in three folders."""
    for n, item in enumerate(items):
        stem = folder / f"{n // 10:03d}" / item.id
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(f".{item.ending}").write_bytes(item.image)
        stem.with_suffix(".txt").write_bytes(item.captions[0].encode() + b"\n")
        stem.with_suffix(".json").write_text(json.dumps(sample_json(item)))
    return folder


def write_webdataset(folder: Path, items: list[Example]) -> Path:
    """Three archives by webdataset's own writer; returns a pattern of them."""
    folder.mkdir(parents=True)
    for n in range(3):
        with webdataset.TarWriter(str(folder / f"{n:05d}.tar")) as writer:
            for item in items[n * 10 : (n + 1) * 10]:
                writer.write(
                    {
                        "__key__": item.id,
                        item.ending: item.image,
                        "txt": item.captions[0],
                        "json": sample_json(item),
                    }
                )
    return folder / "{00000..00002}.tar"


def write_tfrecord(folder: Path, items: list[Example]) -> Path:
    """Three files with a feature per field, by TensorFlow."""
    folder.mkdir(parents=True)
    for n in range(3):
        with tf.io.TFRecordWriter(str(folder / f"{n:05d}.tfrecord")) as writer:
            for item in items[n * 10 : (n + 1) * 10]:
                texts = {name: [str(text).encode()] for name, text in item.texts.items()}
                texts["captions"] = [caption.encode() for caption in item.captions]
                values = {"image": [item.image], **texts}
                feature = {
                    name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
                    for name, value in values.items()
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    return folder


def sample_json(item: Example) -> dict[str, Any]:
    """What the JSON beside an image says."""
    return {"captions": list(item.captions), **item.texts}


def compared(entry: RawExample | Dropped) -> tuple:
    """What of an entry the format must not change."""
    assert isinstance(entry, RawExample), entry
    assert entry.read_image is not None
    metadata = dict(sorted(entry.metadata.items()))
    return entry.id, entry.read_image(), entry.captions, entry.label, entry.split, metadata


def expected(item: Example) -> tuple:
    """The same of what was written."""
    metadata = dict(sorted(item.metadata.items()))
    return item.id, item.image, item.captions, item.label, item.split, metadata


def read(name: Path | str, source_format: str = "", examples_per_part: int = 1000, **options):
    """All entries of a source."""
    parts = open_source(str(name), source_format, examples_per_part=examples_per_part, **options)
    return entries(parts)


def entries(parts: list[Part]) -> list[RawExample | Dropped]:
    """All entries of these parts; what they say of their number is checked."""
    found: list[RawExample | Dropped] = []
    for part in parts:
        own = list(part.read())
        assert part.examples in (None, len(own)), part.name
        found += own
    return found


def examples_of(found: list[RawExample | Dropped]) -> list[RawExample]:
    """Those that are examples."""
    return [entry for entry in found if isinstance(entry, RawExample)]


def reasons(found: list[RawExample | Dropped]) -> list[Reason]:
    """Why the others are none."""
    return [entry.reason for entry in found if isinstance(entry, Dropped)]
