"""HTML that cannot be broken from inside: text is escaped unless this module made it.

Names of models, prompts and files come from anybody. They are plain `str` and are escaped wherever
they stand; only what `tag` returns, a `Markup`, goes in as it is.
"""

from __future__ import annotations

import html
import re
from typing import TypeAlias

__all__ = ["Child", "Markup", "coded", "join", "markdown", "tag"]

_VOID = frozenset({"br", "img", "input", "meta"})
# Characters HTML forbids; a browser would show them as nothing at all.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_MARKDOWN = re.compile(r"([\\`*_\[\]|#~!{}])")


class Markup(str):
    """A piece of HTML."""

    __slots__ = ()


Child: TypeAlias = "str | Markup | None"


def _escaped(text: str) -> str:
    if isinstance(text, Markup):
        return text
    return html.escape(_FORBIDDEN.sub("\ufffd", text))


def join(*children: Child) -> Markup:
    """Return the children one after the other; text is escaped."""
    return Markup("".join(_escaped(child) for child in children if child is not None))


def tag(element: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Args:
        element: its name, from this program and never from data.
        *children: text, which is escaped, or markup; None is left out.
        **attributes: `class_` is `class`, `aria_label` is `aria-label`; True stands without a
            value, None and False are left out.
    """
    parts = [element]
    for key, value in attributes.items():
        known = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(known)
        elif value is not None and value is not False:
            parts.append(f'{known}="{_escaped(str(value))}"')
    opened = f"<{' '.join(parts)}>"
    return Markup(opened if element in _VOID else f"{opened}{join(*children)}</{element}>")


def coded(text: str) -> Markup:
    """Return text in which what stands between backticks is code, as in messages."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # one without its other
        return join(text)
    return join(*(tag("code", piece) if at % 2 else piece for at, piece in enumerate(pieces)))


def markdown(text: str) -> str:
    """Return text for Markdown: one line, in which nothing is a mark or a tag."""
    line = " ".join(_FORBIDDEN.sub("\ufffd", text).split())
    return (
        _MARKDOWN.sub(r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
