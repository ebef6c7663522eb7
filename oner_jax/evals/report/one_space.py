"""The report's section on what one space for both modalities is good for, with its pictures."""

import functools
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from oner_jax.evals.engine.suite import Cell
from oner_jax.evals.engine.table import Columns
from oner_jax.evals.inputs import photographs
from oner_jax.evals.inputs.features import PRIMARY
from oner_jax.evals.inputs.readouts import READ_OUTS
from oner_jax.evals.inputs.scenes import Layout, compose
from oner_jax.evals.inputs.task_inputs import PHOTOGRAPHS
from oner_jax.evals.metrics.measurement import format_value
from oner_jax.evals.report import gallery, scene_figures, sections, wording
from oner_jax.evals.report import html as page
from oner_jax.evals.tasks import metric_wording
from oner_jax.evals.tasks.retrieval import RECALL_AT

SCENE_PIXELS = 288

ReadPictures = Callable[[str, Sequence[int]], Mapping[int, Image.Image]]
ReadCutOuts = Callable[[str, Sequence[int], int], Mapping[int, np.ndarray]]
# Takes a name, a description, what draws it and the width in pixels (None: that of its place).
AddFigure = Callable[..., str]


def properties(
    columns: Columns, pictures: ReadPictures, cut_outs: ReadCutOuts, add_figure: AddFigure
) -> str:
    """Localisation, reasoning and multi-modal retrieval of every dataset.

    `add_figure` takes a figure's name, description and drawing function and returns its HTML.
    """
    parts = [f'<h2 id="properties">{sections.LINKS["properties"]}</h2><p>{wording.PROPERTIES}</p>']
    for dataset, cells in next(iter(columns.values())).items():
        if "localisation" in cells:
            parts.append(_localisation(columns, dataset, pictures, cut_outs, add_figure))
        if "reasoning" in cells:
            parts.append(_reasoning(columns, dataset, pictures))
        if "multimodal" in cells:
            parts.append(_multimodal(columns, dataset, pictures))
    return "\n".join(parts)


def _own(columns: Columns, dataset: str, task: str) -> Cell:
    return next(iter(columns.values()))[dataset][task]


def _title(dataset: str, text: str, explanation: str) -> str:
    return f"<h3>{escape(dataset)}: {text}</h3><p>{escape(explanation)}</p>"


def _nothing(cell: Cell) -> str:
    return f'<p class="muted">Not measured: {escape(cell.content["absent"])}.</p>'


def _localisation(
    columns: Columns,
    dataset: str,
    pictures: ReadPictures,
    cut_outs: ReadCutOuts,
    add_figure: AddFigure,
) -> str:
    cell = _own(columns, dataset, "localisation")
    head = _title(dataset, "where is it?", wording.LOCALISATION_EXPLAINED)
    if "absent" in cell.content:
        return head + _nothing(cell)
    read_out = READ_OUTS[cell.content["read_out"]].title
    parts = []
    for ground, examples in cell.content["examples"].items():
        title = f"{wording.GROUNDS[ground]}: {read_out}"
        scenes = [_localised(dataset, each, pictures, cut_outs) for each in examples]
        # On the page, words are the page's own: those in a figure shrink with it.
        add_figure(
            f"localisation {dataset} {ground}",
            f"Pictures and, for each phrase, where the model sees it: {dataset}, {ground}",
            functools.partial(
                scene_figures.heat_maps, title=title, pictures=scenes, examples=examples
            ),
        )
        parts.append(f"<p><strong>{escape(title)}</strong></p>{_panels(scenes, examples)}")
    if PHOTOGRAPHS in cell.content["examples"]:
        parts.append(f'<p class="muted">{_credits()}</p>')
    table = sections.measured_table(columns, dataset, ["localisation"])
    return f"{head}{''.join(parts)}{_in_numbers(dataset, table)}"


def _panels(scenes: Sequence[np.ndarray], examples: Sequence[Mapping[str, Any]]) -> str:
    """A card for each scene: itself, then for each phrase where the model sees it."""
    cards = []
    for scene, example in zip(scenes, examples, strict=True):
        shown = [(Image.fromarray(scene), "the picture")] + [
            (
                scene_figures.heat_panel(scene, query["map"], query["boxes"]),
                f"“{query['phrase']}”",
            )
            for query in example["queries"]
        ]
        panels = "".join(
            f"<figure>{page.thumbnail(panel, caption, scene_figures.SHOWN_PIXELS)}"
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for panel, caption in shown
        )
        cards.append(f'<div class="card panels">{panels}</div>')
    return _few(cards, "More scenes")


def _credits() -> str:
    """Return who took the photographs, as their licence requires."""
    taken = " and ".join(
        f"{escape(each.file)} by {escape(each.author)} ({escape(each.source)})"
        for each in photographs.PHOTOGRAPHS
    )
    return f"Photographs: crops of {taken}, {photographs.LICENCE}, things pasted over them."


