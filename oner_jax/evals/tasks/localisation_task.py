"""Localisation as a task: phrases asked of pictures with boxes, in every way to read a model.

Every read-out is measured on every ground. The one whose numbers are given in full is chosen on
the development pictures (`localisation.is_scored`), which are not scored.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from oner_jax.evals.inputs.features import PRIMARY, EmbedsViews
from oner_jax.evals.inputs.readouts import READ_OUTS, Maps, Phrases, Seen
from oner_jax.evals.inputs.scenes import BoxedPictures, ComposedScenes
from oner_jax.evals.inputs.task_inputs import PHOTOGRAPHS, PLAIN, Material
from oner_jax.evals.metrics.measurement import Measurement, absent, measured
from oner_jax.evals.tasks.localisation import (
    development_score,
    localisation,
    other_picture,
    pointing,
)

EXAMPLE_SCENES = 4
IMAGES_AT_ONCE = 128  # the embedder's batch; patch states of many large pictures are not kept

PREFIXES = {PLAIN: "", PHOTOGRAPHS: "photo_"}
# They need no model, and boxes are the same on every ground.
MODEL_FREE = ("pointing_centre", "pointing_salient", "box_centre", "box_whole")
BY_READ_OUT = ("pointing", "which_object")


class Asked(NamedTuple):
    """Maps of the phrases asked for, and of phrases that the same pictures do not show."""

    own: Maps
    other: Maps


def localisation_task(material: Material) -> dict[str, Any]:
    """Measure every read-out on every ground, in full the one that development chooses."""
    grounds = material.grounds
    boxed = grounds[PLAIN]
    if len(np.unique(boxed.pictures)) < 2:
        return absent("too few pictures with different captions for a scene")
    phrases = Phrases(material.model, material.ids(boxed.phrases))
    side = material.patches_per_side
    asked = {ground: ask(material.model, phrases, own, side) for ground, own in grounds.items()}
    chosen = choose(asked, grounds)
    results: dict[str, Measurement] = {}
    for ground, own in grounds.items():
        prefix = PREFIXES[ground]
        in_full = localisation(*asked[ground][chosen], own.boxes, own.pictures)
        results |= {
            f"{prefix}{name}": one
            for name, one in in_full.items()
            if ground == PLAIN or name not in MODEL_FREE
        }
        for read_out, maps in asked[ground].items():
            found = in_full if read_out == chosen else pointing(*maps, own.boxes, own.pictures)
            results |= {
                f"{prefix}{name}_by_{read_out}": found[name]
                for name in BY_READ_OUT
                if name in found
            }
    return {
        **measured({PRIMARY: results}),
        "patches_per_side": side,
        "read_out": chosen,
        "examples": {
            ground: _examples(own, asked[ground][chosen].own) for ground, own in grounds.items()
        },
    }


def ask(
    model: EmbedsViews, phrases: Phrases, boxed: BoxedPictures, patches_per_side: int
) -> dict[str, Asked]:
    """Return the maps of every query, and of another picture's phrase in its place, by read-out."""
    pictures = boxed.pictures
    other = other_picture(pictures)
    features = {name: read_out.phrases(phrases) for name, read_out in READ_OUTS.items()}
    found: dict[str, list[Asked]] = {name: [] for name in READ_OUTS}
    first = 0
    for images in boxed.image_batches(IMAGES_AT_ONCE):
        seen = Seen(model, images, patches_per_side)
        queries = np.flatnonzero((pictures >= first) & (pictures < first + len(images)))
        for name, read_out in READ_OUTS.items():
            places = read_out.places(seen)[pictures[queries] - first]
            rows = (features[name][chosen] for chosen in (queries, other[queries]))
            found[name].append(Asked(*(read_out.maps(own, places) for own in rows)))
        first += len(images)
    return {
        name: Asked(*(np.concatenate(part) for part in zip(*batches, strict=True)))
        for name, batches in found.items()
    }


def choose(asked: Mapping[str, Mapping[str, Asked]], grounds: Mapping[str, BoxedPictures]) -> str:
    """Return the read-out that is best on the development pictures of all grounds."""

    def score(name: str) -> float:
        return sum(
            development_score(asked[ground][name].own, own.boxes, own.pictures)
            for ground, own in grounds.items()
        )

    return max(READ_OUTS, key=score)


def _examples(boxed: BoxedPictures, maps: Maps) -> list[dict[str, Any]]:
    """The first pictures, with all their queries; scenes are in random order already."""
    layouts = boxed.layouts if isinstance(boxed, ComposedScenes) else None
    shown: list[dict[str, Any]] = []
    for picture in map(int, np.unique(boxed.pictures)[:EXAMPLE_SCENES]):
        queries = [
            {
                "phrase": boxed.phrases[query],
                "boxes": np.round(boxed.boxes[query], 4).tolist(),
                "map": _for_show(maps[query]),
            }
            for query in map(int, np.flatnonzero(boxed.pictures == picture))
        ]
        layout = dataclasses.asdict(layouts[picture]) if layouts else None
        shown.append({"picture": picture, "layout": layout, "queries": queries})
    return shown


def _for_show(heat: Float[np.ndarray, "patches"]) -> list[float]:
    """A map from 0 (its coldest patch) to 1 (its hottest)."""
    spread = max(float(np.ptp(heat)), float(np.finfo(np.float32).tiny))
    return np.round((heat - heat.min()) / spread, 3).tolist()
