"""The report of a run: one HTML page that needs nothing else, and its figures as PNG beside it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from etils import epath

from oner_jax.evals.engine.differences import Difference
from oner_jax.evals.engine.suite import slug
from oner_jax.evals.engine.table import Columns
from oner_jax.evals.report import figures, gallery, sections, wording
from oner_jax.evals.report import html as page
from oner_jax.evals.report.mistakes import mistakes
from oner_jax.evals.report.one_space import ReadCutOuts, properties
from oner_jax.evals.report.training_history import History
from oner_jax.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything a report is made of.

    `columns` are the results by label, the run itself first. `pictures` gives the pictures of a
    dataset at some indices, `cut_outs` the things in them at a size in pixels; `descriptions` says
    what a dataset is, where anybody knows. `command` is what made the report; `compared` are
    differences to other checkpoints, by their title; `overview` is the address of the page on all
    checkpoints, from this one.
    """

    directory: epath.PathLike
    step: int
    columns: Columns
    history: History
    pictures: Callable[[str, Sequence[int]], Mapping[int, "Image"]]
    cut_outs: ReadCutOuts
    descriptions: Mapping[str, str]
    command: str
    compared: Mapping[str, Sequence[Difference]] = dataclasses.field(default_factory=dict)
    overview: str | None = None

    def write(self) -> epath.Path:
        """Write `index.html` and the PNGs; returns the page's path."""
        self._folder.mkdir(parents=True, exist_ok=True)
        parts = [
            sections.header(self.step, self.overview),
            sections.headlines(self.columns, self.descriptions),
            sections.training_facts(self.history, self.step),
            self._examples(),
            sections.results(self.columns, self.descriptions),
            sections.compared(self.compared),
            self._space(),
            properties(self.columns, self.pictures, self.cut_outs, self._figure),
            mistakes(self.columns, self.pictures, self._figure),
            self._curves(),
            sections.guide(),
            sections.footer(self.history, self.command),
        ]
        path = self._folder / "index.html"
        write_whole(path, page.document(f"OneR: step {self.step:,}", "\n".join(parts)))
        return path

    @property
    def _folder(self) -> epath.Path:
        return epath.Path(self.directory)

    def _figure(
        self,
        name: str,
        description: str,
        draw: "Callable[[figures.Theme], Figure]",
        width: int | None = None,
    ) -> str:
        """A figure for the page, in both themes, which are also written as PNG beside it."""
        renderings = {theme.name: figures.render(draw(theme)) for theme in figures.THEMES}
        for theme, content in renderings.items():
            suffix = "" if theme == "light" else f"_{theme}"
            write_whole(self._folder / f"{slug(name)}{suffix}.png", content)
        return page.figure(renderings, description, width)

    def _examples(self) -> str:
        parts = [f'<h2 id="examples">{sections.LINKS["examples"]}</h2><p>{wording.EXAMPLES}</p>']
        for dataset, cells in next(iter(self.columns.values())).items():
            if "examples" not in cells:
                continue
            found = cells["examples"].content
            by_image = found["image_to_text"]
            asked = {kind: found[kind] for kind in ("certain", "mistaken", "text_to_image")}
            first = {row["caption"] for row in asked["certain"]}
            asked["mistaken"] = [row for row in asked["mistaken"] if row["caption"] not in first]
            indices = {row["index"] for row in by_image}
            for rows in asked.values():
                indices |= {answer["index"] for row in rows for answer in row["answers"]}
            pictures = self.pictures(dataset, sorted(indices))
            for kind, rows in asked.items():
                if rows:
                    grid = figures.retrieval_grid(figures.LIGHT, rows, pictures)
                    path = self._folder / f"examples_{slug(dataset)}_{kind}.png"
                    write_whole(path, figures.render(grid))
            folded = {
                "more that it is certain about and wrong": asked["mistaken"],
                "captions drawn at random": asked["text_to_image"],
            }
            certain = gallery.caption_queries(asked["certain"], pictures)
            title = "the captions it is most certain about, and what it finds"
            # One list is open, that of the first dataset.
            is_first = len(parts) == 1
            parts += [
                f"<h3>{escape(dataset)}{f': {title}' if is_first else ''}</h3>",
                certain if is_first else page.folded(f"{dataset}: {title}", certain),
                *(
                    page.folded(f"{dataset}: {name}", gallery.caption_queries(rows, pictures))
                    for name, rows in folded.items()
                    if rows
                ),
                page.folded(
                    f"{dataset}: pictures drawn at random, and the captions nearest",
                    gallery.picture_queries(by_image, pictures),
                ),
            ]
        return "\n".join(parts)

    def _space(self) -> str:
        parts = [f'<h2 id="space">{sections.LINKS["space"]}</h2><p>{wording.SPACE}</p>']
        own_label = next(iter(self.columns))
        for dataset, own_cells in self.columns[own_label].items():
            if "map" not in own_cells:
                continue
            maps, histograms = [], []
            cosines = {
                label: cells[dataset]["geometry"].content["cosines"]
                for label, cells in self.columns.items()
            }
            limits = (
                min(histogram["edges"][0] for histogram in cosines.values()),
                max(histogram["edges"][-1] for histogram in cosines.values()),
            )
            panels = []
            for label, cells in self.columns.items():
                title = sections.OWN if label == own_label else label
                points = cells[dataset]["map"].content["points"]
                panels.append((title, points))
                maps.append(
                    self._figure(
                        f"map {dataset} {title}",
                        f"Map of pictures, captions and, where there are, joint views: {dataset}, "
                        f"{title}",
                        partial(figures.view_map, title=title, points=points),
                    )
                )
                histograms.append(
                    self._figure(
                        f"cosines {dataset} {title}",
                        f"Cosines of matching and of other pairs: {dataset}, {title}",
                        partial(
                            figures.cosine_histogram,
                            title=title,
                            histogram=cosines[label],
                            limits=limits,
                        ),
                    )
                )
            together = figures.render(figures.view_maps(figures.LIGHT, panels))
            write_whole(self._folder / f"maps_{slug(dataset)}.png", together)
            parts.append(
                f"<h3>{escape(dataset)}: the map</h3>{page.grid(maps)}"
                f"<h3>{escape(dataset)}: how near do pictures lie to their captions?</h3>"
                f"{page.grid(histograms)}"
                f"{sections.geometry_table(self.columns, dataset)}"
            )
        return "\n".join(parts)

    def _curves(self) -> str:
        """Losses by term, then learning rate and throughput; what was not logged is left out."""
        others = sorted(name for name in self.history.last if name.startswith("loss/"))
        titles = {**wording.LOSSES, **{name: name for name in others if name not in wording.LOSSES}}
        titles |= wording.TRAINING_CURVES
        panels = []
        for name, title in titles.items():
            steps, values = self.history.series(name)
            if len(steps) > 1:
                panels.append(
                    self._figure(
                        f"curve {name}",
                        f"{title} over training steps",
                        partial(
                            figures.curve,
                            title=title,
                            steps=steps,
                            values=values,
                            smooth=name not in wording.TRAINING_CURVES,
                            from_zero=name == "pairs_per_sec",
                        ),
                    )
                )
        shown = page.grid(panels) if panels else "<p>The run logged no metrics.</p>"
        return f'<h2 id="training">{sections.LINKS["training"]}</h2><p>{wording.CURVES}</p>{shown}'
