"""Building blocks of a self-contained HTML page: everything it shows is inside the file."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from PIL import Image

THUMBNAIL_PIXELS = 128


def document(title: str, body: str) -> str:
    """The whole page, with its style inside."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{resource('report.css')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def resource(name: str) -> str:
    """A text file that lies beside this module."""
    return resources.files("oner_jax.evals.report").joinpath(name).read_text()


def data_uri(content: bytes, kind: str) -> str:
    """An image as the address of itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def figure(renderings: Mapping[str, bytes], description: str, width: int | None = None) -> str:
    """Return a PNG in its light and dark form; the reader's setting chooses.

    It is as wide as its place, or `width` pixels: figures of different sizes then have one scale,
    and scroll sideways where they do not fit.
    """
    pictures = {theme: Image.open(io.BytesIO(png)) for theme, png in renderings.items()}
    light, dark = (data_uri(_as_webp(pictures[theme]), "webp") for theme in ("light", "dark"))
    # With its size the browser knows where everything below it is before the picture is decoded.
    pixels = pictures["light"].size
    size = f' width="{pixels[0]}" height="{pixels[1]}"'
    size += "" if width is None else f' style="width:{width}px"'
    return (
        f'<figure class="card figure{"" if width is None else " scaled"}"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(description)}"{size}>'
        "</picture></figure>"
    )


def _as_webp(picture: Image.Image) -> bytes:
    """Return the picture as WebP, which takes a tenth of the bytes of a PNG."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="webp", quality=85)
    return buffer.getvalue()


def thumbnail(picture: Image.Image, description: str, pixels: int = THUMBNAIL_PIXELS) -> str:
    """A small picture of the dataset, on white as the model sees it; `pixels` a side at most."""
    small = picture.copy()
    small.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    small.save(buffer, format="webp", quality=82)
    source = data_uri(buffer.getvalue(), "webp")
    return (
        f'<div class="thumb"><img src="{source}" alt="{escape(description)}" loading="lazy"></div>'
    )


def grid(items: Sequence[str], kind: str = "") -> str:
    """Items side by side, as many as fit."""
    return f'<div class="grid {kind}">' + "\n".join(items) + "</div>"


def folded(summary: str, body: str) -> str:
    """A line that unfolds what is below it."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, own: int, kind: str = "") -> str:
    """A table of ready HTML cells, column `own` in bold.

    Where it is narrow, each row becomes a block of its first cell and the others with their names.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td{" class=own" if column == own else ""} data-name="{escape(header[column])}">'
            f"{cell}</td>"
            for column, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="card scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def facts(items: Sequence[tuple[str, str, str]]) -> str:
    """A card of (name, value, remark)."""
    shown = "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in items
    )
    return f'<div class="card"><dl>{shown}</dl></div>'
