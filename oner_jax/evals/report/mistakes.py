"""The report's section on what goes wrong: confusions, mistakes to look at, corrupted pictures."""

import functools
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from oner_jax.evals.engine.table import Columns
from oner_jax.evals.report import figures, sections, wording
from oner_jax.evals.report import html as page
from oner_jax.evals.report.one_space import AddFigure, ReadPictures

if TYPE_CHECKING:
    from PIL.Image import Image


PIXELS_PER_INCH = 96


def mistakes(columns: Columns, pictures: ReadPictures, add_figure: AddFigure) -> str:
    """Confusion matrices, the most certain mistakes and corruptions of the first column.

    `add_figure` takes a figure's name, description and drawing function and returns its HTML.
    """
    parts = []
    for dataset, cells in next(iter(columns.values())).items():
        drawn, curves = [], []
        for task in ("zeroshot", "probe"):
            found = cells[task].content.get("confusion") if task in cells else None
            if found:
                title = f"{wording.CLASSIFIERS[task]}, %"
                drawn.append(
                    add_figure(
                        f"confusion {dataset} {task}",
                        f"Which classes are taken for which: {dataset}, {title}",
                        functools.partial(figures.confusion_matrix, title=title, found=found),
                        round(PIXELS_PER_INCH * figures.confusion_inches(found)[0]),
                    )
                )
        if "robustness" in cells:
            curves = _corruptions(dataset, cells["robustness"].content, add_figure)
        failures = cells["zeroshot"].content.get("failures") if "zeroshot" in cells else None
        if failures:
            shown = pictures(dataset, sorted({failure["index"] for failure in failures}))
            parts.append(
                f"<h3>{escape(dataset)}: its most certain mistakes</h3>"
                f"<p>{escape(wording.FAILURES)}</p>{_gallery(failures, shown)}"
            )
        if drawn:
            parts.append(
                f"<h3>{escape(dataset)}: what is taken for what</h3>"
                f'<p>{escape(wording.CONFUSION)}</p><div class="matrices">{"".join(drawn)}</div>'
            )
        if curves:
            parts.append(
                f"<h3>{escape(dataset)}: what corruptions leave</h3>{page.grid(curves, 'pairs')}"
            )
    title = f'<h2 id="mistakes">{sections.LINKS["mistakes"]}</h2>'
    return title + ("\n".join(parts) or '<p class="muted">Not measured: no labels.</p>')


def _corruptions(dataset: str, content: Mapping[str, Any], add_figure: AddFigure) -> list[str]:
    return [
        add_figure(
            f"robustness {dataset} {kind}",
            f"What is left under corruptions of the picture: {dataset}, {title}",
            functools.partial(figures.severity_curves, title=title, by_severity=found),
        )
        for kind, found in content["by_severity"].items()
        for title in (wording.CORRUPTED[kind],)
    ]


def _gallery(failures: Sequence[Mapping[str, Any]], pictures: "Mapping[int, Image]") -> str:
    shown = "".join(
        '<figure class="miss">'
        + page.thumbnail(pictures[failure["index"]], failure["class"])
        + f"<figcaption>{escape(failure['answer'])}<br><small>is: {escape(failure['class'])}"
        "</small></figcaption></figure>"
        for failure in failures
    )
    return f'<div class="card faults">{shown}</div>'
