"""The page itself, in Gradio. What it does is in the other modules; this one only lays it out.

Nothing of it calls out: no telemetry, no fonts or scripts from elsewhere, no tunnel.
"""

import functools
import math
import os
from collections.abc import Callable
from html import escape
from importlib import resources
from typing import Any

from oner_jax.api import Model
from oner_jax.errors import InputError, first_line
from oner_jax.indexing.index import Hit
from oner_jax.indexing.rows import Row
from oner_jax.page import queries, space_map
from oner_jax.page.collection import Collection, shown_picture
from oner_jax.page.space_map import SpaceMap

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported

import gradio as gr

MAXIMUM_UPLOAD = "25mb"
_HOUR_SECONDS = 3600

TITLE = "One space for pictures and words"
_MAP_LEAD = (
    "Pictures, their captions and both together as one input, flattened by t-SNE. Point at a dot "
    "to see its picture; lines join what belongs together."
)
# In a narrow window the answer is far below what was clicked: the page scrolls to it, unless its
# beginning is in sight.
_TO = """() => {{
    {first}
    const answer = document.getElementById("{element}");
    const {{top}} = answer.getBoundingClientRect();
    if (top < 0 || top > 0.6 * window.innerHeight)
        answer.scrollIntoView({{behavior: "smooth", block: "start"}});
}}"""
# The frame of the chosen picture is the page's own: the gallery leaves its own frame at the same
# place when it gets other pictures.
_FRAME = """for (const each of document.querySelectorAll("#results .thumbnail-item"))
        each.toggleAttribute("data-chosen", {chosen});"""
_TO_FOUND = _TO.format(element="line", first=_FRAME.format(chosen="false"))
_TO_PLACE = _TO.format(
    element="chosen", first=_FRAME.format(chosen='each.classList.contains("selected")')
)
_LONGEST_EXAMPLE = 28  # characters, which a narrow text box shows


Components = tuple[Any, ...]
"""New states of the components that an event changes."""


def _or_warning(
    otherwise: Callable[[], Components],
) -> Callable[[Callable[..., Components]], Callable[..., Components]]:
    """What is wrong with what was asked becomes a message, and the page as `otherwise` says."""

    def decorate(answer: Callable[..., Components]) -> Callable[..., Components]:
        @functools.wraps(answer)
        def warned(*asked: Any) -> Components:
            try:
                return answer(*asked)
            except InputError as error:
                gr.Warning(escape(str(error)))
                return otherwise()

        return warned

    return decorate


def _unchanged(components: int) -> Callable[[], Components]:
    return lambda: (gr.skip(),) * components


def _asked_by(path: str | None, picture: Any) -> Components:
    """The picture that is searched by, in the place of the drop zone, or that zone again."""
    there = path is not None
    return (
        path,
        gr.update(value=None, visible=not there),
        gr.update(value=picture, visible=there),
        gr.update(visible=there),
    )


def _asked_by_none() -> Components:
    return _asked_by(None, None)


class Page:
    """What happens on the page: each method answers one event with the new state of components."""

    def __init__(self, model: Model, collection: Collection, results: int):
        self.model = model
        self.collection = collection
        self.results = results

    def first(self) -> Components:
        """Before anything was asked: some of what there is."""
        size = len(self.collection)
        rows = space_map.sampled(range(size), self.results)
        hits = [Hit(math.nan, self.collection.index.rows[row]) for row in rows]
        pictures = "1 picture" if size == 1 else f"{size:,} pictures"
        return *self._shown(hits), _line(f"{pictures} to search. These are a few of them.")

    def example(self) -> str:
        """A short caption of the collection, to suggest as a search; nothing without captions."""
        rows = space_map.sampled(range(len(self.collection)), self.results)
        captions = [self.collection.index.rows[row].caption for row in rows]
        short = [each for each in captions if each and len(each) <= _LONGEST_EXAMPLE]
        return max(short, key=lambda caption: len(caption.split()), default="")

    def warm_up(self) -> None:
        """Compile what the first visitor would wait for."""
        row = self.collection.index.rows[0]
        queries.find(self.model, self.collection, "a", None, self.results)
        queries.located(self.model, self.collection.picture(row), "a")

    @_or_warning(_unchanged(3))
    def search(self, words: str, picture: str | None) -> Components:
        """Gallery, hits, and a line about them."""
        answer = queries.find(self.model, self.collection, words, picture, self.results)
        asked = ["the picture"] if picture else []
        asked += [f"“{words.strip()}”"] if words.strip() else []
        return *self._shown(answer.hits), _line(f"Nearest to {' + '.join(asked)}", *answer.notes)

    @_or_warning(_asked_by_none)
    def upload(self, file: str) -> Components:
        """Takes a picture to search by."""
        return _asked_by(file, shown_picture(file))

    @_or_warning(_unchanged(4))
    def ask_by(self, row: Row | None) -> Components:
        """Takes a picture of the collection to search by."""
        return _asked_by(_clicked(row).image, self.collection.picture(_clicked(row)))

    @_or_warning(_unchanged(3))
    def choose(self, hits: list[Hit], event: gr.SelectData) -> Components:
        """A clicked result: at once, so that what is asked of it next finds it chosen."""
        row = hits[event.index].row
        return row, self.collection.picture(row), _line("Where is it?", self.collection.title(row))

    @_or_warning(_unchanged(2))
    def place_if_asked(self, row: Row | None, phrase: str, words: str) -> Components:
        """Where the phrase, or else the words searched by, are in the chosen picture."""
        if row is None or not (phrase.strip() or words.strip()):
            return gr.skip(), gr.skip()
        return self._located(row, phrase.strip() or words)

    @_or_warning(_unchanged(2))
    def place(self, row: Row | None, phrase: str, words: str) -> Components:
        """Where the phrase, or else the words searched by, are in the chosen picture."""
        return self._located(_clicked(row), phrase.strip() or words)

    def _located(self, row: Row, phrase: str) -> Components:
        drawn = queries.located(self.model, self.collection.picture(row), phrase)
        return drawn, _line(f"Where is “{phrase.strip()}”?", self.collection.title(row))

    def _shown(self, hits: list[Hit]) -> Components:
        """The gallery of hits, and those of them that can be shown."""
        shown, kept = [], []
        for hit in hits:
            score = "" if math.isnan(hit.score) else f"{hit.score:.2f} · "
            try:
                picture = self.collection.picture(hit.row)
            except InputError as error:  # it has gone since it was embedded
                gr.Warning(escape(str(error)))
                continue
            shown.append((picture, score + self.collection.title(hit.row)))
            kept.append(hit)
        return shown, kept


