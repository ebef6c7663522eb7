"""Views: the ways one image-caption pair is shown to the encoder (docs/method.md)."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class View:
    """A token sequence [CLS] + patches and/or words, and whose keys and values it reads."""

    name: str
    image: bool
    text: bool
    reads: str


VIEWS = {
    view.name: view
    for view in (
        View("I", image=True, text=False, reads="I"),
        View("T", image=False, text=True, reads="T"),
        View("IT", image=True, text=True, reads="IT"),
        # CIC: each stream keeps its own queries and reads the other's keys and values.
        View("I|T", image=True, text=False, reads="T|I"),
        View("T|I", image=False, text=True, reads="I|T"),
    )
}


class PairInputs(NamedTuple):
    """Normalised images and sub-word ids of a batch, as one side (online or momentum) sees them.

    `joint_text` is what the joint view reads: the same caption under a second word mask, or
    `text` itself where nothing is masked. A pad id marks the end of a caption.
    """

    images: Float[Array, "b h w 3"] | None
    text: Int[Array, "b length"] | None
    joint_text: Int[Array, "b length"] | None
    patch_mask: Bool[Array, "b patches"] | None = None


class Wanted(NamedTuple):
    """Tokens of a view whose last-layer states somebody reads, besides [CLS]: None for none."""

    patches: Int[Array, "b patches"] | None = None
    words: Int[Array, "b words"] | None = None


WantedTokens = Mapping[str, Wanted | None] | None
"""By view: [CLS] alone of those that are not named, all tokens where None is named.

None in place of the whole: every token of every view.
"""

CLS_ALONE: WantedTokens = {}


class ViewStates(NamedTuple):
    """Last-layer states of one view, float32; patches and words as far as they were wanted."""

    cls: Float[Array, "b width"]
    image: Float[Array, "b patches width"] | None
    text: Float[Array, "b words width"] | None
