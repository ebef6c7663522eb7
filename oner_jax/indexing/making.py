"""From parts of a source to embeddings; pictures are decoded ahead while others are embedded."""

import collections
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from oner_jax.api import Model
from oner_jax.data import sources
from oner_jax.data.cores import available_cores
from oner_jax.data.image_files import UnfitImage
from oner_jax.data.progress import Progress
from oner_jax.data.reasons import Reason
from oner_jax.data.sources import Dropped, Part, RawExample, Unread, entries_of
from oner_jax.errors import InputError
from oner_jax.indexing.rows import VIEWS, Item, items_of
from oner_jax.indexing.work import Finished, Work

# What a kill may cost, and the least that is kept as a file of its own.
BATCHES_PER_PART = 16
_BATCHES_AHEAD = 2

Decoded = UInt8[np.ndarray, "size size 3"] | Dropped | None


@dataclasses.dataclass
class _Batch:
    """Items of one part that are embedded together; `is_last` of their part."""

    part: int
    items: list[Item]
    dropped: list[Dropped]
    is_last: bool
    pixels: list[Future] = dataclasses.field(default_factory=list)
    unread: Unread = dataclasses.field(default_factory=Unread)


def parts_of(
    name: str,
    source_format: str,
    batch_size: int,
    names: sources.FieldNames | None = None,
    options: sources.Options | None = None,
) -> list[Part]:
    """The parts of the source of this name; an empty `source_format` is found out.

    `names` and `options` as for `sources.open_source`. Raises InputError for what no format reads.
    """
    return sources.open_source(
        name,
        source_format or _format_of(name),
        examples_per_part=BATCHES_PER_PART * batch_size,
        names=names,
        options=options,
    )


def _format_of(name: str) -> str:
    """A folder of pictures needs no texts beside them here."""
    if os.path.isdir(name) and not sources.has_containers(name):
        return "folder"
    return sources.recognised_format(name)


def make_embeddings(
    model: Model, parts: Sequence[Part], view: str, out: Path, *, file_format: str, source: str
) -> dict[str, Any]:
    """Embed a source into the folder `out`, or go on with it; its manifest.

    What cannot be embedded is listed in `dropped.jsonl`. The same command gives the same bytes
    whatever kills there were. Raises InputError for a view that the model does not have, for
    something in the way, and if nothing could be embedded.
    """
    if VIEWS[view] not in model.views:
        raise InputError(
            f"--view={view}: {model.settings.architecture} has no joint view; embed image and text"
        )
    description = {
        "model": model.identity,
        "view": view,
        "features": model.features,
        "batch_size": model.batch_size,
        "source": source,
        "file_format": file_format,
    }
    work = Work(out, description, parts)
    if not work.is_complete:
        _embed_missing(model, parts, view, work)
        return work.assemble(file_format)
    return work.manifest()


def _embed_missing(model: Model, parts: Sequence[Part], view: str, work: Work) -> None:
    missing = work.missing()
    sizes = [part.examples or 0 for part in parts]
    progress = Progress("embedded", sum(sizes), sum(sizes) - sum(sizes[n] for n in missing))
    vectors: list[np.ndarray] = [np.zeros((0, model.features), np.float32)]
    result = Finished(vectors[0], [], [], Unread())
    for batch in _decoded(model, parts, missing, view):
        kept, images = list[Item](), list[np.ndarray]()
        for item, future in itertools.zip_longest(batch.items, batch.pixels):
            found: Decoded = None if future is None else future.result()
            if isinstance(found, Dropped):
                batch.dropped.append(found)
            else:
                kept.append(item)
                images += [] if found is None else [found]
        if kept:
            pixels = np.stack(images) if images else None
            texts = [item.row.caption for item in kept]
            ids = model.token_ids(texts) if "T" in VIEWS[view] else None
            vectors.append(model.embed_arrays(pixels, ids))
        result.rows.extend(item.row for item in kept)
        result.dropped.extend(batch.dropped)
        result.unread.update(batch.unread)
        progress.advance(len(batch.items))
        if batch.is_last:
            work.finish_part(batch.part, result._replace(vectors=np.concatenate(vectors)))
            del vectors[1:]
            result = Finished(vectors[0], [], [], Unread())
    progress.finish()


def _decoded(
    model: Model, parts: Sequence[Part], missing: Sequence[int], view: str
) -> Iterator[_Batch]:
    """Batches in order, with their pictures being decoded; across parts, so that none waits."""
    waiting: collections.deque[_Batch] = collections.deque()
    with ThreadPoolExecutor(available_cores()) as threads:
        for batch in _batches(parts, missing, view, model.batch_size):
            batch.pixels = [
                threads.submit(_pixels, model, item.location, item.example)
                for item in batch.items
                if item.example is not None
            ]
            waiting.append(batch)
            if len(waiting) > _BATCHES_AHEAD:
                yield waiting.popleft()
        yield from waiting


def _batches(
    parts: Sequence[Part], missing: Sequence[int], view: str, batch_size: int
) -> Iterator[_Batch]:
    for number in missing:
        batch, unread = _Batch(number, [], [], is_last=False), Unread()
        for entry in entries_of(parts[number], unread):
            for item in [entry] if isinstance(entry, Dropped) else items_of(entry, view):
                if isinstance(item, Dropped):
                    batch.dropped.append(item)
                    continue
                if len(batch.items) == batch_size:
                    yield batch
                    batch = _Batch(number, [], [], is_last=False)
                batch.items.append(item)
        batch.is_last, batch.unread = True, unread
        yield batch


def _pixels(model: Model, location: str, example: RawExample) -> Decoded:
    assert example.read_image is not None, "only pictures are decoded"
    try:
        return model.pixels(example.read_image())
    except UnfitImage as error:
        return Dropped(location, error.reason, str(error))
    except OSError as error:
        return Dropped(location, Reason.MISSING_IMAGE, f"cannot be read: {error.strerror or error}")
