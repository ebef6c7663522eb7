"""The sections of the report that are words and numbers: functions from results to HTML."""

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape

from oner_jax.evals.engine.differences import HEADER, Difference, difference_rows
from oner_jax.evals.engine.table import (
    BESIDE,
    BESIDE_TITLES,
    LOWER_MARK,
    Columns,
    metric_rows,
    shown_ratio,
)
from oner_jax.evals.inputs.features import PRIMARY
from oner_jax.evals.metrics.measurement import Measurement, format_ratio, format_value
from oner_jax.evals.report import html as page
from oner_jax.evals.report import wording
from oner_jax.evals.report.training_history import History
from oner_jax.evals.tasks import metric_wording

HEADLINES = (("retrieval", "text_R@1"), ("retrieval", "image_R@1"), ("zeroshot", "top1"))
OWN = "this model"
# Tasks of each table, and the line that it is folded under; the first is open.
RESULTS = {
    ("retrieval", "zeroshot"): "",
    ("probe", "knn", "few_shot"): "classifiers on its features",
    ("transfer",): "classifiers across modalities",
    ("robustness",): "under corruptions",
}

LINKS = {
    "examples": "See for yourself",
    "results": "All numbers",
    "space": "One space?",
    "properties": "Pictures and words together",
    "mistakes": "What goes wrong",
    "training": "Training",
    "guide": "How to read this",
}


def header(step: int, overview: str | None) -> str:
    """Title and what this is, then the menu; `overview` is the address of the checkpoints page."""
    links = {f"#{target}": text for target, text in LINKS.items()}
    if overview is not None:
        links[overview] = "All checkpoints"
    navigation = "".join(f'<a href="{escape(link)}">{text}</a>' for link, text in links.items())
    return (
        f'<header><p class="kicker">OneR · step {step:,}</p>'
        "<h1>One encoder for pictures and words</h1>"
        f'<p class="lead">{wording.INTRODUCTION}</p>{page.resource("report_diagram.svg")}'
        f"</header><nav>{navigation}</nav>"
    )


def describe(columns: Columns, dataset: str, descriptions: Mapping[str, str]) -> str:
    """What a dataset is and how large, for the line beside its name."""
    content = next(iter(next(iter(columns.values()))[dataset].values())).content
    size = f"{content['pictures']:,} pictures, {content['captions']:,} distinct captions"
    known = descriptions.get(dataset)
    return escape(f"{known} · {size}" if known else size)


def headlines(columns: Columns, descriptions: Mapping[str, str]) -> str:
    """The few numbers that matter most, each beside chance and the other columns."""
    shown = {
        dataset: [
            (name, _headline_levels(columns, dataset, task, name))
            for task, name in HEADLINES
            if task in cells and name in cells[task].measurements(PRIMARY)
        ]
        for dataset, cells in next(iter(columns.values())).items()
    }
    # One scale for all bars of the page, so that they can be compared between cards.
    full = max(
        (
            level
            for cards in shown.values()
            for _, levels in cards
            for one in levels.values()
            for level in (one.value, one.chance)
            if math.isfinite(level)
        ),
        default=0.0,
    )
    note = (
        f'<p class="muted">All bars have one scale; a full one is {format_value(full, True)}.</p>'
    )
    sections = [f'<h2 id="short">In short</h2>{note if full else ""}']
    for dataset, found in shown.items():
        cards = [_headline_card(name, levels, full or 1.0) for name, levels in found]
        title = (
            f"<h3>{escape(dataset)}<small>{describe(columns, dataset, descriptions)}</small></h3>"
        )
        sections.append(title + page.grid(cards))
    return "\n".join(sections)


def _headline_levels(
    columns: Columns, dataset: str, task: str, name: str
) -> dict[str, Measurement]:
    """The measurement in every column that has it, the run's own first."""
    return {
        label: found[name]
        for label, cells in columns.items()
        if name in (found := cells[dataset][task].measurements(PRIMARY))
    }


def too_few(measured: Measurement) -> str:
    """Return what stands in place of an interval where there are too few cases for one."""
    cases = "1 case" if measured.cases == 1 else f"{measured.cases} cases"
    return f"{cases}: too few to judge"


