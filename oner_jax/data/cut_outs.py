"""Things cut out of their pictures, to be pasted onto another ground.

Where a picture has transparency, as almost all of the embedded ones have, that is cut away.
Elsewhere it is the white that can be reached from the picture's rim: a flood fill, which any
dataset of things on white allows. A picture with neither, such as a photograph, stays whole.
"""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from oner_jax.data.preprocessing import upright

WHITE_TOLERANCE = 16  # levels from white that still count as ground


def cut_out(picture: Image.Image, side: int) -> UInt8[np.ndarray, "{side} {side} 4"]:
    """Return a picture's middle square in RGBA, transparent where the thing is not."""
    levels = np.array(upright(picture).convert("RGBA"))
    if levels[..., 3].min() == 255:
        levels[white_ground(levels[..., :3]), 3] = 0
    height, width = levels.shape[:2]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    middle = Image.fromarray(levels[top : top + square, left : left + square])
    return np.asarray(middle.resize((side, side), Image.Resampling.LANCZOS))


def white_ground(levels: UInt8[np.ndarray, "height width 3"]) -> Bool[np.ndarray, "height width"]:
    """Return where there is white that is connected to the rim; nowhere if all of it is."""
    regions, _ = ndimage.label(levels.min(axis=2) >= 255 - WHITE_TOLERANCE)
    rim = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    ground = np.isin(regions, rim[rim > 0])
    return ground & ~ground.all()
