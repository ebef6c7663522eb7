"""The ladder's bars: retrieval by arm, and the instruments of D1 and D2."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from oner_jax.claims.spread import Row
from oner_jax.evals.report.figures import LIGHT, Theme, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR_PANELS = Mapping[str, Mapping[str, str]]  # panel's title -> metric -> legend

RETRIEVAL_PANELS: BAR_PANELS = {
    "val: R@10, %": {
        "retrieval/val/text_R@10": "picture to caption",
        "retrieval/val/image_R@10": "caption to picture",
    },
    "new_vendor: R@10, %": {
        "retrieval/new_vendor/text_R@10": "picture to caption",
        "retrieval/new_vendor/image_R@10": "caption to picture",
    },
}
GAP_PANELS: BAR_PANELS = {
    "D1: distance of means": {"geometry/val/centroid_distance": "distance of modality means"},
    "D1: modality, %": {
        "geometry/val/modality_classifier": "classifier's accuracy",
        "geometry/val/modality_variance": "share of variance",
    },
    "D1: R@1, %": {
        "geometry/val/unpooled_text_R@1": "among captions",
        "geometry/val/pooled_text_R@1": "among pictures and captions",
    },
    "D2: cosine of IT to": {
        "geometry/val/cos_joint_image": "its picture (I)",
        "geometry/val/cos_joint_text": "its caption (T)",
    },
    "D2: move of IT with": {
        "geometry/val/change_other_picture": "another picture",
        "geometry/val/change_other_caption": "another caption",
    },
}


def arm_bars(rows: Sequence[Row], panels: BAR_PANELS, theme: Theme = LIGHT) -> "Figure":
    """A panel for each title, a bar for each arm and metric; thin lines: ± standard deviation.

    Dots are the seeds, dashes the value of chance. An arm without a metric has no bar there.
    """
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(2.6 + 2.4 * len(panels), 1.1 + 0.38 * len(rows)),
        facecolor=theme.background,
        layout="constrained",
    )
    grid = figure.add_gridspec(1, len(panels))
    for column, (title, metrics) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[0, column])
        dress(axes, theme, title)
        colours = [theme.views["I"], theme.views["T"]]
        height = 0.76 / len(metrics)
        for index, (metric, legend) in enumerate(metrics.items()):
            place = np.arange(len(rows)) + (index - (len(metrics) - 1) / 2) * height
            _draw_bars(axes, theme, rows, metric, place, height, colours[index], legend)
        axes.set_yticks(range(len(rows)), [row.label for row in rows] if column == 0 else [])
        axes.tick_params(axis="y", labelcolor=theme.text)
        axes.grid(False, axis="y")
        axes.grid(axis="x", color=theme.grid, linewidth=0.8)
        # The same rows at the same height in every panel, whether a panel has bars for them or not.
        axes.set_ylim(len(rows) - 0.5, -0.5)
        if len(metrics) > 1:
            axes.legend(
                frameon=False,
                fontsize=8,
                labelcolor=theme.text,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.3 / (0.38 * len(rows))),
            )
    return figure


def _draw_bars(
    axes: "Axes",
    theme: Theme,
    rows: Sequence[Row],
    metric: str,
    place: np.ndarray,
    height: float,
    colour: str,
    legend: str,
) -> None:
    for position, row in zip(place, rows, strict=True):
        spread = row.primary(metric)
        if spread is None or not spread.number:
            continue
        scale = 100 if spread.fraction else 1
        axes.barh(position, scale * spread.mean, 0.9 * height, color=colour, alpha=0.75)
        axes.plot(
            scale * np.array(spread.measured),
            np.full(spread.number, position),
            ".",
            color=theme.text,
            markersize=3,
        )
        if spread.number > 1:
            axes.errorbar(
                scale * spread.mean,
                position,
                xerr=scale * spread.deviation,
                color=theme.text,
                linewidth=0.9,
            )
        axes.plot(
            [scale * spread.chance] * 2,
            [position - height / 2, position + height / 2],
            color=theme.muted,
            linewidth=1.2,
        )
    axes.barh(0, 0, color=colour, alpha=0.75, label=legend)
