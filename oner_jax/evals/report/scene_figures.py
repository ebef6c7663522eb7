"""Figures of pictures in which it is known where things are."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from oner_jax.evals.report.figures import LIGHT, Theme
from oner_jax.evals.tasks.localisation import upsampled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_INCHES = 1.75
MAP_PIXELS = 192
SHOWN_PIXELS = 256  # of a panel for the page


def heat_maps(
    theme: Theme,
    title: str,
    pictures: Sequence[np.ndarray],
    examples: Sequence[Mapping[str, Any]],
) -> "Figure":
    """A row per square picture: itself, then for each phrase its map, box and hottest point.

    `examples` are those of a `localisation` cell. Each map runs from its coldest to its hottest
    patch, so that colours cannot be compared between maps.
    """
    from matplotlib.figure import Figure

    columns = 1 + max(len(example["queries"]) for example in examples)
    figure = Figure(
        figsize=(PANEL_INCHES * columns, (PANEL_INCHES + 0.25) * len(examples)),
        facecolor=theme.background,
        layout="constrained",
    )
    figure.suptitle(title, x=0.01, ha="left", color=theme.text, fontsize=12, fontweight="bold")
    panels = figure.subplots(len(examples), columns, squeeze=False)
    for row, picture, example in zip(panels, pictures, examples, strict=True):
        for axes in row:
            axes.axis("off")
        row[0].imshow(picture, extent=(0, 1, 1, 0))
        for axes, query in zip(row[1:], example["queries"], strict=False):
            _heat_map(axes, theme, picture, query)
    return figure


def heat_panel(
    picture: UInt8[np.ndarray, "height width 3"],
    patches: Sequence[float],
    boxes: Sequence[Sequence[float]],
) -> Image.Image:
    """Return one phrase's map, its boxes and hottest point over the picture, without any words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PANEL_INCHES, PANEL_INCHES), dpi=SHOWN_PIXELS / PANEL_INCHES)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    heat = upsampled(np.array([patches]), MAP_PIXELS)[0]
    draw_heat(axes, LIGHT, picture, heat, boxes)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _heat_map(axes: "Axes", theme: Theme, picture: np.ndarray, query: Mapping[str, Any]) -> None:
    heat = upsampled(np.array([query["map"]]), MAP_PIXELS)[0]
    draw_heat(axes, theme, picture, heat, query["boxes"])
    title = textwrap.shorten(f"“{query['phrase']}”", 24, placeholder=" …”")
    axes.set_title(title, fontsize=9, color=theme.text, pad=4)


def draw_heat(
    axes: "Axes",
    theme: Theme,
    picture: UInt8[np.ndarray, "height width 3"],
    heat: Float[np.ndarray, "rows columns"],
    boxes: Sequence[Sequence[float]],
) -> None:
    """A picture in grey under its map, with the hottest point and boxes, on axes from 0 to 1.

    `boxes` are left, top, right and bottom as parts of the sides.
    """
    from matplotlib.patches import Rectangle

    grey = picture.mean(axis=2)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0))
    axes.imshow(heat, cmap="inferno", alpha=0.55, extent=(0, 1, 1, 0))
    for left, top, right, bottom in boxes:
        box = Rectangle((left, top), right - left, bottom - top, fill=False, linewidth=2)
        box.set_edgecolor(theme.right)
        axes.add_patch(box)
    row, column = np.unravel_index(int(np.argmax(heat)), heat.shape)
    point = (np.array([column, row]) + 0.5) / heat.shape[::-1]
    axes.plot(*point, "o", markersize=6, markerfacecolor="white", markeredgecolor="black")
    axes.set(xlim=(0, 1), ylim=(1, 0))
