"""The picture of an analysis: blocks downwards, parts across, one panel and scale per figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from submerge.analysis.canvas import DIVERGING, SEQUENTIAL, Canvas, Rectangle, Words, blend
from submerge.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from submerge.analysis.look import Analysis
    from submerge.analysis.rows import BlockRow, Sums

__all__ = ["draw", "drawing"]

_CELL = (30, 13)
_LEFT, _TOP, _GAP, _LEGEND = 76, 142, 34, 74
_PARTS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp", "mod", "norm", "out")
_NOTHING = "#e3e3e3"
# Values beyond these shares of all cells take the last colour, so that one part with few elements
# does not leave all the others in one shade.
_CLIPPED = 0.02


class _Panel(NamedTuple):
    """One figure of every row.

    Attributes:
        title: what it is; `below` says of what.
        value: the figure of a row.
        shape: how it is written.
        centre: makes the scale diverge from there, to both sides alike.
        falling: turns the colours round: the dark or orange end is where models differ most.
    """

    title: str
    below: str
    value: Callable[[Sums], float | None]
    shape: str
    centre: float | None = None
    falling: bool = False


class _Scale(NamedTuple):
    """What the colours of a panel stand for; `beyond` tells whether values lie outside its ends."""

    low: float
    high: float
    colours: Sequence[str]
    beyond: tuple[bool, bool]

    def colour(self, value: float) -> str:
        width = self.high - self.low
        return blend(self.colours, (value - self.low) / width if width > 0 else 0.5)


_PANELS = (
    _Panel("cosine", "of a and b", lambda s: s.cosine, "{:.4f}", falling=True),
    _Panel("relative delta", "|b - a| / |a|", lambda s: s.relative_delta, "{:.2%}"),
)
_ALONE = (_Panel("norm ratio", "|b| / |a|", lambda s: s.norm_ratio, "{:.4f}", centre=1.0),)
_BASED = (
    _Panel("cosine of deltas", "a - base, b - base", lambda s: s.delta_cosine, "{:+.3f}", 0.0),
    _Panel(
        "sign conflict",
        "share of what both changed",
        lambda s: s.sign_conflict,
        "{:.1%}",
        0.5,
        True,
    ),
)
_RANK = (_Panel("rank of b - a", "effective, share of noise's", lambda s: s.rank_share, "{:.0%}"),)


def draw(analysis: Analysis, path: Path) -> bytes:
    """Return the picture as the kind of file `path` names, `.svg` or `.png`.

    Raises:
        RecipeError: another kind.
        SubmergeError: `.png` without Pillow.
    """
    suffix = path.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise RecipeError(f"{path}: expected a name ending in .svg or .png, got `{suffix}`")
    made = drawing(analysis)
    return made.svg().encode() if suffix == ".svg" else made.png()


def drawing(analysis: Analysis) -> Canvas:
    """Return the picture: one cell for each row of the analysis in each panel."""
    panels = [*_PANELS, *(_BASED if "base" in analysis.models else _ALONE), *_RANK]
    blocks = list(dict.fromkeys(row.block for row in analysis.rows))
    held = {row.part for row in analysis.rows if row.part != row.block}
    parts = [part for part in _PARTS if part in held] + sorted(held - set(_PARTS)) or ["all"]
    across = len(parts) * _CELL[0]
    bottom = _TOP + len(blocks) * _CELL[1]
    title = f"{analysis.models['b']} beside {analysis.models['a']}"
    if "base" in analysis.models:
        title += f", from {analysis.models['base']}"
    roles = ", ".join(f"{role} = {name}" for role, name in analysis.models.items())
    items: list[Rectangle | Words] = [
        Words(14, 30, title, 18, bold=True),
        Words(14, 50, f"{roles}; {len(blocks)} rows, {len(parts)} parts; grey: nothing to compare"),
    ]
    items += [
        Words(_LEFT - 6, _TOP + (at + 0.77) * _CELL[1], block, 10, "end")
        for at, block in enumerate(blocks)
    ]
    for index, panel in enumerate(panels):
        left = _LEFT + index * (across + _GAP)
        items += _panel(panel, analysis.rows, (blocks, parts), left)
    width = _LEFT + len(panels) * (across + _GAP)
    return Canvas(width, bottom + _LEGEND, title, items)


def _panel(
    panel: _Panel,
    rows: Iterable[BlockRow],
    grid: tuple[Sequence[str], Sequence[str]],
    left: float,
) -> list[Rectangle | Words]:
    """Return one panel: its title, the names of the parts, its cells and its legend."""
    blocks, parts = grid
    across = len(parts) * _CELL[0]
    values = [(row, panel.value(row.sums)) for row in rows]
    scale = _scale(panel, [value for _, value in values if value is not None])
    items: list[Rectangle | Words] = [
        Words(left, 76, panel.title, 13, bold=True),
        Words(left, 92, panel.below, 11),
        Rectangle(left, _TOP, across, len(blocks) * _CELL[1], _NOTHING),
    ]
    items += [
        Words(left + (at + 0.62) * _CELL[0], _TOP - 5, part, 10, turned=True)
        for at, part in enumerate(parts)
        if part != "all"
    ]
    for row, value in values:
        if value is None:
            continue
        whole = row.part == row.block
        x = left if whole else left + parts.index(row.part) * _CELL[0]
        y = _TOP + blocks.index(row.block) * _CELL[1]
        name = row.block if whole else f"{row.block} {row.part}"
        told = f"{name}: {panel.title} {panel.shape.format(value)}"
        width = across if whole else _CELL[0]
        items.append(Rectangle(x, y, width - 0.6, _CELL[1] - 0.6, scale.colour(value), told))
    return items + _legend(panel, scale, left, (across, len(blocks)))


def _scale(panel: _Panel, values: Sequence[float]) -> _Scale:
    """Return the scale over the values, but for the few furthest out."""
    ordered = sorted(values) or [0.0]
    clip = int(len(ordered) * _CLIPPED)
    low, high = ordered[clip], ordered[len(ordered) - 1 - clip]
    if panel.centre is not None:
        reach = max(abs(low - panel.centre), abs(high - panel.centre))
        low, high = panel.centre - reach, panel.centre + reach
    colours = SEQUENTIAL if panel.centre is None else DIVERGING
    beyond = (ordered[0] < low, ordered[-1] > high)
    return _Scale(low, high, colours[::-1] if panel.falling else colours, beyond)


def _legend(
    panel: _Panel, scale: _Scale, left: float, size: tuple[float, int]
) -> list[Rectangle | Words]:
    """Return the bar of colours below a panel and the values at its ends and middle."""
    across, blocks = size
    y = _TOP + blocks * _CELL[1] + 18
    if scale.high <= scale.low:
        shown = panel.shape.format(scale.low)
        box = Rectangle(left, y, 24, 12, scale.colour(scale.low))
        return [box, Words(left + 30, y + 10, f"{shown} everywhere", 10)]
    steps = 40
    width = across / steps
    items: list[Rectangle | Words] = [
        Rectangle(left + at * width, y, width + 0.3, 12, blend(scale.colours, at / (steps - 1)))
        for at in range(steps)
    ]
    middle = (scale.low + scale.high) / 2
    marks = ("<= " if scale.beyond[0] else "", "", ">= " if scale.beyond[1] else "")
    places = ((scale.low, 0.0, "start"), (middle, 0.5, "middle"), (scale.high, 1.0, "end"))
    items += [
        Words(left + at * across, y + 26, mark + panel.shape.format(value), 10, anchor)
        for mark, (value, at, anchor) in zip(marks, places, strict=True)
    ]
    return items
