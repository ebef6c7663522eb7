"""README's pictures of the page, made again with a trained model:

python -m tests.page.screenshots --output=docs
"""

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from PIL import Image

from oner_jax.command_line.program import run_program
from oner_jax.command_line.required_flags import required
from tests.page.browser import Served, changed, opened, search, served

WORDS = "angry face"
BOTH = "cat"
PHRASE = "mouth"

Act = Callable[[Any], None]


def define_flags() -> None:
    """The program's command line."""
    flags.DEFINE_string("output", None, "folder to write into")


def main(_: Sequence[str]) -> None:
    """Serve the embedded pictures and take pictures of the page."""
    (output,) = required("output")
    acts: dict[str, Act] = {"words": by_words, "both": by_both, "map": the_map}
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder)) as server,
    ):
        for name, act in acts.items():
            shoot(server, Path(output) / f"page-{name}.png", act)


def shoot(server: Served, path: Path, act: Act) -> None:
    """A picture of the window after `act`, in few colours, so that the file is small."""
    with opened(server) as page:
        act(page)
        page.wait_for_timeout(1500)  # what fades in and out
        content = page.screenshot()
    with Image.open(io.BytesIO(content)) as shown:
        shown.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def by_words(page: Any) -> None:
    """Search by words, and where in a result something is."""
    search(page, WORDS)
    page.locator("#phrase textarea").fill(PHRASE)
    page.locator("#results button.thumbnail-item").first.click()
    page.locator("#placed img").wait_for()


def by_both(page: Any) -> None:
    """The same thing in another colour."""
    search(page, WORDS)
    page.locator("#results button.thumbnail-item").first.click()
    page.locator("#placed img").wait_for()
    page.locator("#words textarea").fill(BOTH)
    line = page.locator("#line .line").inner_text()
    page.locator("#similar").click()
    changed(page, "#line .line", line)


def the_map(page: Any) -> None:
    """The map with the pointer on a picture."""
    page.get_by_role("tab", name="Map of the space").click()
    page.locator(".plane .dot.I").nth(60).hover(force=True)


if __name__ == "__main__":
    define_flags()
    run_program(main)
