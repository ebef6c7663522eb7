"""The photographs behind composed scenes: the two that scikit-learn ships, read from there.

Both are under the Creative Commons Attribution licence 2.0; scenes show crops of them with things
pasted over.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import UInt8
from PIL import Image

LICENCE = "CC BY 2.0 (https://creativecommons.org/licenses/by/2.0/)"
SMALLEST_CROP = 0.5  # of the photograph's shorter side


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A file of `sklearn.datasets`, who took it and where it is from."""

    file: str
    author: str
    source: str


PHOTOGRAPHS = (
    Photograph(
        "china.jpg", "danielbuechele", "https://www.flickr.com/photos/danielbuechele/6061409035/"
    ),
    Photograph("flower.jpg", "vultilion", "https://www.flickr.com/photos/vultilion/6056698931/"),
)


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of a photograph of `PHOTOGRAPHS`: its left and top edge and its side, in pixels."""

    file: str
    left: int
    top: int
    side: int

    def pixels(self, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
        """The crop at `size` pixels a side."""
        edges = (self.left, self.top, self.left + self.side, self.top + self.side)
        photograph = Image.fromarray(_levels(self.file))
        return np.asarray(photograph.resize((size, size), Image.Resampling.LANCZOS, box=edges))


def draw_crop(random: np.random.Generator) -> Crop:
    """Draw one of the photographs and a square in it, uniformly at random."""
    file = PHOTOGRAPHS[int(random.integers(len(PHOTOGRAPHS)))].file
    height, width = _levels(file).shape[:2]
    shorter = min(height, width)
    side = int(random.integers(int(SMALLEST_CROP * shorter), shorter + 1))
    left, top = (int(random.integers(edge - side + 1)) for edge in (width, height))
    return Crop(file, left, top, side)


@functools.cache
def _levels(file: str) -> UInt8[np.ndarray, "height width 3"]:
    from sklearn.datasets import load_sample_image

    return np.asarray(load_sample_image(file))
