"""From parts of a source to embeddings; pictures are decoded ahead while others are embedded."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from oner_jax.api import Model
from oner_jax.data import sources
from oner_jax.data.cores import available_cores
from oner_jax.data.image_files import UnfitImage
from oner_jax.data.progress import Progress
from oner_jax.data.reasons import Reason
from oner_jax.data.sources import Dropped, Part, RawExample, Unread, entries_of
from oner_jax.errors import InputError
from oner_jax.files import is_remote
from oner_jax.indexing.known import NO_STAMP, Origin, key_of, stamp_of
from oner_jax.indexing.rows import VIEWS, Item, items_of
from oner_jax.indexing.work import Finished, Work

# What a kill may cost, and the least that is kept as a file of its own.
BATCHES_PER_PART = 16
_BATCHES_AHEAD = 2

Change = Callable[[RawExample], RawExample]


class Made(NamedTuple):
    """A result's manifest; how many of its rows were embedded now and how many were known, and how
    many of an earlier result were removed, being changed or gone."""

    manifest: dict[str, Any]
    embedded: int
    known: int
    removed: int


class _Prepared(NamedTuple):
    """An item with where it comes from: its vector if that is known, else its pixels, if any."""

    origin: Origin
    vector: Float32[np.ndarray, "features"] | None = None
    pixels: UInt8[np.ndarray, "size size 3"] | None = None


@dataclasses.dataclass
class _Batch:
    """Items of one part that are embedded together; `is_last` of their part."""

    items: list[Item]
    dropped: list[Dropped]
    is_last: bool
    prepared: list[Future] = dataclasses.field(default_factory=list)
    unread: Unread = dataclasses.field(default_factory=Unread)


def absolute_name(name: str) -> str:
    """Return a name that means the same in every folder, since rows hold the paths in it."""
    elsewhere = is_remote(name) or name.startswith(("embedded:", "tfds:"))
    return name if elsewhere else os.path.abspath(name)


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
    model: Model,
    parts: Sequence[Part],
    view: str,
    out: Path,
    *,
    file_format: str,
    source: str,
    change: Change = lambda example: example,
) -> Made:
    """Embed a source into the folder `out`, go on with it, or bring it up to date.

    Only what is new or changed since then is embedded; rows of what has gone are removed. What
    cannot be embedded is listed in `dropped.jsonl`. The same data give the same bytes whatever
    kills there were. `change` goes over every example.

    Raises InputError for a view that the model does not have, for something in the way, while
    another process makes the same, and if nothing could be embedded.
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
    work = Work(out, description)
    with work.begun():
        embedded = _Embedding(model, view, work, change).run(parts)
        manifest, removed = work.assemble()
    return Made(manifest, embedded, manifest["rows"] - embedded, removed)


