"""The views of the same pairs in one space, as the instruments of geometry read them."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int64


@dataclasses.dataclass(frozen=True)
class Views:
    """Unit vectors of the views of the same pairs, in one space: row i is pair i in each.

    `joint` is IT of picture i with its own main caption; `joint_swapped` is picture i with the
    caption of pair `partner[i]`; both are None for an architecture without a joint view. `caption`
    numbers the main captions (equal captions share one), `picture` the pictures in the same way
    (None: all are different).
    """

    image: Float[np.ndarray, "pairs width"]
    text: Float[np.ndarray, "pairs width"]
    joint: Float[np.ndarray, "pairs width"] | None
    joint_swapped: Float[np.ndarray, "pairs width"] | None
    partner: Int64[np.ndarray, "pairs"]
    caption: Int64[np.ndarray, "pairs"]
    picture: Int64[np.ndarray, "pairs"] | None = None

    def sample(self, maximum_pairs: int) -> "Views":
        """At most that many pairs, chosen at random by a fixed seed.

        A pair whose partner is left out points to itself from then on (and is skipped where
        partners are compared).
        """
        size = len(self.image)
        if size <= maximum_pairs:
            return self
        kept = np.sort(np.random.default_rng(0).choice(size, maximum_pairs, replace=False))
        place = np.full(size, -1)
        place[kept] = np.arange(maximum_pairs)
        partner = place[self.partner[kept]]
        partner = np.where(partner < 0, np.arange(maximum_pairs), partner)
        sampled: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            rows = getattr(self, field.name)
            sampled[field.name] = None if rows is None else rows[kept]
        return Views(**{**sampled, "partner": partner})