def _headline_card(name: str, levels: Mapping[str, Measurement], full: float) -> str:
    own_label, own = next(iter(levels.items()))
    bars = {OWN if label == own_label else label: level.value for label, level in levels.items()}
    bars["chance"] = own.chance
    shown = "".join(
        f'<span>{escape(label)}</span><span class="bar{" own" if label == OWN else ""}">'
        f'<i style="width:{100 * value / full:.1f}%"></i></span>'
        f"<span>{format_value(value, own.fraction)}</span>"
        for label, value in bars.items()
    )
    beyond_doubt = own.interval[0] > own.chance and not own.few
    judged = too_few(own) if own.few else f"{format_ratio(own.ratio)} chance"
    return (
        f'<div class="card score"><div class="what">{escape(wording.HEADLINES[name])}</div>'
        f'<div><span class="value">{format_value(own.value, own.fraction)}</span>'
        f'<span class="{"pill" if beyond_doubt else "pill plain"}">'
        f"{judged}</span></div>"
        f'<div class="bars">{shown}</div></div>'
    )


def training_facts(history: History, step: int) -> str:
    """What was trained, on what, for how long."""
    config, manifest = history.config, history.manifest
    model, data = config.get("model", {}), config.get("data", {})
    backbone = history.parameters("backbone/")
    records = manifest.get("data", {}).get("records", 0)
    epochs = "" if math.isnan(history.epochs) else f", {history.epochs:.1f} times through the data"
    devices = f"{len(manifest.get('devices', []))} × {manifest.get('device_kind', 'unknown')}"
    shuffled = bool(data.get("shuffle_captions"))
    items = [
        (
            "Model",
            f"{_short(backbone)} parameters",
            f"{model.get('depth', '?')} layers of width {model.get('width', '?')}; "
            f"{_short(history.parameters() - backbone)} more in heads used in training only",
        ),
        (
            "It reads",
            f"pictures of {model.get('image_size', '?')} px",
            f"and captions of up to {model.get('text_tokens', '?')} word pieces",
        ),
        ("Trained on", f"{records:,} pictures", str(data.get("train", ""))),
        (
            "It saw",
            f"{history.last.get('examples_seen', 0):,.0f} pairs",
            f"{step:,} steps of {config.get('batch_size', 0):,}{epochs}",
        ),
        (
            "Training time",
            duration(history.training_seconds) if history.training_seconds else "not logged",
            ""
            if math.isnan(history.pairs_per_second)
            else f"{history.pairs_per_second:,.0f} pairs/s on {devices}",
        ),
        (
            "Captions in training",
            "another picture's" if shuffled else "each picture's own",
            "the control: there is nothing to learn about content" if shuffled else "",
        ),
    ]
    return "<h2>What was trained</h2>" + page.facts(items)