class _Embedding:
    """One pass over a source."""

    def __init__(self, model: Model, view: str, work: Work, change: Change):
        self._model, self._view, self._work, self._change = model, view, work, change
        self._known = work.known()

    def run(self, parts: Sequence[Part]) -> int:
        """Finish every part; return how many rows had to be embedded."""
        progress = Progress("embedded", sum(part.examples or 0 for part in parts))
        empty = np.zeros((0, self._model.features), np.float32)
        vectors, result, embedded = [empty], Finished.of_nothing(empty), 0
        for batch in self._prepared(parts):
            items, prepared = self._kept(batch)
            found, computed, cut = self._vectors(items, prepared)
            vectors.append(found)
            embedded += computed
            result.rows.extend(item.row for item in items)
            result.origins.extend(each.origin for each in prepared)
            result.dropped.extend(batch.dropped)
            result.unread.update(batch.unread)
            result = result._replace(cut=result.cut + cut)
            progress.advance(len(batch.items))
            if batch.is_last:
                self._work.finish_part(result._replace(vectors=np.concatenate(vectors)))
                vectors, result = [empty], Finished.of_nothing(empty)
        progress.finish()
        return embedded

    @staticmethod
    def _kept(batch: _Batch) -> tuple[list[Item], list[_Prepared]]:
        """Return the items that can be embedded; add the others to what the batch dropped."""
        items, prepared = list[Item](), list[_Prepared]()
        for item, future in zip(batch.items, batch.prepared, strict=True):
            found = future.result()
            if isinstance(found, Dropped):
                batch.dropped.append(found)
            else:
                items.append(item)
                prepared.append(found)
        return items, prepared

    def _vectors(
        self, items: Sequence[Item], prepared: Sequence[_Prepared]
    ) -> tuple[Float32[np.ndarray, "rows features"], int, int]:
        """Return the vectors of some items, and count those computed and the captions cut."""
        vectors = np.zeros((len(items), self._model.features), np.float32)
        ids, cut = None, 0
        if "T" in VIEWS[self._view]:
            limit = self._model.settings.text_tokens
            captions = [item.row.caption for item in items]
            ids, lengths = self._model.tokenizer.encode_with_lengths(captions, limit)
            cut = int(np.sum(lengths > limit))
        missing = np.array([each.vector is None for each in prepared], bool)
        for row, each in enumerate(prepared):
            if each.vector is not None:
                vectors[row] = each.vector
        if missing.any():
            pixels = [each.pixels for each in prepared if each.pixels is not None]
            vectors[missing] = self._model.embed_arrays(
                np.stack(pixels) if pixels else None, None if ids is None else ids[missing]
            )
        return vectors, int(missing.sum()), cut

    def _prepared(self, parts: Sequence[Part]) -> Iterator[_Batch]:
        """Yield batches in order while the next images are decoded, across parts."""
        waiting: collections.deque[_Batch] = collections.deque()
        with ThreadPoolExecutor(available_cores()) as threads:
            for batch in self._batches(parts):
                batch.prepared = [threads.submit(self._prepare, item) for item in batch.items]
                waiting.append(batch)
                if len(waiting) > _BATCHES_AHEAD:
                    yield waiting.popleft()
            yield from waiting

    def _batches(self, parts: Sequence[Part]) -> Iterator[_Batch]:
        for part in parts:
            batch, unread = _Batch([], [], is_last=False), Unread()
            for entry in entries_of(part, unread):
                for item in self._items(entry):
                    if isinstance(item, Dropped):
                        batch.dropped.append(item)
                        continue
                    if len(batch.items) == self._model.batch_size:
                        yield batch
                        batch = _Batch([], [], is_last=False)
                    batch.items.append(item)
            batch.is_last, batch.unread = True, unread
            yield batch

    def _items(self, entry: RawExample | Dropped) -> Iterator[Item | Dropped]:
        if isinstance(entry, Dropped):
            yield entry
            return
        for item in items_of(self._change(entry), self._view):
            # A file that `change` makes is not the source's, and does not tell of a change in it.
            if isinstance(item, Item) and not entry.image_path:
                item = item._replace(has_file=False)
            yield item

    def _prepare(self, item: Item) -> _Prepared | Dropped:
        """Return the known vector of an item, or its pixels."""
        read = None if item.example is None else item.example.read_image
        if read is None:
            origin = Origin(key_of(item.row, None), NO_STAMP)
            return _Prepared(origin, self._known.vector(origin.key))
        # Before it is read: where it changes in between, it is read again at the next time.
        stamp = stamp_of(item.row) if item.has_file else NO_STAMP
        if (key := self._known.key_of(stamp)) is not None:
            return _Prepared(Origin(key, stamp), self._known.vector(key))
        try:
            content = read()
            origin = Origin(key_of(item.row, content), stamp)
            vector = self._known.vector(origin.key)
            pixels = self._model.pixels(content) if vector is None else None
            return _Prepared(origin, vector, pixels)
        except UnfitImage as error:
            return Dropped(item.location, error.reason, str(error))
        except OSError as error:
            detail = f"cannot be read: {error.strerror or error}"
            return Dropped(item.location, Reason.MISSING_IMAGE, detail)
