"""The report's figures: each a function from numbers to a matplotlib figure, light or dark.

Figures are small panels (one message each) that the page arranges to fit the screen.
"""

import dataclasses
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from oner_jax.evals.metrics.measurement import Measurement

PANEL_INCHES = (3.7, 2.7)
SQUARE_INCHES = (3.7, 3.9)
DOTS_PER_INCH = 200
_TITLE_CHARACTERS = 36  # as wide as a panel


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a figure. `views` are those of I, T and IT, the same meaning in every figure;
    `runs` those of lines that stand beside each other."""

    name: str
    background: str
    text: str
    muted: str
    grid: str
    accent: str
    views: Mapping[str, str]
    runs: Sequence[str]
    right: str
    wrong: str


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1c2330",
    muted="#667085",
    grid="#e6e9ef",
    accent="#3d5fd0",
    views={"I": "#3d6fd6", "T": "#e8743b", "IT": "#1f9e7a"},
    runs=("#3d5fd0", "#e8743b", "#1f9e7a", "#b03a8c", "#8a6d1d", "#5c6675"),
    right="#1f9e7a",
    wrong="#b9c0cc",
)
DARK = Theme(
    name="dark",
    background="#171c26",
    text="#e8ebf1",
    muted="#98a2b3",
    grid="#2a3140",
    accent="#8aa4ff",
    views={"I": "#7aa2ff", "T": "#ff9d6b", "IT": "#4fd1a5"},
    runs=("#8aa4ff", "#ff9d6b", "#4fd1a5", "#e58ac9", "#d9bf6a", "#a9b4c4"),
    right="#4fd1a5",
    wrong="#4a5263",
)
THEMES = (LIGHT, DARK)
VIEW_NAMES = {"I": "picture (I)", "T": "caption (T)", "IT": "both together (IT)"}


def render(figure: "Figure") -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def _panel(theme: Theme, title: str, inches: tuple[float, float]) -> "tuple[Figure, Axes]":
    # A Figure of its own, not pyplot's: no global state, nothing to close.
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, facecolor=theme.background, layout="constrained")
    axes = figure.add_subplot()
    dress(axes, theme, title)
    return figure, axes


def dress(axes: "Axes", theme: Theme, title: str) -> None:
    """Give axes the style of the report."""
    axes.set_facecolor(theme.background)
    title = textwrap.fill(title, _TITLE_CHARACTERS)
    axes.set_title(title, loc="left", color=theme.text, fontsize=11, fontweight="bold", pad=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
    axes.tick_params(colors=theme.muted, labelsize=9, length=0)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(theme.muted)
    axes.yaxis.label.set_color(theme.muted)


def _legend_below(figure: "Figure", axes: "Axes", theme: Theme) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        labelcolor=theme.text,
        fontsize=9,
        handletextpad=0.4,
        columnspacing=1.2,
        markerscale=1.6,
    )


def curve(
    theme: Theme,
    title: str,
    steps: Sequence[float],
    values: Sequence[float],
    *,
    smooth: bool = False,
    from_zero: bool = False,
) -> "Figure":
    """One quantity over training steps; `smooth` draws its running mean over the raw line."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure, axes = _panel(theme, title, PANEL_INCHES)
    if smooth and len(values) >= 20:
        axes.plot(steps, values, color=theme.accent, linewidth=0.8, alpha=0.35)
        values = running_mean(values, len(values) // 20)
    axes.plot(steps, values, color=theme.accent, linewidth=1.8, solid_capstyle="round")
    axes.plot(steps[-1], values[-1], "o", color=theme.accent, markersize=4.5)
    # The last value is next to the title, where no line can run through it.
    axes.set_title(f"{values[-1]:.3g}", loc="right", color=theme.accent, fontsize=11, pad=8)
    axes.set_xlabel("step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(y=0.15)
    if from_zero:
        axes.set_ylim(bottom=0)
    return figure


def curves_by_run(
    theme: Theme,
    title: str,
    lines: "Mapping[str, Sequence[tuple[int, Measurement]]]",
) -> "Figure":
    """A measurement over training steps, a line for each run with its 95 % band; dashed: chance."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure, axes = _panel(theme, title, PANEL_INCHES)
    first = next(iter(lines.values()))[0][1]
    scale = 100 if first.fraction else 1
    for number, (run, points) in enumerate(lines.items()):
        colour = theme.runs[number % len(theme.runs)]
        steps = [step for step, _ in points]
        low, high = ([scale * measured.interval[side] for _, measured in points] for side in (0, 1))
        values = [scale * measured.value for _, measured in points]
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(steps, values, "o-", color=colour, linewidth=1.6, markersize=3.5, label=run)
    if math.isfinite(first.chance):
        axes.axhline(scale * first.chance, color=theme.muted, linewidth=1, linestyle="--")
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("%" if first.fraction else "", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if len(lines) > 1:
        _legend_below(figure, axes, theme)
    return figure


# Of confusion matrices, in inches: their fields and the room for names are as large in every one.
_FIELD, _NAMES, _TITLE, _EDGE = 0.28, 1.75, 0.45, 0.1


def _confusion(found: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Return counts and the names of columns; without any other answer there is no such column."""
    counts, names = np.array(found["counts"], np.float64), list(found["classes"])
    if not counts[:, -1].any():
        counts = counts[:, :-1]
    return counts, names + ["other"] * (counts.shape[1] - len(names))


def confusion_inches(found: Mapping[str, Any]) -> tuple[float, float]:
    """Return width and height of a confusion matrix with its names."""
    rows, columns = _confusion(found)[0].shape
    return _NAMES + _FIELD * columns + _EDGE, _TITLE + _FIELD * rows + _NAMES


def confusion_matrix(theme: Theme, title: str, found: Mapping[str, Any]) -> "Figure":
    """`classification.confusion` as shares of each row; the last column is any other answer."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    counts, columns = _confusion(found)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    width, height = confusion_inches(found)
    rows = len(counts)
    figure = Figure(figsize=(width, height), facecolor=theme.background)
    left, bottom = _NAMES / width, _NAMES / height
    axes = figure.add_axes((left, bottom, _FIELD * len(columns) / width, _FIELD * rows / height))
    dress(axes, theme, title)
    colours = LinearSegmentedColormap.from_list("share", [theme.background, theme.accent])
    axes.imshow(shares, cmap=colours, vmin=0, vmax=100)
    for row, column in np.argwhere(shares >= 10).tolist():
        axes.text(
            column,
            row,
            f"{shares[row, column]:.0f}",
            ha="center",
            va="center",
            fontsize=7.5,
            color=theme.background if shares[row, column] > 55 else theme.text,
        )
    short = [textwrap.shorten(name, 24, placeholder="…") for name in columns]
    axes.set_xticks(range(len(short)), short, rotation=90, fontsize=9)
    axes.set_yticks(range(rows), short[:rows], fontsize=9)
    axes.grid(False)
    return figure


def severity_curves(
    theme: Theme, title: str, by_severity: Mapping[str, Sequence[float]]
) -> "Figure":
    """What is left at each severity of every corruption; dashed: without any."""
    figure, axes = _panel(theme, title, (4.6, 3.6))
    corrupted = {name: values for name, values in by_severity.items() if len(values) > 1}
    for number, (name, values) in enumerate(corrupted.items()):
        axes.plot(
            range(1, len(values) + 1),
            [100 * value for value in values],
            "-" if number < len(theme.runs) else ":",
            color=theme.runs[number % len(theme.runs)],
            linewidth=1.4,
            label=name.replace("_", " "),
        )
    axes.axhline(100 * by_severity["clean"][0], color=theme.muted, linewidth=1, linestyle="--")
    axes.set_xticks(range(1, 6))
    axes.set_xlabel("severity", fontsize=9)
    axes.set_ylabel("%", fontsize=9)
    axes.set_ylim(bottom=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside right center",
        frameon=False,
        labelcolor=theme.text,
        fontsize=8,
    )
    return figure


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Mean of each value with `reach` neighbours on either side (with as many as there are)."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    place = np.arange(len(values))
    first, last = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(values))
    return ((total[last] - total[first]) / (last - first)).tolist()


def view_map(
    theme: Theme, title: str, points: Mapping[str, Sequence[Sequence[float]]], links: int = 40
) -> "Figure":
    """t-SNE points of I, T and, where it is, IT; thin lines join the points of `links` pairs."""
    figure, axes = _panel(theme, title, SQUARE_INCHES)
    _draw_map(axes, theme, points, links)
    _legend_below(figure, axes, theme)
    return figure


def view_maps(
    theme: Theme,
    panels: Sequence[tuple[str, Mapping[str, Sequence[Sequence[float]]]]],
    links: int = 40,
) -> "Figure":
    """Maps of several models or checkpoints side by side, each a title and the points of a `map`.

    The paper's triptych is three: naive contrast at the end, contextual mixing early and late.
    """
    from matplotlib.figure import Figure

    width, height = SQUARE_INCHES
    figure = Figure(
        figsize=(width * len(panels), height), facecolor=theme.background, layout="constrained"
    )
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, points) in zip(row, panels, strict=True):
        dress(axes, theme, title)
        _draw_map(axes, theme, points, links)
    most = max(range(len(panels)), key=lambda index: len(panels[index][1]))
    _legend_below(figure, row[most], theme)
    return figure


def _draw_map(
    axes: "Axes", theme: Theme, points: Mapping[str, Sequence[Sequence[float]]], links: int
) -> None:
    flat = {view: np.asarray(own) for view, own in points.items()}
    pairs = len(flat["I"])
    for pair in range(0, pairs, max(1, pairs // links)):
        corners = np.stack([flat[view][pair] for view in ("I", "IT", "T") if view in flat])
        axes.plot(*corners.T, color=theme.muted, linewidth=0.6, alpha=0.35, zorder=1)
    # Rings for IT, so that a picture or caption under it stays visible.
    for view, own in flat.items():
        colour, ring = theme.views[view], view == "IT"
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=26 if ring else 11,
            facecolors="none" if ring else colour,
            edgecolors=colour if ring else "none",
            linewidths=0.9 if ring else 0,
            alpha=0.85,
            label=VIEW_NAMES[view],
            zorder=2,
        )
    axes.grid(False)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines["bottom"].set_visible(False)


def cosine_histogram(
    theme: Theme,
    title: str,
    histogram: Mapping[str, Sequence[float]],
    limits: tuple[float, float],
) -> "Figure":
    """Cosines of pairs that belong together against those that do not, between `limits`."""
    figure, axes = _panel(theme, title, PANEL_INCHES)
    edges = np.asarray(histogram["edges"])
    for name, label, colour in (
        ("other", "unrelated", theme.wrong),
        ("matching", "belong together", theme.right),
    ):
        heights = np.asarray(histogram[name])
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.55, label=label)
        axes.stairs(heights, edges, color=colour, linewidth=1.4)
    axes.set_xlabel("cosine of picture and caption", fontsize=9)
    axes.set(yticks=[], xlim=limits)
    axes.grid(False)
    _legend_below(figure, axes, theme)
    return figure


def retrieval_grid(
    theme: Theme,
    queries: Sequence[Mapping[str, Any]],
    pictures: Mapping[int, Any],
) -> "Figure":
    """Captions and the pictures found for them, right ones framed: the page's grid as one PNG.

    `pictures` are PIL images by index in the dataset.
    """
    from matplotlib.figure import Figure

    columns = max(len(query["answers"]) for query in queries)
    figure = Figure(
        figsize=(2.3 + 1.05 * columns, 1.05 * len(queries)),
        facecolor=theme.background,
        layout="constrained",
    )
    grid = figure.add_gridspec(len(queries), columns + 1, width_ratios=[2.1] + [1.0] * columns)
    for row, query in enumerate(queries):
        label = figure.add_subplot(grid[row, 0])
        label.axis("off")
        label.text(
            1.0,
            0.5,
            textwrap.fill(f"“{query['caption']}”", 22),
            ha="right",
            va="center",
            color=theme.text,
            fontsize=11,
            transform=label.transAxes,
        )
        for column, answer in enumerate(query["answers"]):
            axes = figure.add_subplot(grid[row, column + 1])
            picture = pictures[answer["index"]]
            axes.imshow(picture)
            # A white square around every picture, whatever its shape.
            width, height = picture.size
            side = 0.56 * max(width, height)
            axes.set(
                xticks=[],
                yticks=[],
                xlim=(width / 2 - side, width / 2 + side),
                ylim=(height / 2 + side, height / 2 - side),
                facecolor="white",
            )
            for spine in axes.spines.values():
                spine.set_color(theme.right if answer["hit"] else theme.grid)
                spine.set_linewidth(3 if answer["hit"] else 1)
    return figure
