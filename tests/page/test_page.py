"""The page in a browser: search, localisation, the map, bad uploads, and that nothing calls out.

The screenshots of README are made by `python -m tests.page.screenshots`.
"""

import importlib.util
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import oner_jax
from oner_jax.api import Model
from tests.page import browser
from tests.page.browser import NARROW, opened, results, search, served
from tests.page.material import CAPTIONS, write_bad_uploads, write_photos
from tests.runs import write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("gradio", "playwright"))),
        reason="Gradio and Playwright are not installed: make test-extras",
    ),
    pytest.mark.skipif(
        browser.CHROMIUM is None, reason="there is no Chromium: apt install chromium"
    ),
]

RESULTS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def photos(folder) -> Path:
    return write_photos(folder / "photos")


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return oner_jax.load(write_run(folder / "run", steps=(10,)))


@pytest.fixture(scope="module")
def server(folder, photos, model) -> Iterator[browser.Served]:
    flags = [f"--model={folder / 'run'}", f"--images={photos}", f"--k={RESULTS}"]
    with served(folder / "served", *flags) as running:
        yield running
        assert running.process.poll() is None, "the server lives to the end"
    assert running.process.returncode == 0, "ended as it was asked to"
    assert "Traceback" not in "".join(running.output)
    hosts = set(running.called_hosts.read_text().split()) - {"localhost", "None"}
    assert all(ipaddress.ip_address(host).is_loopback for host in hosts), hosts


@pytest.fixture
def page(server) -> Iterator[Any]:
    with opened(server) as one:
        yield one
        assert one.foreign == [], "a page without a network"


def expected(model: Model, photos: Path, **query) -> list[str]:
    """What stands under the pictures of an answer, by the model alone."""
    files = [photos.parent / f"{number}.png" for number in range(len(CAPTIONS))]
    cosines = model.similarity(model.embed(**query), model.embed(images=files))[0]
    order = np.argsort(-cosines)[:RESULTS]
    return [f"{cosines[place]:.2f} · {CAPTIONS[place]}" for place in order]


def warning(page: Any) -> str:
    """The newest message on the page, which is closed then, and awaited until it has faded."""
    toasts = page.locator(".toast-body")
    toasts.last.wait_for()
    text, number = toasts.last.inner_text(), toasts.count()
    toasts.last.locator(".toast-close").click()
    page.wait_for_function(
        "number => document.querySelectorAll('.toast-body').length < number", arg=number
    )
    return text


def test_search_by_words_by_picture_and_by_both(page, model, photos):
    search(page, "a red car")
    assert results(page) == expected(model, photos, texts="a red car")
    chosen = photos.parent / "4.png"
    page.locator("#upload input[type=file]").set_input_files(chosen)
    page.locator("#remove").wait_for()
    search(page, "in blue")
    assert results(page) == expected(model, photos, images=chosen, texts="in blue")
    search(page)
    assert results(page) == expected(model, photos, images=chosen)
    assert results(page)[0].startswith(f"1.00 · {CAPTIONS[4]}")
    page.locator("#remove").click()
    page.locator("#upload input[type=file]").wait_for(state="attached")
    search(page, "a red car")
    assert results(page) == expected(model, photos, texts="a red car")


def test_a_click_and_a_phrase_show_where(page, model, photos):
    page.locator("#phrase textarea").fill("a kite")
    page.locator("#where").click()
    assert "Click one of the pictures first" in warning(page)
    search(page, "a red car")
    title = results(page)[1].split(" · ")[1]
    page.locator("#results button.thumbnail-item").nth(1).click()
    drawn = page.locator("#placed img")
    drawn.wait_for()
    assert title in page.locator("#chosen").inner_text()
    before = drawn.get_attribute("src")
    page.locator("#phrase textarea").fill("a boat")
    page.locator("#where").click()
    page.wait_for_function(
        "before => (image => image.src !== before && image.complete)"
        "(document.querySelector('#placed img'))",
        arg=before,
    )
    with Image.open(photos.parent / f"{CAPTIONS.index(title)}.png") as picture:
        found = model.localize(picture, "a boat")
        width, height = picture.size
    size = drawn.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size == [round(640 * side / max(width, height)) for side in (width, height)]
    assert np.prod(found.heat_map.shape) == width * height
    page.locator("#similar").click()
    page.locator("#remove").wait_for()
    page.wait_for_function(
        "title => document.querySelector('#results .caption-label').innerText === title",
        arg=expected(
            model, photos, images=photos.parent / f"{CAPTIONS.index(title)}.png", texts="a red car"
        )[0],
    )


