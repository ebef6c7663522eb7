"""The report in a browser: wide and on a phone, nothing is cut off, tiny or out of reach."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evals.conftest import ColourPictures, ColourWorld
from tests.evals.report.test_report import make_report, write_run
from tests.page import browser
from tests.page.browser import NARROW, WIDE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason="Playwright is not installed: make test-extras",
    ),
    pytest.mark.skipif(
        browser.CHROMIUM is None, reason="there is no Chromium: apt install chromium"
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    world = ColourWorld(tmp_path_factory.mktemp("report"), ColourPictures())
    write_run(world.workdir)
    return make_report(world).write()


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def page(report, request) -> Iterator[Any]:
    """The report with all that is folded in it open."""
    from playwright.sync_api import sync_playwright

    width, height = request.param
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser.CHROMIUM, args=["--no-sandbox"]
        )
        shown = chromium.new_page(viewport={"width": width, "height": height})
        shown.goto(report.as_uri())
        shown.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        yield shown
        chromium.close()


def measured(page: Any, selector: str, what: str) -> list[Any]:
    """A number, or a text, of every element that the selector finds."""
    found = page.evaluate(
        f"[...document.querySelectorAll({selector!r})].map(each => {what})",
    )
    assert found, selector
    return found


def test_nothing_sticks_out(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    room = "each.parentElement.clientWidth"
    assert all(left >= 0 for left in measured(page, "table", f"{room} - each.scrollWidth"))


def test_pictures_are_large_enough_to_be_seen_and_words_to_be_read(page):
    wide = page.viewport_size["width"] > 640
    thumbs = measured(page, ".faults .thumb, .panels .thumb", "each.clientWidth")
    assert min(thumbs) >= (110 if wide else 80)
    for words in (".panels figcaption", ".faults figcaption", "td"):
        sizes = measured(page, words, "parseFloat(getComputedStyle(each).fontSize)")
        assert min(sizes) >= 12


def test_the_menu_stays_in_sight_and_leads_to_its_sections(page):
    for target in ("#mistakes", "#results"):
        page.locator(f"nav a[href='{target}']").click()
        page.wait_for_function(
            """target => {
                const {top} = document.querySelector(target).getBoundingClientRect();
                return 0 <= top && top < 120;
            }""",
            arg=target,
        )
        (top,) = measured(page, "nav", "each.getBoundingClientRect().top")
        assert top == 0


def test_on_a_phone_every_number_has_the_name_of_its_column(page):
    if page.viewport_size["width"] > 640:
        assert page.locator("thead").first.is_visible()
        return
    assert not page.locator("thead").first.is_visible()
    names = measured(page, "td.own", "getComputedStyle(each, '::before').content")
    assert '"this model"' in names
