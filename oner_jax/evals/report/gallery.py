"""The report's examples: what a few random queries found, as picture grids."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from oner_jax.evals.report import html as page

if TYPE_CHECKING:
    from PIL.Image import Image


def caption_queries(queries: Sequence[Mapping[str, Any]], pictures: Mapping[int, "Image"]) -> str:
    """Rows of a caption and the pictures nearest to it, best first."""
    rows = [
        f'<div class="query"><div class="asked">“{escape(query["caption"])}”</div>'
        f"{_found(query['answers'], pictures)}</div>"
        for query in queries
    ]
    return '<div class="card">' + "\n".join(rows) + "</div>"


def composed_queries(
    queries: Sequence[Mapping[str, Any]], kind: str, pictures: Mapping[int, "Image"]
) -> str:
    """Rows of a picture with a phrase and what that `kind` of query finds, best first."""
    rows = [
        '<div class="query"><div class="asked both">'
        f"{page.thumbnail(pictures[query['index']], query['caption'])}"
        f"<span>+ “{escape(query['phrase'])}”"
        f"<small>sought: {escape(', or '.join(query['right']))}</small></span></div>"
        f"{_found(query['found'][kind], pictures)}</div>"
        for query in queries
    ]
    return '<div class="card">' + "\n".join(rows) + "</div>"


def _found(answers: Sequence[Mapping[str, Any]], pictures: Mapping[int, "Image"]) -> str:
    figures = "".join(
        f'<figure class="{"hit" if answer["hit"] else "miss"}">'
        + page.thumbnail(pictures[answer["index"]], answer["caption"])
        + f"<figcaption>{escape(answer['caption'])}</figcaption></figure>"
        for answer in answers
    )
    return f'<div class="found">{figures}</div>'


def picture_queries(queries: Sequence[Mapping[str, Any]], pictures: Mapping[int, "Image"]) -> str:
    """Cards of a picture, its own captions and the captions nearest to it, best first."""
    cards = []
    for query in queries:
        own = " / ".join(query["captions"])
        found = "".join(
            f'<li class="{"hit" if answer["hit"] else "miss"}">{escape(answer["caption"])}</li>'
            for answer in query["answers"]
        )
        cards.append(
            f'<div class="card described">{page.thumbnail(pictures[query["index"]], own)}'
            f'<div><p class="truth">Its captions: {escape(own)}</p><ol>{found}</ol></div></div>'
        )
    return page.grid(cards, "pairs")