def _clicked(row: Row | None) -> Row:
    if row is None:
        raise InputError("Click one of the pictures first.")
    return row


def _line(*sentences: str) -> str:
    first, *others = map(escape, sentences)
    return f'<p class="line">{first}{"".join(f"<small>{each}</small>" for each in others)}</p>'


def build(page: Page, drawn_map: SpaceMap) -> gr.Blocks:
    """The page with everything wired."""
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(_HOUR_SECONDS, 24 * _HOUR_SECONDS)
    ) as blocks:
        gr.HTML(f"<h1>{TITLE}</h1>", elem_id="title")
        with gr.Tab("Search"):
            _search_tab(page, blocks)
        with gr.Tab("Map of the space"):
            gr.HTML(f'<p class="hint">{_MAP_LEAD}</p>{space_map.html(drawn_map)}')
    return blocks


def _search_tab(page: Page, blocks: gr.Blocks) -> None:
    example = page.example() or "words for a thing"
    asked, chosen, found = gr.State(None), gr.State(None), gr.State([])
    with gr.Row(elem_id="columns"):
        with gr.Column(elem_id="ask", min_width=260, scale=3):
            words = gr.Textbox(
                label="Words", placeholder=example, lines=1, max_lines=3, elem_id="words"
            )
            file = gr.File(label="Picture", file_types=["image"], height=140, elem_id="upload")
            picture = gr.Image(
                label="Picture", visible=False, interactive=False, buttons=[], height=180
            )
            remove = gr.Button("Remove picture", visible=False, size="sm", elem_id="remove")
            go = gr.Button("Search", variant="primary", elem_id="search")
            gr.HTML('<p class="hint">Words, a picture, or both together: “this, but in red”.</p>')
        with gr.Column(elem_id="found", min_width=320, scale=7):
            line = gr.HTML(elem_id="line")
            gallery = gr.Gallery(
                show_label=False,
                allow_preview=False,
                columns=4,
                height="auto",
                object_fit="contain",
                buttons=[],
                elem_id="results",
            )
        with gr.Column(elem_id="place", min_width=280, scale=4):
            title = gr.HTML(
                _line("Where is it?", "Click a picture and name a thing."), elem_id="chosen"
            )
            placed = gr.Image(
                show_label=False, interactive=False, buttons=["fullscreen"], elem_id="placed"
            )
            phrase = gr.Textbox(label="Phrase", placeholder=example, elem_id="phrase")
            with gr.Row():
                where = gr.Button("Show where", size="sm", elem_id="where")
                similar = gr.Button("Search by this picture", size="sm", elem_id="similar")

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    finding = {**private, "show_progress_on": gallery}
    placing = {**private, "show_progress_on": placed}
    results = [gallery, found, line]
    query = [asked, file, picture, remove]
    blocks.load(page.first, None, results, **finding)

    for event in (words.submit, go.click):
        event(page.search, [words, asked], results, **finding).then(None, js=_TO_FOUND)
    file.upload(page.upload, file, query, **private)
    remove.click(_asked_by_none, None, query, **private)
    similar.click(page.ask_by, chosen, query, **private).then(
        page.search, [words, asked], results, **finding
    ).then(None, js=_TO_FOUND)
    clicked = gallery.select(page.choose, found, [chosen, placed, title], **placing)
    clicked.then(None, js=_TO_PLACE)
    # Once the picture is there, the page is long enough to scroll to its beginning.
    clicked.then(page.place_if_asked, [chosen, phrase, words], [placed, title], **placing).then(
        None, js=_TO_PLACE
    )
    for event in (phrase.submit, where.click):
        event(page.place, [chosen, phrase, words], [placed, title], **placing)


def serve(blocks: gr.Blocks, host: str, port: int) -> None:
    """Serve until the program is ended. Raises InputError if the port is taken."""
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            run_history=False,
            footer_links=[],
            max_file_size=MAXIMUM_UPLOAD,
            state_session_capacity=100,
            theme=_theme(),
            css=resources.files("oner_jax.page").joinpath("page.css").read_text()
            + space_map.style(),
        )
    except OSError as error:
        raise InputError(
            f"--host={host} --port={port} cannot be used: {first_line(error)}"
        ) from None
    print(f"http://{host}:{blocks.server_port}  (Ctrl-C ends it)", flush=True)
    blocks.block_thread()


def _theme() -> gr.themes.Base:
    """Fonts of the reader's own system: Gradio's default ones come from Google."""
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
