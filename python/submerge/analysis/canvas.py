"""A drawing of rectangles and words, written as SVG by hand or painted as PNG by Pillow.

Light background, dark letters, no file beside it and no font of its own: it looks the same wherever
it is put.
"""

from __future__ import annotations

import io
from html import escape  # not that of `xml.sax`, which imports half a web client
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import SubmergeError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DIVERGING", "SEQUENTIAL", "Canvas", "Rectangle", "Words", "blend", "require_pillow"]

# ColorBrewer's Blues and PuOr, which people who see few colours can tell apart too.
SEQUENTIAL = ("#f7fbff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
DIVERGING = ("#b35806", "#f1a340", "#fee0b6", "#f7f7f7", "#d8daeb", "#998ec3", "#542788")

_INK = "#1a1a1a"
_SCALE = 2  # pixels of a PNG for each unit


class Rectangle(NamedTuple):
    """A filled rectangle; `title` is shown when the mouse rests on it."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    title: str = ""


class Words(NamedTuple):
    """A line of text; `anchor` is where x lies in it, `turned` reads from bottom to top."""

    x: float
    y: float
    text: str
    size: float = 11
    anchor: str = "start"
    turned: bool = False
    bold: bool = False


class Canvas(NamedTuple):
    """What is drawn, first to last, on a white ground."""

    width: float
    height: float
    title: str
    items: Sequence[Rectangle | Words]

    def svg(self) -> str:
        """Return the drawing as a self-contained SVG."""
        size = f'width="{self.width:g}" height="{self.height:g}"'
        box = f'viewBox="0 0 {self.width:g} {self.height:g}"'
        font = 'font-family="Helvetica, Arial, sans-serif"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} {font} role="img">',
            f"<title>{escape(self.title)}</title>",
            f'<rect {size} fill="#ffffff"/>',
            *(_svg(item) for item in self.items),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def png(self) -> bytes:
        """Return the drawing as a PNG, twice as many pixels as units.

        Raises:
            SubmergeError: Pillow is not installed.
        """
        require_pillow()
        from PIL import Image, ImageDraw

        size = (round(self.width * _SCALE), round(self.height * _SCALE))
        image = Image.new("RGB", size, "#ffffff")
        draw = ImageDraw.Draw(image)
        for item in self.items:
            if isinstance(item, Rectangle):
                corners = (item.x, item.y, item.x + item.width, item.y + item.height)
                left, top, right, bottom = (round(at * _SCALE) for at in corners)
                draw.rectangle((left, top, right - 1, bottom - 1), fill=item.fill)
            else:
                _paint(image, draw, item)
        held = io.BytesIO()
        image.save(held, "PNG", optimize=True)
        return held.getvalue()


def require_pillow() -> None:
    """Refuse to go on without Pillow.

    Raises:
        SubmergeError: it is not installed.
    """
    try:
        import PIL  # noqa: F401 - asked for, not used
    except ImportError as error:
        raise SubmergeError(
            "a PNG needs Pillow, which is not installed",
            hint="pip install 'submerge[plots]', or write a .svg",
        ) from error


def blend(colours: Sequence[str], share: float) -> str:
    """Return the colour at `share`, 0 to 1, of the way through the colours."""
    place = max(0.0, min(1.0, share)) * (len(colours) - 1)
    at = min(int(place), len(colours) - 2)
    pairs = zip(_channels(colours[at]), _channels(colours[at + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - at)):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _svg(item: Rectangle | Words) -> str:
    if isinstance(item, Rectangle):
        place = f'x="{item.x:g}" y="{item.y:g}" width="{item.width:g}" height="{item.height:g}"'
        rect = f'<rect {place} fill="{item.fill}"'
        return f"{rect}><title>{escape(item.title)}</title></rect>" if item.title else f"{rect}/>"
    turn = f' transform="rotate(-90 {item.x:g} {item.y:g})"' if item.turned else ""
    weight = ' font-weight="bold"' if item.bold else ""
    return (
        f'<text x="{item.x:g}" y="{item.y:g}" font-size="{item.size:g}" '
        f'text-anchor="{escape(item.anchor)}" fill="{_INK}"{weight}{turn}>'
        f"{escape(item.text)}</text>"
    )


def _paint(image: Any, draw: Any, words: Words) -> None:
    """Paint a line of text with Pillow's own font, on its baseline as SVG does."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=words.size * _SCALE)
    x, y = words.x * _SCALE, words.y * _SCALE
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[words.anchor]
    stroke = 0.4 * _SCALE if words.bold else 0
    if not words.turned:
        draw.text(
            (x, y), words.text, fill=_INK, font=font, anchor=anchor,
            stroke_width=stroke, stroke_fill=_INK,
        )  # fmt: skip
        return
    length, height = round(font.getlength(words.text)) + 2, round(words.size * _SCALE * 1.5)
    strip = Image.new("L", (length, height), 0)
    ImageDraw.Draw(strip).text((0, height * 3 // 4), words.text, fill=255, font=font, anchor="ls")
    turned = strip.rotate(90, expand=True)
    place = (round(x - height * 3 // 4), round(y - length))
    image.paste(Image.new("RGB", turned.size, _INK), place, turned)