def test_a_phrase_typed_right_after_a_click_is_kept_and_answered(page):
    page.locator("#results button.thumbnail-item").nth(2).click()
    page.locator("#phrase textarea").fill("a kite")
    page.locator("#where").click()
    page.get_by_text("Where is “a kite”?").wait_for()
    assert page.locator("#phrase textarea").input_value() == "a kite"
    assert page.locator(".toast-body").count() == 0


def test_no_frame_stays_where_the_chosen_picture_was(page):
    framed = page.locator("#results [data-chosen]")
    page.locator("#results button.thumbnail-item").nth(2).click()
    framed.wait_for()
    assert framed.get_attribute("aria-label").startswith("Thumbnail 3 ")
    page.locator("#similar").click()
    page.wait_for_function("() => document.querySelector('#line').innerText.includes('Nearest')")
    framed.wait_for(state="detached")
    page.locator("#results button.thumbnail-item").nth(2).click()
    framed.wait_for()


def test_placeholders_are_captions_of_the_collection(page):
    for box in ("#words", "#phrase"):
        assert page.locator(f"{box} textarea").get_attribute("placeholder") in CAPTIONS


IN_SIGHT = """selector => {
    const {top} = document.querySelector(selector).getBoundingClientRect();
    return -1 <= top && top < 0.65 * window.innerHeight;
}"""


def test_in_a_narrow_window_the_answer_comes_into_sight(server):
    with opened(server, NARROW) as page:
        search(page, "a red car")
        page.wait_for_function(IN_SIGHT, arg="#line .line")
        page.locator("#results button.thumbnail-item").nth(1).click()
        page.get_by_text("Where is “a red car”?").wait_for()
        page.wait_for_function(IN_SIGHT, arg="#chosen .line")
        page.locator("#similar").click()
        page.wait_for_function("() => document.querySelector('#line').innerText.includes('+')")
        page.wait_for_function(IN_SIGHT, arg="#line .line")


def test_the_map_shows_a_picture_under_the_pointer(page):
    page.get_by_role("tab", name="Map of the space").click()
    dots = page.locator(".plane .dot")
    assert dots.count() == 3 * len(CAPTIONS)
    dot = page.get_by_role("img", name="caption (T): a green kite")
    card = dot.locator(".card")
    assert not card.is_visible()
    dot.hover(force=True)
    card.wait_for()
    assert "a green kite" in card.inner_text()
    shown = card.locator("i").evaluate("each => getComputedStyle(each).backgroundImage")
    assert shown.startswith('url("data:image/webp')
    page.locator(".show-T").uncheck()
    assert not dot.is_visible()


def test_what_cannot_be_searched_by_is_said(page, folder, model, photos):
    page.locator("#search").click()
    assert "Nothing to search by yet" in warning(page)
    page.locator("#words textarea").fill("x" * 5000)
    page.locator("#search").click()
    assert "5,000 characters are too many" in warning(page)
    search(page, "東京")
    assert "“東” “京” are not in the model’s vocabulary" in page.locator("#line").inner_text()
    search(page, "a red car " * 40)
    assert "word pieces, and these are" in page.locator("#line").inner_text()
    bad = write_bad_uploads(folder / "bad")
    for kind, message in (
        ("text", r"notes\.png: undecodable image"),
        ("bomb", r"bomb\.png: too many pixels"),
        ("cut", r"cut\.jpg: undecodable image"),
    ):
        page.locator("#upload input[type=file]").set_input_files(bad[kind])
        assert re.search(message, warning(page))
        assert not page.locator("#remove").is_visible()
    plain = folder / "notes.txt"
    plain.write_text("no picture")
    page.locator("#upload input[type=file]").set_input_files(plain)
    assert "Invalid file type" in warning(page)
    large = folder / "large.png"
    large.write_bytes(bytes(26 * 2**20))
    page.locator("#upload input[type=file]").set_input_files(large)
    assert "maximum" in warning(page)
    search(page, "a red car")
    assert results(page) == expected(model, photos, texts="a red car")


def test_no_file_is_served_but_what_is_shown(page, server, photos):
    source = page.locator("#results img").first.get_attribute("src")
    assert page.request.get(source).ok
    prefix = source[: source.index("file=")]
    for path in (photos, browser.ROOT / "README.md", Path("/etc/passwd")):
        assert page.request.get(f"{prefix}file={path}").status in (403, 404), path


def test_nothing_sticks_out_of_a_narrow_window(server):
    with opened(server, NARROW) as page:
        search(page, "a red car")
        for tab in ("Search", "Map of the space"):
            page.get_by_role("tab", name=tab).click()
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= NARROW[0]
