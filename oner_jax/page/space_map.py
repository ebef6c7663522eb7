"""A map of the space: t-SNE of some pairs, with their pictures under the pointer.

HTML and CSS alone: nothing is loaded, and no script runs.
"""

import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from oner_jax.api import Model
from oner_jax.evals.report.figures import DARK, LIGHT, VIEW_NAMES
from oner_jax.evals.report.html import data_uri
from oner_jax.evals.tasks.geometry import flat_map
from oner_jax.files import write_whole
from oner_jax.indexing.rows import Row
from oner_jax.page.collection import Collection

MAXIMUM_PAIRS = 400
FEWEST_PAIRS = 3
DRAWN_LINKS = 40

_THUMBNAIL_PIXELS = 112
_EDGE = 0.04  # of the map, left free on every side


@dataclasses.dataclass(frozen=True)
class SpaceMap:
    """Points of the views of some pairs, by view, each from 0 to 1 in both directions.

    `titles` and `thumbnails` (as addresses of themselves) are of the pairs' pictures. Without
    captions there are pictures alone; of too few pairs there is no map.
    """

    titles: Sequence[str]
    thumbnails: Sequence[str]
    points: Mapping[str, Sequence[Sequence[float]]]


def make_map(model: Model, collection: Collection) -> SpaceMap:
    """The collection's map, as kept or computed now and kept."""
    kept = collection.folder / f"map-{collection.index.manifest['fingerprint'][:16]}.json"
    try:
        return SpaceMap(**json.loads(kept.read_text()))
    except (OSError, ValueError, TypeError):
        print("drawing the map of the space", file=sys.stderr, flush=True)
        computed = _computed(model, collection)
        collection.folder.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(dataclasses.asdict(computed)))
        return computed


def _computed(model: Model, collection: Collection) -> SpaceMap:
    index = collection.index
    captioned = [number for number, row in enumerate(index.rows) if row.caption]
    pairs = len(captioned) >= FEWEST_PAIRS and "T" in model.views
    numbers = sampled(captioned if pairs else range(len(index)), MAXIMUM_PAIRS)
    if len(numbers) < FEWEST_PAIRS:
        return SpaceMap([], [], {})
    rows = [index.rows[number] for number in numbers]
    vectors = {"I": np.array(index.vectors[numbers])}
    if pairs:
        captions = [row.caption for row in rows]
        vectors["T"] = model.embed(texts=captions)
        if "IT" in model.views:
            vectors["IT"] = model.embed(images=[row.image for row in rows], texts=captions)
    flat = flat_map(vectors)
    low, high = (edge(np.concatenate(list(flat.values())), axis=0) for edge in (np.min, np.max))
    scale = (1 - 2 * _EDGE) / np.maximum(high - low, np.finfo(np.float32).tiny)
    points = {view: np.round(_EDGE + (own - low) * scale, 4) for view, own in flat.items()}
    return SpaceMap(
        [collection.title(row) for row in rows],
        [_thumbnail(collection, row) for row in rows],
        {view: own.tolist() for view, own in points.items()},
    )


def _thumbnail(collection: Collection, row: Row) -> str:
    buffer = io.BytesIO()
    collection.picture(row, _THUMBNAIL_PIXELS).save(buffer, "webp", quality=80)
    return data_uri(buffer.getvalue(), "webp")


def sampled(rows: Sequence[int], maximum: int) -> list[int]:
    """At most so many of the rows, the same ones every time, in order."""
    if len(rows) <= maximum:
        return list(rows)
    chosen = np.random.default_rng(0).choice(len(rows), maximum, replace=False)
    return [rows[place] for place in np.sort(chosen).tolist()]


def style() -> str:
    """The colours of views, those of the report."""
    themes = {".space": LIGHT, ".dark .space": DARK}
    return "\n".join(
        f"{place} {{ "
        + " ".join(f"--{view}: {colour};" for view, colour in theme.views.items())
        + " }"
        for place, theme in themes.items()
    )


def html(space_map: SpaceMap) -> str:
    """The map as a piece of a page."""
    pairs = len(space_map.titles)
    if not pairs:
        return '<p class="muted">Too few pictures for a map.</p>'
    legend = "".join(
        f'<label><input type="checkbox" class="show-{view}" checked>'
        f'<i class="dot {view}"></i>{escape(VIEW_NAMES[view])}</label>'
        for view in space_map.points
    )
    every = max(1, pairs // DRAWN_LINKS)
    drawn = "\n".join(_pair(space_map, place, place % every == 0) for place in range(pairs))
    return (
        f'<div class="space"><div class="legend">{legend}</div><div class="plane">{drawn}</div>'
        "</div>"
    )


def _pair(space_map: SpaceMap, place: int, is_drawn: bool) -> str:
    """The points of a pair, and the line through them, which the pointer brings out."""
    points = {view: own[place] for view, own in space_map.points.items()}
    line = " ".join(
        f"{100 * points[view][0]:.2f},{100 * points[view][1]:.2f}"
        for view in ("I", "IT", "T")
        if view in points
    )
    dots = "".join(_dot(view, point, space_map.titles[place]) for view, point in points.items())
    return (
        f'<div class="pair{" drawn" if is_drawn else ""}" '
        f'style="--picture: url({space_map.thumbnails[place]})">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none">'
        f'<polyline points="{line}" vector-effect="non-scaling-stroke"/></svg>{dots}</div>'
    )


def _dot(view: str, point: Sequence[float], title: str) -> str:
    """A point, and the card that unfolds towards the middle of the map."""
    across, down = point
    sides = ("left " if across < 0.2 else "right " if across > 0.8 else "") + (
        "below" if down < 0.4 else "above"
    )
    label = f"{VIEW_NAMES[view]}: {title}"
    return (
        f'<span class="dot {view} {sides}" tabindex="0" role="img" aria-label="{escape(label)}" '
        f'style="left: {100 * across:.2f}%; top: {100 * down:.2f}%">'
        f'<span class="card"><i></i><b>{escape(VIEW_NAMES[view])}</b>{escape(title)}</span></span>'
    )
