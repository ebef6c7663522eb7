"""What visitors ask: pictures by words, by a picture or by both, and where a phrase is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from oner_jax.api import Model
from oner_jax.errors import InputError
from oner_jax.evals.report.figures import LIGHT
from oner_jax.evals.report.scene_figures import draw_heat
from oner_jax.indexing.index import Hit
from oner_jax.page.collection import Collection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAXIMUM_CHARACTERS = 1000

_DOTS_PER_INCH = 200
_HEAT_PIXELS = 640  # the shorter pictures of small collections are enlarged to it


class Answer(NamedTuple):
    """What was found, best first, and what to know about how the words were read."""

    hits: list[Hit]
    notes: list[str]


def find(
    model: Model, collection: Collection, words: str, picture: str | None, count: int
) -> Answer:
    """The `count` pictures that fit best. `picture` is a path; both together are one query.

    Raises InputError for nothing to search by, for too many words, for a picture that cannot be
    read, and for both together where the model has no joint view.
    """
    words = words.strip()
    if not (words or picture):
        raise InputError("Nothing to search by yet: type some words, choose a picture, or both.")
    if words:
        check_length(words)
    query = model.embed(images=picture, texts=words or None)
    notes = reading_notes(model, words) if words else []
    return Answer(collection.index.search(query, count)[0], notes)


def check_length(words: str) -> None:
    """Raise InputError for more than anybody types."""
    if len(words) > MAXIMUM_CHARACTERS:
        raise InputError(
            f"{len(words):,} characters are too many: give at most {MAXIMUM_CHARACTERS:,}."
        )


def reading_notes(model: Model, words: str) -> list[str]:
    """What of the words the model does not read, or reads without knowing it."""
    notes = []
    tokenizer, limit = model.tokenizer, model.settings.text_tokens
    (length,) = tokenizer.lengths([words])
    ids = model.token_ids([words])
    if length > limit:
        notes.append(
            f"The model reads {limit} word pieces, and these are {length}: it read only "
            f"“{tokenizer.decode(ids)[0]}”."
        )
    unknown = _unknown_characters(model, words)
    if unknown:
        notes.append(
            f"{_listed(unknown)} {'is' if len(unknown) == 1 else 'are'} not in the model’s "
            "vocabulary: it read bytes, and may not know what they mean."
        )
    return notes


def _unknown_characters(model: Model, words: str) -> list[str]:
    characters = [each for each in dict.fromkeys(words) if not each.isspace()]
    ids = model.tokenizer.encode(characters, max_tokens=16)
    return [
        character
        for character, own in zip(characters, ids, strict=True)
        if model.tokenizer.is_byte[own].any()
    ]


def _listed(characters: Sequence[str]) -> str:
    few = " ".join(f"“{character}”" for character in characters[:5])
    return f"{few} and {len(characters) - 5} more" if len(characters) > 5 else few


def located(model: Model, picture: Image.Image, phrase: str) -> Image.Image:
    """The picture with the phrase's heat map, its hottest point and a box drawn over it.

    Raises InputError for an empty phrase or one that is too long.
    """
    from matplotlib.figure import Figure

    phrase = phrase.strip()
    if not phrase:
        raise InputError("Type what to look for in the picture.")
    check_length(phrase)
    # Lines and the point have the same size on every picture.
    scale = _HEAT_PIXELS / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    found = model.localize(picture, phrase)
    box = np.array(found.box) / [*picture.size, *picture.size]
    figure = Figure(figsize=(width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    draw_heat(axes, LIGHT, np.asarray(picture), found.heat_map, [box.tolist()])
    axes.set_aspect("auto")
    return _as_picture(figure)


def _as_picture(figure: "Figure") -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
