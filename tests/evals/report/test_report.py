"""The report: complete, self-contained, and honest about what is not there."""

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oner_jax.evals.engine.suite import evaluate_subject
from oner_jax.evals.metrics.measurement import Measurement
from oner_jax.evals.report import figures, gallery, sections
from oner_jax.evals.report import html as page
from oner_jax.evals.report.overview import best_of
from oner_jax.evals.report.run_report import Report
from oner_jax.evals.report.training_history import History
from oner_jax.evals.tasks.catalogue import TASK_SETS
from oner_jax.evals.tasks.metric_wording import wording_of
from tests.evals.conftest import ColourPictures, ColourWorld


class Page(HTMLParser):
    """Collects text, sources and ids, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "img", "br", "source", "rect", "circle", "path"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.alternatives: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.sources += [values[key] or "" for key in ("src", "srcset") if key in values]
        self.links += [values["href"] or ""] if "href" in values else []
        self.ids |= {values["id"] or ""} if "id" in values else set()
        if tag == "img":
            self.alternatives.append(values["alt"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def write_run(workdir: Any, steps: int = 60) -> None:
    rows = [
        {
            "step": step,
            "examples_seen": 32 * step,
            "loss": 5 - step / 20,
            "loss/itc": float(np.log(step)),
            "pairs_per_sec": 64.0,
            "learning_rate": 1e-3,
        }
        for step in range(1, steps + 1)
    ]
    lines = [json.dumps(row) for row in rows]
    (workdir / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 61, "lo')
    config = {"batch_size": 32, "model": {"depth": 2}, "data": {"train": "my <data>"}}
    (workdir / "config.json").write_text(json.dumps(config))
    manifest = {
        "parameters": {"backbone/a": [10, 300], "predictor/b": [1000]},
        "data": {"records": 480},
        "devices": ["cpu:0"],
        "device_kind": "cpu",
        "revision": "0123456789abcdef",
    }
    (workdir / "manifest.json").write_text(json.dumps(manifest))


ALL_VIEWS = frozenset({"I", "T", "IT"})


def make_report(
    world: Any,
    step: int = 60,
    views: frozenset[str] = ALL_VIEWS,
    tasks: Sequence[str] = TASK_SETS["standard"],
) -> Report:
    columns = {}
    for label, noise in (("step 60", 20.0), ("untrained", 1e6)):
        subject, _ = world.subject(label, noise=noise, views=views)
        columns[label] = evaluate_subject(subject, [world.dataset()], tasks=tasks)

    def pictures(dataset: str, indices: Any) -> dict[int, Image.Image]:
        assert dataset == "val"
        colours = world.pictures.colours
        return {i: Image.new("RGB", (300, 200), tuple(map(int, colours[i]))) for i in indices}

    def cut_outs(dataset: str, indices: Any, side: int) -> dict[int, np.ndarray]:
        shown = world.pictures.cut_outs(indices, side)
        return dict(zip(indices, shown, strict=True))

    return Report(
        directory=world.workdir / "report",
        step=step,
        columns=columns,
        history=History.read(world.workdir, step),
        pictures=pictures,
        cut_outs=cut_outs,
        descriptions={"val": "colours & <tones>"},
        command="python -m oner_jax.evaluate --workdir=<here>",
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The page of an ordinary run."""
    world = ColourWorld(tmp_path_factory.mktemp("report"), ColourPictures())
    write_run(world.workdir)
    return make_report(world).write()


def test_the_page_is_complete_and_needs_nothing_else(written):
    text = written.read_text()
    parsed = Page(text)
    assert parsed.sources
    assert all(source.startswith("data:image/") for source in parsed.sources)
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert all(link.removeprefix("#") in parsed.ids for link in parsed.links)
    assert all(parsed.alternatives)
    for expected in (
        "colours & <tones> · 30 pictures, 58 distinct captions",
        "3 thousand parameters",
        "1,920 pairs",
        "4.0 times through the data",
        "30 s",
        "untrained",
        "my <data>",
        "0123456789ab",
    ):
        assert expected in parsed.text
    for metric in (
        "picture → caption, first answer",
        "joint view ↔ its caption",
        "pointing game",
        "rank flip rate",
        "Not measured: no concepts by several vendors",
    ):
        assert metric in parsed.text


