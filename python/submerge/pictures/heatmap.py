"""The map of a model: blocks downwards, parts across, a cell's colour says its figure.

The streams of a double block stand beside each other, and the single blocks beside those, so that
a map of FLUX.1 is as wide as a phone. What lies outside the blocks stands below the double ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from submerge.blocks import parts_in_order
from submerge.pictures.canvas import Canvas, Rectangle, Words
from submerge.pictures.palette import DIVERGING, NOTHING, SEQUENTIAL, Shade

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["HeatMap", "Place"]

Item: TypeAlias = Rectangle | Words

_WIDTH, _HEIGHT = 15, 11
_LEFT, _TOP, _GAP = 22, 62, 9
_STRIP, _LEGEND = 40, 44
_SIZE = 9
_STEPS = 40
# Values at the ends that hold at most this share of all elements take the last colour, so that a
# part of a few numbers, the 64 of a norm for example, does not leave all the others in one shade.
_CLIPPED = 0.02


class Place(NamedTuple):
    """Where a cell lies: `double.7`, `img`, `attn.q`; outside the blocks, block and part alike."""

    block: str
    stream: str
    part: str

    @property
    def outside(self) -> bool:
        """Whether it lies outside the blocks."""
        return self.block == self.part

    @property
    def stack(self) -> str:
        """What the block is one of: `double`."""
        return self.block.partition(".")[0]

    @property
    def row(self) -> int:
        """Which block of its stack it is."""
        number = self.block.partition(".")[2]
        return int(number) if number.isascii() and number.isdecimal() else 0

    @property
    def words(self) -> str:
        """The place in words: `double.7 img attn.q`."""
        if self.outside:
            return self.block
        return " ".join(filter(None, (self.block, self.stream, self.part)))


class _Scale(NamedTuple):
    """What colours stand for; `beyond` tells whether figures lie outside the ends."""

    low: float
    high: float
    beyond: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A figure over the places of a model.

    Attributes:
        title: what the figure is.
        note: how to read it, in a few words.
        cells: the figure of each place, and the elements it speaks for.
        shape: how a figure is written, `{:.2f}`.
        centre: makes the scale diverge from there, to both sides alike.
        falling: the strongest colour is the smallest figure's.
        bounds: the ends of the scale; by default those of the figures.
        places: further places, where there is nothing to show.
    """

    title: str
    note: str
    cells: Mapping[Place, tuple[float, int]]
    shape: str = "{:.2f}"
    centre: float | None = None
    falling: bool = False
    bounds: tuple[float, float] | None = None
    places: Collection[Place] = ()

    @property
    def columns(self) -> list[tuple[str, str, str]]:
        """Stack, stream and part of each column, those of a stack together."""
        inside = [p for p in dict.fromkeys([*self.cells, *self.places]) if not p.outside]
        stacks = list(dict.fromkeys(p.stack for p in inside))
        found = {(p.stack, p.stream, p.part) for p in inside}
        return sorted(found, key=lambda c: (stacks.index(c[0]), c[1], _rank(c[2]), c[2]))

    def scale(self) -> _Scale:
        """Return the scale: from the least figure to the most, but for the few furthest out."""
        if self.bounds is not None:
            return _Scale(*self.bounds, (False, False))
        found = sorted(self.cells.values())
        low, high = _inner(found), _inner(found[::-1])
        if self.centre is not None:
            reach = max(abs(low - self.centre), abs(high - self.centre))
            low, high = self.centre - reach, self.centre + reach
        return _Scale(low, high, (found[0][0] < low, found[-1][0] > high))

    def shade(self, value: float, scale: _Scale) -> Shade:
        """Return the colour of a figure; the middle where all are alike."""
        width = scale.high - scale.low
        share = (value - scale.low) / width if width > 0 else 0.5
        colours = SEQUENTIAL if self.centre is None else DIVERGING
        return colours.shade(1.0 - share if self.falling else share)

    def drawn(self) -> Canvas:
        """Return the map without title and note, which stand in a page's own words."""
        across, rows, scale = self._across(), self._depths(), self.scale()
        items: list[Item] = [*self._heads(across), *self._rows(across, rows)]
        for place, (value, _) in self.cells.items():
            if not place.outside:
                x = across[place.stack, place.stream, place.part]
                box = (x, _TOP + place.row * _HEIGHT, _WIDTH, _HEIGHT)
                items.append(self._cell(place, value, box, scale))
        first = next(iter(rows), None)
        xs = [x for (stack, *_), x in across.items() if stack == first]
        left, right = (min(xs), max(xs) + _WIDTH) if xs else (_LEFT, _LEFT + 14 * _WIDTH)
        below = (_TOP + rows[first] * _HEIGHT if first is not None else 0) + 12
        items += self._outside((left, below, right - left), scale)
        items += self._legend((left, below + _STRIP, right - left), scale)
        width = max([right, *(x + _WIDTH for x in across.values())])
        bottom = max([below + _STRIP + _LEGEND, *(_TOP + n * _HEIGHT for n in rows.values())])
        return Canvas(width + 2, bottom + 4, f"{self.title}: {self.note}", items)

    def _depths(self) -> dict[str, int]:
        """Return how many rows each stack has."""
        found = [p for p in (*self.cells, *self.places) if not p.outside]
        stacks = dict.fromkeys(stack for stack, *_ in self.columns)
        return {s: 1 + max(p.row for p in found if p.stack == s) for s in stacks}

    def _across(self) -> dict[tuple[str, str, str], float]:
        """Return where each column begins: numbers stand before a stack, a gap before a stream."""
        places, x = dict[tuple[str, str, str], float](), 0.0
        for _, streams in groupby(self.columns, key=lambda column: column[0]):
            x += _LEFT
            for _, group in groupby(streams, key=lambda column: column[1]):
                for column in group:
                    places[column] = x
                    x += _WIDTH
                x += _GAP
            x -= _GAP
        return places

    def _heads(self, places: Mapping[tuple[str, str, str], float]) -> list[Item]:
        """Return the names of the columns, those of their groups above."""
        items: list[Item] = [
            Words(x + 0.7 * _WIDTH, _TOP - 4, part, _SIZE, turned=True)
            for (*_, part), x in places.items()
        ]
        for (stack, stream), group in groupby(places, key=lambda column: column[:2]):
            name = f"{stack} {stream}".strip()
            items.append(Words(places[next(group)], 10, name, _SIZE + 1, bold=True))
        return items

    def _rows(
        self, places: Mapping[tuple[str, str, str], float], rows: Mapping[str, int]
    ) -> list[Item]:
        """Return the numbers of the blocks, and a ground where nothing was compared."""
        items: list[Item] = []
        for stack, depth in rows.items():
            left = min(x for (of, *_), x in places.items() if of == stack) - 4
            items += [
                Words(left, _TOP + (at + 0.8) * _HEIGHT, str(at), _SIZE - 1, "end")
                for at in range(depth)
            ]
        for (stack, *_), x in places.items():
            items.append(Rectangle(x, _TOP, _WIDTH - 1, rows[stack] * _HEIGHT - 1, NOTHING))
        return items

    def _cell(
        self, place: Place, value: float, box: tuple[float, float, float, float], scale: _Scale
    ) -> Rectangle:
        x, y, width, height = box
        said = f"{place.words}: {self.title} {self.shape.format(value)}"
        return Rectangle(x, y, width - 1, height - 1, self.shade(value, scale), said)

    def _outside(self, box: tuple[float, float, float], scale: _Scale) -> list[Item]:
        """Return what lies outside the blocks, side by side."""
        cells = [(place, value) for place, (value, _) in self.cells.items() if place.outside]
        left, top, width = box
        each = width / max(1, len(cells))
        items: list[Item] = []
        for at, (place, value) in enumerate(cells):
            x = left + at * each
            items.append(Words(x, top + 8, place.block, _SIZE))
            items.append(self._cell(place, value, (x, top + 12, each, _HEIGHT), scale))
        return items

    def _legend(self, box: tuple[float, float, float], scale: _Scale) -> list[Item]:
        """Return the colours and the figures at their ends."""
        left, top, width = box
        if scale.high <= scale.low:
            shown = self.shape.format(scale.low)
            ground = Rectangle(left, top, 24, 10, self.shade(scale.low, scale))
            return [ground, Words(left + 30, top + 9, f"{shown} everywhere", _SIZE)]
        step, reach = width / _STEPS, scale.high - scale.low
        items: list[Item] = []
        for at in range(_STEPS):
            shade = self.shade(scale.low + reach * at / (_STEPS - 1), scale)
            items.append(Rectangle(left + at * step, top, step + 0.3, 10, shade))
        marks = ("\u2264 " if scale.beyond[0] else "", "", "\u2265 " if scale.beyond[1] else "")
        ends = ((scale.low, 0.0, "start"), (scale.low + reach / 2, 0.5, "middle"))
        for mark, (value, share, anchor) in zip(
            marks, (*ends, (scale.high, 1.0, "end")), strict=True
        ):
            words = mark + self.shape.format(value)
            items.append(Words(left + share * width, top + 21, words, _SIZE, anchor))
        return items


def _rank(part: str) -> int:
    known = parts_in_order()
    return known.index(part) if part in known else len(known)


def _inner(found: Sequence[tuple[float, int]]) -> float:
    """Return the first figure that is not among the few elements at this end."""
    whole = sum(elements for _, elements in found)
    passed = 0
    for value, elements in found:
        passed += elements
        if passed > whole * _CLIPPED:
            return value
    return found[-1][0]
