"""A check's pictures: a grid of samples with their captions, and how long captions are."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Int32
from matplotlib.figure import Figure

from oner_jax.data.image_files import open_image
from oner_jax.data.preprocessing import on_white
from oner_jax.data.records import Record
from oner_jax.files import write_whole

GRID_COLUMNS, GRID_ROWS = 6, 4
_TILE_INCHES = (2.1, 2.6)
_CAPTION_CHARACTERS, _CAPTION_LINES = 30, 3
_HISTOGRAM_INCHES = (7.0, 2.6)
_DOTS_PER_INCH = 120


def sample_grid(title: str, records: Sequence[Record]) -> Figure:
    """Pictures of up to 24 records, evenly of all, each over its main caption."""
    number = min(GRID_COLUMNS * GRID_ROWS, len(records))
    rows = -(-number // GRID_COLUMNS)
    size = (GRID_COLUMNS * _TILE_INCHES[0], rows * _TILE_INCHES[1] + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, parse_math=False)
    tiles = figure.subplots(rows, GRID_COLUMNS, squeeze=False).ravel()
    chosen = [records[place * len(records) // number] for place in range(number)]
    for tile in tiles:
        tile.set_axis_off()
    for tile, record in zip(tiles, chosen, strict=False):
        if record.image:
            tile.imshow(on_white(open_image(record.image)))
        caption = record.captions[0] if record.captions else ""
        # As data says it: a dollar sign begins no formula.
        tile.text(
            *(0.5, -0.04, _wrapped(caption)),
            transform=tile.transAxes,
            ha="center",
            va="top",
            fontsize=8,
            parse_math=False,
        )
    return figure


def token_lengths(lengths: Mapping[str, Int32[np.ndarray, " captions"]], limit: int) -> Figure:
    """For each dataset by name, how many captions have how many tokens, and where they are cut."""
    size = (_HISTOGRAM_INCHES[0], _HISTOGRAM_INCHES[1] * len(lengths))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(lengths), 1, squeeze=False, sharex=True).ravel()
    # What few captions reach would squeeze all others; those are counted in the last bar.
    longest = max(limit, *(int(np.percentile(each, 99.9)) for each in lengths.values())) + 1
    for ax, (name, own) in zip(axes, lengths.items(), strict=True):
        bins = np.arange(0.5, longest + 1)
        ax.hist(np.minimum(own, longest), bins=bins, weights=np.full(len(own), 100 / len(own)))
        ax.axvline(limit + 0.5, color="tab:red", label=f"model.text_tokens={limit}")
        cut = (own > limit).mean()
        ax.set_title(f"{name}: {cut:.2%} of {len(own):,} captions are cut", parse_math=False)
        ax.set_ylabel("% of captions")
        ax.legend(loc="upper right")
    axes[-1].set_xlabel(f"tokens of a caption ({longest}: or more)")
    return figure


def write(figure: Figure, path: epath.Path) -> None:
    """The figure as a PNG file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Of scripts that the font lacks, boxes are drawn.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
    write_whole(path, file.getvalue())


def _wrapped(caption: str) -> str:
    return textwrap.fill(caption, _CAPTION_CHARACTERS, max_lines=_CAPTION_LINES, placeholder=" ...")
