"""The picture of what writing in few bits lost: a map of relative errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from submerge.pictures.canvas import Canvas, Words
from submerge.pictures.heatmap import HeatMap, Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["draw"]

_MARGIN, _HEAD = 12, 62
_NARROWEST = 300


def draw(title: str, cells: Mapping[Place, tuple[float, int]], path: Path) -> bytes:
    """Return the picture of relative errors as the kind of file `path` names.

    `cells` are the error and the elements of each part.

    Raises:
        RecipeError: neither `.svg` nor `.png`.
        SubmergeError: `.png` without Pillow.
    """
    drawn = HeatMap("error", "|written - value| / |value|", cells, "{:.2%}").drawn()
    items = [
        Words(_MARGIN, 24, title, 15, bold=True),
        Words(_MARGIN, 42, "relative error of writing; grey: copied, or in a wide type", 10),
        *(item.moved(_MARGIN, _HEAD) for item in drawn.items),
    ]
    width = max(_NARROWEST, drawn.width) + 2 * _MARGIN
    return Canvas(width, _HEAD + drawn.height + _MARGIN, title, items).file(path)
