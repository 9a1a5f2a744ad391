"""The picture of an adapter: how strong it is in each part of each block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from submerge.pictures.canvas import Canvas, Rectangle, Words
from submerge.pictures.heatmap import HeatMap, Place

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from submerge.lora.info import Strength

__all__ = ["draw"]

_MARGIN, _HEAD, _BETWEEN = 12, 48, 26
_NARROWEST = 300


def draw(title: str, rows: Sequence[Strength], path: Path) -> bytes:
    """Return the picture as the kind of file `path` names, `.svg` or `.png`.

    Raises:
        RecipeError: another kind.
        SubmergeError: `.png` without Pillow.
    """
    items: list[Rectangle | Words] = [Words(_MARGIN, 24, title, 15, bold=True)]
    width, y = float(_NARROWEST), float(_HEAD)
    for found in _maps(rows):
        drawn = found.drawn()
        items.append(Words(_MARGIN, y, found.title, 12, bold=True))
        items.append(Words(_MARGIN + 8 * len(found.title), y, found.note, 10))
        items += [item.moved(_MARGIN, y + 8) for item in drawn.items]
        width, y = max(width, drawn.width), y + 8 + drawn.height + _BETWEEN
    made = Canvas(width + 2 * _MARGIN, y - _BETWEEN, title, items)
    return made.file(path)


def _maps(rows: Sequence[Strength]) -> list[HeatMap]:
    """Return the maps: the change of an element (root mean square), and beside the model's."""
    found = []
    for title, note, shape, value in (
        ("change", "of an element, root mean square", "{:.2g}", _each),
        ("relative", "length over the model's", "{:.2%}", lambda row: row.relative),
    ):
        cells = {
            Place(row.block, row.stream, row.part): (number, row.elements)
            for row in rows
            if not math.isnan(number := value(row))
        }
        if cells:
            found.append(HeatMap(title, note, cells, shape))
    return found


def _each(row: Strength) -> float:
    return math.sqrt(row.norm2 / row.elements)
