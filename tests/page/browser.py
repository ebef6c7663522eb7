"""The page as its users have it: the program in a process of its own, and a headless Chromium."""

import contextlib
import dataclasses
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# On a machine that has other work everything takes long.
START_SECONDS = 1800
ANSWER_SECONDS = 300
WIDE, NARROW = (1280, 860), (400, 820)

# Whoever the server's Python code connects to or asks the address of, one a line.
_LISTENER = """
import os, sys
def listen(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        host = address[0] if isinstance(address, tuple) else address
        with open(os.environ["CALLED_HOSTS"], "a") as file:
            print(host, file=file)
sys.addaudithook(listen)
"""


@dataclasses.dataclass(frozen=True)
class Served:
    """A running page."""

    address: str
    process: subprocess.Popen
    output: list[str]
    called_hosts: Path


@contextlib.contextmanager
def served(folder: Path, *flags: str) -> Iterator[Served]:
    """`oner_jax.demo_page` with these flags, ended by SIGTERM. `folder` is for its files."""
    hooks = folder / "hooks"
    hooks.mkdir(parents=True, exist_ok=True)
    (hooks / "sitecustomize.py").write_text(_LISTENER)
    called_hosts = folder / "called_hosts"
    called_hosts.touch()
    environment = {
        **os.environ,
        "CALLED_HOSTS": str(called_hosts),
        "PYTHONPATH": f"{hooks}{os.pathsep}{ROOT}",
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "oner_jax.demo_page", f"--port={port}"]
    process = subprocess.Popen(
        [*command, f"--cache={folder / 'cache'}", *flags],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines: queue.Queue[str] = queue.Queue()
    output: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        while not (found := re.search(r"http://\S+", line := lines.get(timeout=START_SECONDS))):
            assert line, "the program ended:\n" + "".join(output)
        yield Served(found[0], process, output, called_hosts)
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextlib.contextmanager
def opened(server: Served, size: tuple[int, int] = WIDE, **options: Any) -> Iterator[Any]:
    """A Playwright page that shows it; nothing but the server answers its requests.

    What it asked others for is in its attribute `foreign`.
    """
    from playwright.sync_api import sync_playwright

    width, height = size
    own = urlsplit(server.address).netloc
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.foreign = []

        def check(route: Any) -> None:
            if urlsplit(route.request.url).netloc == own:
                route.continue_()
            else:
                page.foreign.append(route.request.url)
                route.abort()

        page.route(re.compile(r"^(?!data:|blob:)"), check)
        page.set_default_timeout(1000 * ANSWER_SECONDS)
        page.goto(server.address)
        page.locator("#results img").first.wait_for()
        yield page
        browser.close()


def results(page: Any) -> list[str]:
    """What stands under the pictures that were found."""
    return page.locator("#results .caption-label").all_inner_texts()


def search(page: Any, words: str = "") -> None:
    """Search by these words, and by the picture if there is one; until the answer is there."""
    page.locator("#words textarea").fill(words)
    line = page.locator("#line .line").inner_text()
    page.locator("#search").click()
    changed(page, "#line .line", line)


def changed(page: Any, selector: str, before: str) -> None:
    """Wait until an element says something else."""
    page.wait_for_function(
        "([selector, before]) => document.querySelector(selector).innerText !== before",
        arg=[selector, before],
    )
