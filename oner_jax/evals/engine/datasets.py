"""What is evaluated on: names on the command line -> datasets, and which of them are not there."""

import dataclasses
import functools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from jaxtyping import UInt8
from ml_collections import ConfigDict

from oner_jax.configuration import nearest
from oner_jax.data.boxes import content_hash, read_boxes
from oner_jax.data.cut_outs import cut_out
from oner_jax.data.image_files import open_image
from oner_jax.data.preprocessing import on_white
from oner_jax.errors import InputError
from oner_jax.evals.engine.suite import Dataset, slug
from oner_jax.evals.inputs.features import Examples
from oner_jax.evals.inputs.protocols import PROTOCOLS

if TYPE_CHECKING:
    from PIL.Image import Image

PUBLIC = "public"  # stands for every benchmark of `protocols.py`
OWN_TEMPLATES = "names"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a dataset is: a split of records, or a file of pictures with boxes.

    `training` is the split that classifiers are fitted on, `how` the command that makes a
    benchmark.
    """

    split: str = ""
    boxes: Path | None = None
    templates: str = OWN_TEMPLATES
    training: str | None = None
    how: str = ""

    def content_hash(self) -> str:
        """Changes when the data change. Raises InputError where they cannot be read."""
        from oner_jax.data.records import open_split

        if self.boxes is not None:
            return content_hash(self.boxes)
        try:
            return open_split(self.split).content_hash
        except InputError as error:
            if not self.how:
                raise
            state = error if epath.Path(self.split).exists() else f"there is no {self.split}"
            raise InputError(f"{state}; make it with {self.how}") from error

    def dataset(self, name: str, image_size: int) -> Dataset:
        """The dataset for a model that sees pictures of this size."""
        from oner_jax.data.records import open_split

        if self.boxes is not None:
            load_boxed = functools.partial(read_boxes, self.boxes)
            return Dataset(name, self.content_hash(), load_boxed=load_boxed)
        training = self.training
        return Dataset(
            name=name,
            content_hash=self.content_hash(),
            load=functools.partial(_examples, self.split, image_size),
            load_training=functools.partial(_examples, training, image_size) if training else None,
            training_hash=open_split(training).content_hash if training else "",
            templates=self.templates,
        )

    def pictures(self, indices: Sequence[int]) -> "dict[int, Image]":
        """Pictures as they are stored, transparency on white, by their index."""
        from oner_jax.data.records import Record, open_split

        if self.boxes is not None:
            boxed = read_boxes(self.boxes, image_size=1)
            return {index: boxed.picture(index) for index in indices}
        serialised = open_split(self.split).read(indices)
        return {
            index: on_white(open_image(Record.parse(record).image))
            for index, record in zip(indices, serialised, strict=True)
        }

    def cut_outs(
        self, indices: Sequence[int], side: int
    ) -> dict[int, UInt8[np.ndarray, "side side 4"]]:
        """The things in pictures, cut out of their ground in RGBA, by their index."""
        from oner_jax.data.records import open_split

        records = open_split(self.split).records(indices)
        return {
            index: cut_out(open_image(record.image), side)
            for index, record in zip(indices, records, strict=True)
        }


Places = Mapping[str, Place]  # by the name in tables


@functools.lru_cache(maxsize=8)
def _examples(split: str, image_size: int) -> Examples:
    """The same for every checkpoint of a size: reading all texts takes a while."""
    from oner_jax.data.evaluation import evaluation_set

    return evaluation_set(split, image_size=image_size)


def choose(
    configs: Iterable[ConfigDict],
    chosen: Sequence[str],
    *,
    data_directory: epath.PathLike,
    boxes: Sequence[Path] = (),
    templates: str = "",
) -> dict[str, Place]:
    """The places of the datasets asked for: those of the runs' configs unless some are `chosen`.

    A name is one of a config's `data.evaluation`, a benchmark (or `public` for all of them), or
    that of a split. `templates` replaces those that belong to a dataset. Raises InputError for a
    name that is none of these, and where two would be called alike.
    """
    known: dict[str, str] = {}
    for config in configs:
        known |= config.data.evaluation.to_dict()
    if not chosen and not known and not boxes:
        raise InputError("config.data.evaluation names no dataset; give --datasets=SPLIT")
    names = [
        name for entry in chosen or known for name in (PROTOCOLS if entry == PUBLIC else (entry,))
    ]
    directory = epath.Path(data_directory)
    places = {slug(name): _place(name, known, directory) for name in names}
    files = {slug(file.stem): Place(boxes=file) for file in boxes}
    if len(files) < len(boxes) or files.keys() & places.keys():
        raise InputError("--boxes: two datasets would have the same name; rename a file")
    if templates:
        places = {
            name: dataclasses.replace(place, templates=templates) for name, place in places.items()
        }
    return places | files


def _place(name: str, known: Mapping[str, str], data_directory: epath.Path) -> Place:
    from oner_jax.data.records import training_split_beside

    protocol = PROTOCOLS.get(name)
    templates = protocol.templates if protocol else OWN_TEMPLATES
    if name in known:
        return Place(known[name], None, templates, training_split_beside(known[name]))
    if protocol:
        folder = data_directory / name
        split = str(folder / protocol.split)
        how = (
            f"python -m oner_jax.ingest --source={protocol.source} "
            f"--output={shlex.quote(str(folder))} (docs/datasets.md)"
        )
        return Place(split, None, templates, training_split_beside(split), how)
    if not {"/", ":"} & set(name):
        raise InputError(
            f"--datasets={name}: the run's config has {', '.join(known) or 'none'}"
            f"{nearest(name, [*known, *PROTOCOLS])}; give one of them, a split's directory, "
            f"embedded:NAME, a benchmark ({', '.join(PROTOCOLS)}) or {PUBLIC} for all of these"
        )
    return Place(name, None, templates, training_split_beside(name))


def available(places: Places) -> tuple[dict[str, Place], list[str]]:
    """Those that can be read, and for each of the others a line that says why not.

    Raises InputError, with the first such line, where none is left.
    """
    kept, complaints = {}, []
    for name, place in places.items():
        try:
            place.content_hash()
        except InputError as error:
            complaints.append(f"{name} is left out: {error}")
        else:
            kept[name] = place
    if not kept:
        raise InputError(complaints[0])
    return kept, complaints