def test_the_page_is_short_and_small(written):
    text = written.read_text()
    assert len(text) < 2_000_000
    assert "data:image/png" not in text, "WebP takes a tenth of it"
    titles = re.findall(r"<summary>(.*?)</summary>", text)
    assert [title for title in titles if "drawn at random" in title]
    assert [title for title in titles if "in numbers" in title]
    unfolded = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert unfolded.count('<div class="query">') <= 6, "one list of examples"


def test_bars_have_one_scale(written):
    text = written.read_text()
    cards = re.findall(r'<i style="width:([\d.]+)%"></i></span><span>([\d.]+)%', text)
    (full,) = map(float, re.findall(r"a full one is ([\d.]+)%", text))
    assert len(cards) == 9, "three headlines of the model, the untrained one and chance"
    for width, value in cards:
        assert float(width) == pytest.approx(100 * float(value) / full, abs=0.2)


def test_a_table_names_the_columns_of_each_cell_and_shows_no_ratio_where_lower_is_better(written):
    rows = re.findall(r"<tr>(<td.*?)</tr>", written.read_text())
    row = next(row for row in rows if "prompted by name" in row)
    assert 'data-name="this model"' in row
    assert 'data-name="× chance">↓<' in row
    assert 'title="lower is better"' in row
    assert 'data-name="its backbone"' in row


def test_few_cases_are_said_to_be_too_few():
    few = Measurement(2 / 7, 0.1, cases=7, interval=(0.0, 0.571))
    many = Measurement(0.3, 0.1, cases=30, interval=(0.1, 0.5))
    assert few.few
    assert not many.few
    assert sections.too_few(few) == "7 cases: too few to judge"
    card = sections._headline_card("top1", {"step 60": few}, 1.0)
    assert "7 cases: too few to judge" in card
    assert "× chance" not in card


def test_the_last_value_of_a_curve_is_beside_its_title():
    figure = figures.curve(figures.LIGHT, "loss", [1.0, 2.0, 3.0], [3.0, 2.0, 1.234])
    (axes,) = figure.axes
    assert axes.get_title(loc="right") == "1.23"
    assert not axes.texts, "nothing is written over the lines"


def test_confusion_matrices_have_one_scale():
    sizes = {}
    for classes in (4, 20):
        counts = np.eye(classes, classes + 1).tolist()
        found = {"counts": counts, "classes": [f"class {number}" for number in range(classes)]}
        figure = figures.confusion_matrix(figures.LIGHT, "probe", found)
        figure.draw_without_rendering()
        sizes[classes] = figure.axes[0].get_window_extent().width / classes
    assert sizes[4] == pytest.approx(sizes[20])


def test_the_best_checkpoint_of_a_row_is_marked_by_its_direction():
    values = {"step 1": Measurement(0.2, 0.1), "step 2": Measurement(0.4, 0.1)}
    assert best_of("retrieval/val/text_R@1", values) == {"step 2"}
    assert best_of("geometry/val/alignment", values) == {"step 1"}
    for control in ("geometry/val/cos_joint_image", "localisation/val/box_other_phrase"):
        assert best_of(control, values) == set()
    assert best_of("retrieval/val/text_R@1", {"step 1": values["step 1"]}) == set()
    assert best_of("retrieval/val/text_R@1", dict.fromkeys("ab", values["step 1"])) == set()


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("retrieval/val/text_R@1", "picture → caption, first answer"),
        ("multimodal/val/changed_word_sum_R@10", "one word changed: the sum of both, R@10"),
        ("mine/val/new", "mine: new"),
    ],
)
def test_every_metric_has_a_plain_name(metric, title):
    assert wording_of(metric).title == title


def test_every_figure_lies_beside_the_page_in_both_themes(written):
    folder = written.parent
    names = {path.name for path in folder.iterdir()}
    for name in (
        "map_val_this_model",
        "cosines_val_untrained",
        "curve_loss_itc",
        "localisation_val_plain",
        "localisation_val_photographs",
    ):
        for suffix in ("", "_dark"):
            with Image.open(folder / f"{name}{suffix}.png") as picture:
                assert min(picture.size) > 400
    with (
        Image.open(folder / "maps_val.png") as both,
        Image.open(folder / "map_val_this_model.png") as one,
    ):
        assert both.size == (2 * one.width, one.height)
    assert {"examples_val_certain.png", "examples_val_text_to_image.png"} <= names
    assert not [name for name in names if name.endswith(".partial")]
    light, dark = (
        np.asarray(Image.open(folder / f"curve_loss{suffix}.png").convert("L"))[2, 2]
        for suffix in ("", "_dark")
    )
    assert light > 200 > 60 > dark