def _short(number: int) -> str:
    for size, unit in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """`48 s`, `9 min 12 s`, `2 h 50 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def results(columns: Columns, descriptions: Mapping[str, str]) -> str:
    """Every retrieval and classification number, one table per dataset."""
    parts = [
        f'<h2 id="results">{LINKS["results"]}</h2><p>Every number stands beside what blind '
        "guessing would score on the same data; ± is half of a 95 % interval.</p>"
    ]
    for dataset, cells in next(iter(columns.values())).items():
        if "retrieval" not in cells:
            continue
        parts.append(
            f"<h3>{escape(dataset)}<small>{describe(columns, dataset, descriptions)}</small></h3>"
        )
        for tasks, title in RESULTS.items():
            if not any(task in cells for task in tasks):
                continue
            table = measured_table(columns, dataset, tasks)
            parts.append(page.folded(f"{dataset}: {title}", table) if title else table)
    return "\n".join(parts)


def compared(found: Mapping[str, Sequence[Difference]]) -> str:
    """The differences to what the run is compared with; nothing where it is not."""
    return "\n".join(
        f"<h3>{escape(title)}</h3><p>{escape(wording.DIFFERENCES)}</p>"
        + page.table(HEADER, [[*map(escape, row)] for row in difference_rows(rows)], own=3)
        for title, rows in found.items()
    )


def measured_table(columns: Columns, dataset: str, tasks: Collection[str]) -> str:
    """Every number of some tasks on a dataset beside chance and the other columns."""
    own_label = next(iter(columns))
    rows = []
    for metric, measured in metric_rows(columns):
        task, of, _ = metric.split("/")
        if of == dataset and task in tasks:
            rows.append((metric, measured))
    others = [
        label
        for label in (*BESIDE, *list(columns)[1:])
        if any(label in measured for _, measured in rows)
    ]
    shown = []
    for metric, measured in rows:
        own = measured[own_label]
        shown.append(
            [
                _named(metric),
                format_value(own.chance, own.fraction),
                f"{format_value(own.value, own.fraction)}<small>{_interval(own)}</small>",
                shown_ratio(metric, own),
                *_values(measured, others),
            ]
        )
    header = ["", "chance", OWN, "× chance", *(BESIDE_TITLES.get(name, name) for name in others)]
    return page.table(header, shown, own=2, kind="explained")


def _interval(measured: Measurement) -> str:
    """Half of the 95 % interval, or that there are too few cases for one to mean anything."""
    low, high = measured.interval
    if measured.few:
        return too_few(measured)
    return "" if math.isnan(low) else f"± {50 * (high - low):.1f}"


def geometry_table(columns: Columns, dataset: str) -> str:
    """The instruments of the space, each with its explanation and its reference."""
    own_label = next(iter(columns))
    others = ["backbone", *list(columns)[1:]]
    shown = []
    for metric, measured in metric_rows(columns):
        task, of, _ = metric.split("/")
        if of != dataset or task != "geometry":
            continue
        own = measured[own_label]
        shown.append(
            [
                _named(metric),
                format_value(own.chance, own.fraction),
                format_value(own.value, own.fraction),
                *_values(measured, others),
            ]
        )
    found = columns[own_label][dataset]["geometry"].measurements(PRIMARY)
    header = ["", "reference", OWN, *(BESIDE_TITLES.get(name, name) for name in others)]
    table = page.table(header, shown, own=2, kind="explained")
    folded = page.folded(f"{dataset}: the space in numbers", table)
    return f"<p>{escape(verdict(found))}</p>{folded}"


def verdict(found: Mapping[str, Measurement]) -> str:
    """What the instruments say of the run, in two sentences."""
    accuracy = found["modality_classifier"].value
    if math.isnan(accuracy):
        return ""
    state = "apart" if accuracy > 0.9 else "half mixed" if accuracy > 0.6 else "mixed"
    text = (
        f"Here pictures and captions are {state}: a straight cut tells them apart in "
        f"{accuracy:.0%} of cases, where a coin would get 50%."
    )
    if "change_other_caption" not in found:
        return f"{text} This architecture has no joint view."
    by_caption, by_picture = (
        found[f"change_other_{half}"].value for half in ("caption", "picture")
    )
    further, less = sorted((by_caption, by_picture), reverse=True)
    if not less > 0:
        return text
    first, second = ("caption", "picture") if by_caption > by_picture else ("picture", "caption")
    return (
        f"{text} The joint view moves {further / less:.1f} times as far when the {first} is "
        f"exchanged as when the {second} is."
    )


def _named(metric: str) -> str:
    words = metric_wording.wording_of(metric)
    reference = f" Reference: {words.reference}." if words.reference else ""
    lower = metric_wording.better(metric) == metric_wording.LOWER
    arrow = f' <span title="lower is better">{LOWER_MARK}</span>' if lower else ""
    return (
        f'<span class="name">{escape(words.title)}{arrow}</span>'
        f"<small>{escape(words.meaning + reference)}</small>"
    )


def _values(measured: Mapping[str, Measurement], labels: Sequence[str]) -> list[str]:
    return [
        format_value(measured[label].value, measured[label].fraction) if label in measured else ""
        for label in labels
    ]


def guide() -> str:
    """How to read the numbers."""
    items = [
        f'<div class="card"><strong>{escape(term)}</strong><br>'
        f'<span class="muted">{escape(meaning)}</span></div>'
        for term, meaning in wording.GUIDE
    ]
    return f'<h2 id="guide">{LINKS["guide"]}</h2>' + page.grid(items)


def footer(history: History, command: str) -> str:
    """What made this page, so that somebody else can make it again."""
    revision = str(history.manifest.get("revision", "unknown"))
    packages = ", ".join(
        f"{name} {version}"
        for name, version in history.manifest.get("packages", {}).items()
        if version
    )
    return (
        f"<footer><p>Made by <code>{escape(command)}</code> from source revision "
        f"<code>{escape(revision[:12])}</code> with {escape(packages or 'unknown versions')}. "
        "The numbers are in <code>eval/</code>, the figures as PNG beside this page. Method: OneR, "
        "Jang et al., “Unifying Vision-Language Representation Space with Single-tower "
        "Transformer”, AAAI 2023 (arXiv 2211.11153).</p></footer>"
    )
