"""What a notebook shows of a thing: a piece of HTML that needs nothing beside it.

It takes ink and ground of the page around it, light or dark; a picture brings its own ground.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from submerge.pictures.markup import Markup, coded, tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from submerge.pictures.canvas import Canvas

__all__ = ["card", "cells", "preformatted", "unordered"]

_LINE = "color-mix(in srgb,currentColor 25%,transparent)"
# All under one class: the page around it keeps its own looks. Lines take the colour of the text.
_STYLE = Markup(
    ".submerge-card{color:inherit;border:1px solid;border-radius:8px;padding:.7em 1em;"
    f"border-color:{_LINE};overflow-x:auto;max-width:72em}}"
    ".submerge-card dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1em;"
    "margin:.5em 0}"
    ".submerge-card dt{opacity:.7}.submerge-card dd{margin:0;overflow-wrap:anywhere}"
    ".submerge-card table{border-collapse:collapse;margin:.5em 0;background:none;"
    "font-variant-numeric:tabular-nums}"
    ".submerge-card th,.submerge-card td{padding:.15em .6em;text-align:right;background:none;"
    f"border-bottom:1px solid {_LINE};color:inherit}}"
    ".submerge-card .left{text-align:left}"
    ".submerge-card pre{background:none;color:inherit;white-space:pre-wrap;margin:.5em 0}"
    ".submerge-card img{max-width:100%}.submerge-card summary{cursor:pointer}"
)


def card(
    title: str,
    facts: Mapping[str, str],
    *parts: Markup | None,
    picture: Canvas | None = None,
) -> str:
    """Return a card: a heading, names and values, then what else there is.

    Args:
        title: in a line, what it is.
        facts: name to value; those without a value are left out.
        *parts: markup below them; None is left out.
        picture: drawn at the end, light or dark as the reader's system is.
    """
    pairs = (
        Markup(tag("dt", name) + tag("dd", coded(said))) for name, said in facts.items() if said
    )
    return tag(
        "div",
        tag("style", _STYLE),
        tag("strong", title),
        tag("dl", *pairs),
        *parts,
        None if picture is None else _image(picture),
        class_="submerge-card",
    )


def cells(lines: Sequence[Sequence[str]], left: int = 1, *, summary: str = "") -> Markup:
    """Return a table whose first line names its columns; the first `left` are flush left.

    With a `summary` it is folded away under that.
    """
    head, *rows = lines
    table = tag(
        "table",
        tag("thead", _row("th", head, left)),
        tag("tbody", *(_row("td", row, left) for row in rows)),
    )
    return tag("details", tag("summary", summary), table) if summary else table


def preformatted(text: str) -> Markup:
    """Return text that keeps its lines and columns."""
    return tag("pre", text)


def unordered(lines: Iterable[str]) -> Markup | None:
    """Return a list of notes, or None of none."""
    items = [tag("li", coded(line)) for line in lines]
    return tag("ul", *items) if items else None


def _row(kind: str, row: Sequence[str], left: int) -> Markup:
    sides = ["left" if at < left else None for at in range(len(row))]
    return tag("tr", *(tag(kind, c, class_=s) for c, s in zip(row, sides, strict=True)))


def _image(picture: Canvas) -> Markup:
    """Return the drawing as an image: its style reaches nothing else on the page."""
    data = base64.b64encode(picture.svg().encode()).decode()
    return tag("img", src=f"data:image/svg+xml;base64,{data}", alt=picture.title)