def test_a_run_without_logs_still_has_a_report(colour_world):
    report = make_report(colour_world, tasks=["retrieval"])
    text = Page(report.write().read_text()).text
    assert "The run logged no metrics." in text
    assert "not logged" in text


def test_a_model_without_a_joint_view_has_a_report(colour_world):
    tasks = ["retrieval", "geometry", "map", "multimodal", "reasoning"]
    report = make_report(colour_world, views=frozenset({"I", "T"}), tasks=tasks)
    text = Page(report.write().read_text()).text
    assert "This architecture has no joint view." in text
    assert "joint view ↔ its caption" not in text
    assert "Not measured: this architecture has no view IT." in text


def test_history_stops_at_the_step_of_the_checkpoint(tmp_path):
    write_run(tmp_path)
    history = History.read(tmp_path, 40)
    assert history.last["step"] == 40
    assert history.training_seconds == pytest.approx(40 * 32 / 64)
    assert history.pairs_per_second == pytest.approx(64)
    assert history.epochs == pytest.approx(40 * 32 / 480)
    assert (history.parameters("backbone/"), history.parameters()) == (3000, 4000)
    assert history.series("loss/itc")[0] == list(range(1, 41))
    assert history.series("nothing") == ([], [])


def test_questions_and_answers_of_both_modalities_are_shown(colour_world):
    things = 20
    colour_world.pictures.metadata = [
        {"concept": str(index % (things // 2)), "source": f"vendor {index % 3}", "group": "a"}
        for index in range(colour_world.pictures.number)
    ]
    parsed = Page(make_report(colour_world, tasks=["multimodal"]).write().read_text())
    assert "the same thing by others, R@10" in parsed.text
    assert "sought: tone" in parsed.text
    assert "both as one input" in parsed.text


def test_right_answers_are_marked_and_texts_escaped():
    answer = {"index": 0, "caption": "<b>bold</b>", "cosine": 0.5, "hit": True}
    pictures = {0: Image.new("RGB", (8, 8))}
    grid = gallery.caption_queries(
        [{"caption": "5 > 3", "answers": [answer, {**answer, "hit": False}]}], pictures
    )
    assert grid.count('class="hit"') == grid.count('class="miss"') == 1
    assert "5 &gt; 3" in grid
    assert "<b>" not in grid
    cards = gallery.picture_queries(
        [{"index": 0, "captions": ["a", "b"], "answers": [answer]}], pictures
    )
    assert '<li class="hit">&lt;b&gt;bold' in cards
    assert "a / b" in Page(cards).text


@pytest.mark.parametrize(
    ("accuracy", "caption", "picture", "shown"),
    [
        (1.0, 0.1, 0.25, "apart.* 100% .* 2.5 times as far when the picture is exchanged"),
        (0.52, 0.3, 0.3, "mixed.* 52% .* 1.0 times"),
        (0.7, 0.4, 0.1, "half mixed.* 4.0 times as far when the caption is exchanged"),
        (1.0, 0.0, 0.3, "apart.* 50%.$"),
    ],
)
def test_the_verdict_follows_the_instruments(accuracy, caption, picture, shown):
    values = {
        "modality_classifier": accuracy,
        "change_other_caption": caption,
        "change_other_picture": picture,
    }
    found = {name: Measurement(value, 0.5) for name, value in values.items()}
    assert re.search(shown, sections.verdict(found))


def test_a_large_picture_becomes_a_small_one():
    shown = page.thumbnail(Image.effect_noise((2000, 1000), 50), "noise")
    assert len(shown) < 20_000


@pytest.mark.parametrize(
    ("seconds", "shown"), [(42.4, "42 s"), (552.0, "9 min 12 s"), (10_200.0, "2 h 50 min")]
)
def test_durations(seconds, shown):
    assert sections.duration(seconds) == shown


def test_running_mean_equals_a_convolution():
    values = np.random.default_rng(0).normal(size=50)
    smooth = figures.running_mean(values.tolist(), 2)
    np.testing.assert_allclose(smooth[2:-2], np.convolve(values, np.ones(5) / 5, "valid"))
    assert smooth[0] == pytest.approx(values[:3].mean())
