"""The picture of an analysis: a map for each figure, one below the other, as wide as a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from submerge.pictures.canvas import Canvas, Rectangle, Words
from submerge.pictures.heatmap import HeatMap, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from submerge.analysis.rows import BlockRow, Sums

__all__ = ["draw", "drawing"]

_MARGIN, _HEAD, _BETWEEN = 12, 62, 26
_NARROWEST = 300


class _Figure(NamedTuple):
    """A figure of every row; see `HeatMap` for how it is written and coloured."""

    title: str
    note: str
    value: Callable[[Sums], float | None]
    shape: str
    centre: float | None = None
    falling: bool = False


_FIGURES = (
    _Figure("cosine", "of a and b", lambda s: s.cosine, "{:.4f}", falling=True),
    _Figure("relative delta", "|b - a| / |a|", lambda s: s.relative_delta, "{:.2%}"),
)
_ALONE = (_Figure("norm ratio", "|b| / |a|", lambda s: s.norm_ratio, "{:.4f}", centre=1.0),)
_BASED = (
    _Figure("cosine of deltas", "a - base, b - base", lambda s: s.delta_cosine, "{:+.3f}", 0.0),
    _Figure(
        "sign conflict",
        "share of what both changed",
        lambda s: s.sign_conflict,
        "{:.1%}",
        0.5,
        falling=True,
    ),
)
_RANK = (_Figure("rank of b - a", "effective, share of noise's", lambda s: s.rank_share, "{:.0%}"),)


def draw(models: Mapping[str, str], rows: Sequence[BlockRow], path: Path) -> bytes:
    """Return the picture as the kind of file `path` names, `.svg` or `.png`.

    `models` are their names by role, `rows` what was found, as in an `Analysis`.

    Raises:
        RecipeError: another kind.
        SubmergeError: `.png` without Pillow.
    """
    return drawing(models, rows).file(path)


def drawing(models: Mapping[str, str], rows: Sequence[BlockRow]) -> Canvas:
    """Return the picture: one cell for each row of the analysis in each map."""
    based = "base" in models
    title = f"{models['b']} beside {models['a']}"
    items: list[Rectangle | Words] = [
        Words(_MARGIN, 24, title, 15, bold=True),
        Words(_MARGIN, 42, ", ".join(f"{r} = {name}" for r, name in models.items()), 10),
        Words(_MARGIN, 56, "grey: nothing to compare", 10),
    ]
    width, y = float(_NARROWEST), float(_HEAD + 16)
    for figure in (*_FIGURES, *(_BASED if based else _ALONE), *_RANK):
        found = _map(rows, figure)
        if found is None:
            continue
        drawn = found.drawn()
        items.append(Words(_MARGIN, y, found.title, 12, bold=True))
        items.append(Words(_MARGIN + 8 * len(found.title), y, found.note, 10))
        items += [item.moved(_MARGIN, y + 8) for item in drawn.items]
        width, y = max(width, drawn.width), y + 8 + drawn.height + _BETWEEN
    return Canvas(width + 2 * _MARGIN, y - _BETWEEN, title, items)


def _map(rows: Sequence[BlockRow], figure: _Figure) -> HeatMap | None:
    places = [Place(row.block, row.stream, row.part) for row in rows]
    cells = {
        place: (value, row.sums.elements)
        for place, row in zip(places, rows, strict=True)
        if (value := figure.value(row.sums)) is not None
    }
    if not cells:
        return None
    shape, centre, falling = figure.shape, figure.centre, figure.falling
    return HeatMap(figure.title, figure.note, cells, shape, centre, falling, places=places)
