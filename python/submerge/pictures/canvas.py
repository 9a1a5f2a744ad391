"""A drawing of rectangles and words: an SVG file, a part of a page, or a PNG painted by Pillow.

No file beside it and no font of its own: it looks the same wherever it is put. The SVG follows the
reader's light or dark; a page says so by its own style, by the names of the shades.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import RecipeError, SubmergeError
from submerge.pictures.markup import Markup, tag
from submerge.pictures.palette import INK, PAPER, Shade

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Canvas", "Rectangle", "Words", "require_pillow"]

_SCALE = 2  # pixels of a PNG for each unit


class Rectangle(NamedTuple):
    """A filled rectangle; `title` is shown when the mouse rests on it."""

    x: float
    y: float
    width: float
    height: float
    fill: Shade
    title: str = ""

    def moved(self, x: float, y: float) -> Rectangle:
        """Return it further right and down."""
        return self._replace(x=self.x + x, y=self.y + y)

    def svg(self) -> Markup:
        """Return the element."""
        return tag(
            "rect",
            tag("title", self.title) if self.title else None,
            x=f"{self.x:g}",
            y=f"{self.y:g}",
            width=f"{self.width:g}",
            height=f"{self.height:g}",
            fill=self.fill.light,
            class_=self.fill.name,
        )


class Words(NamedTuple):
    """A line of text; `anchor` is where x lies in it, `turned` reads from bottom to top."""

    x: float
    y: float
    text: str
    size: float = 11
    anchor: str = "start"
    turned: bool = False
    bold: bool = False

    def moved(self, x: float, y: float) -> Words:
        """Return it further right and down."""
        return self._replace(x=self.x + x, y=self.y + y)

    def svg(self) -> Markup:
        """Return the element."""
        return tag(
            "text",
            self.text,
            x=f"{self.x:g}",
            y=f"{self.y:g}",
            font_size=f"{self.size:g}",
            text_anchor=None if self.anchor == "start" else self.anchor,
            font_weight="bold" if self.bold else None,
            transform=f"rotate(-90 {self.x:g} {self.y:g})" if self.turned else None,
        )


class Canvas(NamedTuple):
    """What is drawn, first to last; `title` says in a line what it shows."""

    width: float
    height: float
    title: str
    items: Sequence[Rectangle | Words]

    def file(self, path: Path) -> bytes:
        """Return the drawing as the kind of file `path` names, `.svg` or `.png`.

        Raises:
            RecipeError: another kind.
            SubmergeError: `.png` without Pillow.
        """
        suffix = path.suffix.lower()
        if suffix not in (".svg", ".png"):
            raise RecipeError(f"{path}: expected a name ending in .svg or .png, got `{suffix}`")
        return self.svg().encode() if suffix == ".svg" else self.png()

    def inline(self) -> Markup:
        """Return the drawing for a page, which gives ink and shades their colours."""
        box = f"0 0 {self.width:g} {self.height:g}"
        shapes = (item.svg() for item in self.items)
        return tag("svg", *shapes, viewBox=box, role="img", aria_label=self.title)

    def svg(self) -> str:
        """Return the drawing as a file of its own, light or dark as the reader's system is."""
        size = {"width": f"{self.width:g}", "height": f"{self.height:g}"}
        ground = tag("rect", **size, fill=PAPER.light, class_=PAPER.name)
        shapes = (Markup(f"\n{item.svg()}") for item in self.items)
        drawing = tag(
            "svg",
            tag("title", self.title),
            tag("style", Markup(self._dark())),
            ground,
            *shapes,
            Markup("\n"),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            font_family="Helvetica, Arial, sans-serif",
            fill=INK.light,
            role="img",
            **size,
        )
        return f"{drawing}\n"

    def _dark(self) -> str:
        used = {item.fill for item in self.items if isinstance(item, Rectangle)} | {PAPER}
        rules = "".join(f".{shade.name}{{fill:{shade.dark}}}" for shade in sorted(used))
        return f"@media (prefers-color-scheme:dark){{text{{fill:{INK.dark}}}{rules}}}"

    def png(self) -> bytes:
        """Return the drawing as a PNG, light, twice as many pixels as units.

        Raises:
            SubmergeError: Pillow is not installed.
        """
        require_pillow()
        from PIL import Image, ImageDraw

        size = (round(self.width * _SCALE), round(self.height * _SCALE))
        image = Image.new("RGB", size, PAPER.light)
        draw = ImageDraw.Draw(image)
        for item in self.items:
            if isinstance(item, Rectangle):
                corners = (item.x, item.y, item.x + item.width, item.y + item.height)
                left, top, right, bottom = (round(at * _SCALE) for at in corners)
                draw.rectangle((left, top, right - 1, bottom - 1), fill=item.fill.light)
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


def _paint(image: Any, draw: Any, words: Words) -> None:
    """Paint a line of text with Pillow's own font, on its baseline as SVG does."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=words.size * _SCALE)
    x, y = words.x * _SCALE, words.y * _SCALE
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[words.anchor]
    stroke = 0.4 * _SCALE if words.bold else 0
    if not words.turned:
        draw.text(
            (x, y), words.text, fill=INK.light, font=font, anchor=anchor,
            stroke_width=stroke, stroke_fill=INK.light,
        )  # fmt: skip
        return
    length, height = round(font.getlength(words.text)) + 2, round(words.size * _SCALE * 1.5)
    strip = Image.new("L", (length, height), 0)
    ImageDraw.Draw(strip).text((0, height * 3 // 4), words.text, fill=255, font=font, anchor="ls")
    turned = strip.rotate(90, expand=True)
    place = (round(x - height * 3 // 4), round(y - length))
    image.paste(Image.new("RGB", turned.size, INK.light), place, turned)