def _localised(
    dataset: str, example: Mapping[str, Any], pictures: ReadPictures, cut_outs: ReadCutOuts
) -> np.ndarray:
    """Compose again a scene that was measured, or return a picture with boxes."""
    if example["layout"] is None:
        whole = pictures(dataset, [example["picture"]])[example["picture"]]
        return np.asarray(whole.resize((SCENE_PIXELS, SCENE_PIXELS)))
    layout = _layout(example)
    shown = cut_outs(dataset, sorted(layout.pictures), SCENE_PIXELS // 2)
    return compose(layout, shown, SCENE_PIXELS)[0]


def _scene(dataset: str, example: Mapping[str, Any], pictures: ReadPictures) -> np.ndarray:
    """A scene composed of the stored pictures, on white."""
    layout = _layout(example)
    shown = pictures(dataset, sorted(layout.pictures))
    pixels = {index: np.asarray(picture) for index, picture in shown.items()}
    return compose(layout, pixels, SCENE_PIXELS)[0]


def _layout(example: Mapping[str, Any]) -> Layout:
    stored = example["layout"]
    ground = stored.get("ground")
    return Layout(
        tuple(stored["pictures"]),
        tuple(map(tuple, stored["tiles"])),
        None if ground is None else photographs.Crop(**ground),
    )


def _reasoning(columns: Columns, dataset: str, pictures: ReadPictures) -> str:
    cell = _own(columns, dataset, "reasoning")
    head = _title(dataset, "a word turns its head", wording.REASONING_EXPLAINED)
    if "absent" in cell.content:
        return head + _nothing(cell)
    cards = []
    for example in cell.content["examples"]:
        shown = {prompt["name"] for prompt in example["prompts"]}
        lists = [_ranking("no prompt", example["no_prompt"], shown)] + [
            _ranking(
                f"“{prompt['name']}”: number {prompt['rank']:,} (without the prompt "
                f"{prompt['rank_no_prompt']:,})",
                prompt["answers"],
                {prompt["name"]},
            )
            for prompt in example["prompts"]
        ]
        scene = Image.fromarray(_scene(dataset, example, pictures))
        cards.append(
            f'<div class="card guided">{page.thumbnail(scene, "A scene", SCENE_PIXELS)}'
            f"{''.join(lists)}</div>"
        )
    table = sections.measured_table(columns, dataset, ["reasoning"])
    return f"{head}{_few(cards, f'{dataset}: more scenes')}{_in_numbers(dataset, table)}"


def _few(cards: Sequence[str], title: str) -> str:
    """The first card, and the others folded."""
    first, *others = cards
    return first + (page.folded(title, "".join(others)) if others else "")


def _in_numbers(dataset: str, table: str) -> str:
    return page.folded(f"{dataset}: in numbers", table)


def _ranking(title: str, answers: Sequence[str], right: set[str]) -> str:
    items = "".join(
        f'<li class="{"hit" if answer in right else "miss"}">{escape(answer)}</li>'
        for answer in answers
    )
    return f'<div class="described"><p class="truth">{escape(title)}</p><ol>{items}</ol></div>'


def _multimodal(columns: Columns, dataset: str, pictures: ReadPictures) -> str:
    cell = _own(columns, dataset, "multimodal")
    head = _title(dataset, "asking with a picture and a word", wording.MULTIMODAL_EXPLAINED)
    if "absent" in cell.content:
        return head + _nothing(cell)
    found = cell.measurements(PRIMARY)
    parts = [head]
    rows = []
    for kind, examples in cell.content["examples"].items():
        words = metric_wording.QUESTIONS[kind]
        queries = list(examples[0]["found"])
        indices = {example["index"] for example in examples} | {
            answer["index"]
            for example in examples
            for answers in example["found"].values()
            for answer in answers
        }
        shown = pictures(dataset, sorted(indices))
        asked = "joint" if "joint" in queries else "sum"
        parts.append(
            f"<p><strong>{escape(words.title)}.</strong> {escape(words.meaning)} Shown: what "
            f"{escape(metric_wording.QUERIES[asked])} finds.</p>"
            + gallery.composed_queries(examples[:1], asked, shown)
            + (
                page.folded(
                    f"{dataset}: more of “{words.title}”",
                    gallery.composed_queries(examples[1:], asked, shown),
                )
                if examples[1:]
                else ""
            )
        )
        for k in RECALL_AT:
            levels = {query: found[f"{kind}_{query}_R@{k}"] for query in queries}
            chance = next(iter(levels.values())).chance
            rows.append(
                [
                    f'<span class="name">{escape(words.title)}, R@{k}</span>',
                    format_value(chance, True),
                    *(
                        format_value(levels[query].value, True) if query in levels else "–"
                        for query in metric_wording.QUERIES
                    ),
                ]
            )
    header = ["", "chance", *metric_wording.QUERIES.values()]
    return "\n".join(parts) + _in_numbers(dataset, page.table(header, rows, own=2))
