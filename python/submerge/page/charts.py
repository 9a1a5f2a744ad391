"""Small charts in SVG: intervals, curves, memory over time. Colours come from the page's style."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from submerge.page.content import Table
from submerge.pictures.markup import Markup, markdown, tag
from submerge.pictures.palette import SERIES
from submerge.plan.sizes import bytes_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Bar", "Curves", "Figures", "Timeline", "interval", "seconds_in_words"]

Point = tuple[float, float]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 60, 26, 10
# A curve has about this many points, however long was measured.
_POINTS = 400
_LANE = 16


def interval(mean: float, low: float, high: float, reach: float, tone: str) -> Markup:
    """Return a dot with whiskers around zero; `reach` is the figure at the ends of the line."""

    def x(value: float) -> str:
        return f"{80 + 76 * max(-1.0, min(1.0, value / reach if reach else 0.0)):.1f}"

    label = f"{mean:.4g}, 95 % between {low:.4g} and {high:.4g}"
    return tag(
        "svg",
        tag("line", x1="80", x2="80", y1="2", y2="22", class_="zero"),
        tag("line", x1=x(low), x2=x(high), y1="12", y2="12", class_="whisker"),
        tag("line", x1=x(low), x2=x(low), y1="8", y2="16", class_="whisker"),
        tag("line", x1=x(high), x2=x(high), y1="8", y2="16", class_="whisker"),
        tag("circle", cx=x(mean), cy="12", r="4"),
        viewBox="0 0 160 24",
        class_=f"interval {tone}",
        role="img",
        aria_label=label,
    )


def seconds_in_words(seconds: float) -> str:
    """Return a duration with three digits: `1.25 s`, `350 ms`, `2 min 5 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s"


class _Frame(NamedTuple):
    """From figures to places in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, point: Point) -> str:
        """Return `x,y` in the picture."""
        return f"{self.across(point[0]):.1f},{self.up(point[1]):.1f}"

    def across(self, value: float) -> float:
        low, high = self.x
        return _LEFT + (_WIDTH - _LEFT - 8) * ((value - low) / (high - low) if high > low else 0.5)

    def up(self, value: float) -> float:
        low, high = self.y
        share = (value - low) / (high - low) if high > low else 0.5
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * share


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers within the bounds, 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = -int(-low // step) if low < 0 else int(low // step) + (low % step > 0)
    found = []
    while first * step <= high + step * 1e-9:
        found.append(first * step)
        first += 1
    return found


@dataclass(frozen=True, slots=True)
class Curves:
    """Figures along a number, a curve for each series.

    Attributes:
        title: what is shown.
        across: what the number is.
        series: name to points, in the order of the number.
        labels: what the numbers 0, 1, ... stand for, where they count something.
    """

    title: str
    across: str
    series: Mapping[str, Sequence[Point]]
    labels: Sequence[str] = ()

    def _written(self, x: float) -> str:
        """Return what stands for a number; between two labels that is nothing."""
        if not self.labels:
            return f"{x:.4g}"
        known = x.is_integer() and 0 <= x < len(self.labels)
        return self.labels[int(x)] if known else ""

    def _frame(self) -> _Frame:
        xs = [x for points in self.series.values() for x, _ in points]
        ys = [y for points in self.series.values() for _, y in points]
        margin = (max(ys) - min(ys)) * 0.08 or abs(max(ys)) * 0.05 or 1.0
        return _Frame((min(xs), max(xs)), (min(ys) - margin, max(ys) + margin))

    def html(self) -> Markup:
        """Return the chart with its legend."""
        frame = self._frame()
        lines = [
            tag(
                "polyline",
                points=" ".join(map(frame.place, points)),
                class_=f"line c{i % len(SERIES)}",
            )
            for i, points in enumerate(self.series.values())
        ]
        dots = [
            tag(
                "circle",
                tag("title", f"{name}: {self._written(x)}, {y:.4g}"),
                cx=f"{frame.across(x):.1f}",
                cy=f"{frame.up(y):.1f}",
                r="3.5",
                class_=f"dot c{i % len(SERIES)}",
            )
            for i, (name, points) in enumerate(self.series.items())
            for x, y in points
        ]
        axes = _grid(frame, self._written, "{:.4g}".format)
        picture = _picture(self.title, *axes, *lines, *dots)
        along = f" by {self.across}" if self.across else None
        caption = tag("figcaption", tag("strong", self.title), along)
        return tag("figure", caption, picture, _legend(list(self.series)), class_="chart")

    def markdown(self) -> str:
        """Return the figures as a table."""
        rows = [
            [name, self._written(x), f"{y:.6g}"]
            for name, points in self.series.items()
            for x, y in points
        ]
        table = Table(["series", self.across, "value"], rows, figures=1)
        return f"**{markdown(self.title)}**\n\n{table.markdown()}"


class Bar(NamedTuple):
    """A span of a timeline: its name, start and length in seconds, and how deep it lies."""

    name: str
    start: float
    seconds: float
    depth: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """Memory over time, and what was going on meanwhile.

    Attributes:
        title: whose memory.
        curves: kind of memory to (seconds, bytes), the largest kind first.
        bars: what was done when.
    """

    title: str
    curves: Mapping[str, Sequence[Point]]
    bars: Sequence[Bar]

    def html(self) -> Markup:
        """Return the chart: a filled curve for each kind, bars below."""
        points = [point for curve in self.curves.values() for point in curve]
        end = max([t for t, _ in points] + [bar.start + bar.seconds for bar in self.bars])
        frame = _Frame((0.0, end), (0.0, max(m for _, m in points) * 1.05 or 1.0))
        shapes = [
            _area(frame, thinned(curve), f"c{i % len(SERIES)}")
            for i, curve in enumerate(self.curves.values())
        ]
        names = list(dict.fromkeys(bar.name for bar in self.bars))
        bars = [_bar(frame, bar, names.index(bar.name)) for bar in self.bars if bar.depth < 3]
        lanes = min(3, 1 + max((bar.depth for bar in self.bars), default=-1))
        axes = _grid(frame, "{:.4g} s".format, lambda tick: bytes_in_words(round(tick)))
        picture = _picture(self.title, *axes, *shapes, *bars, below=lanes * _LANE)
        caption = tag("figcaption", tag("strong", self.title))
        legends = _legend(list(self.curves)), _legend(names, "span")
        return tag("figure", caption, picture, *legends, class_="chart wide")

    def markdown(self) -> str:
        """Return the most of each kind."""
        most = (
            f"{name} {bytes_in_words(round(max(m for _, m in c)))}"
            for name, c in self.curves.items()
        )
        return f"**{markdown(self.title)}**: at most {markdown(', '.join(most))}"


def thinned(curve: Sequence[Point]) -> list[Point]:
    """Return fewer points of a long curve: the highest of every few, so that no peak is lost."""
    size = -(-len(curve) // _POINTS)
    pieces = (curve[at : at + size] for at in range(0, len(curve), size or 1))
    return [max(piece, key=lambda point: point[1]) for piece in pieces]


def _area(frame: _Frame, curve: Sequence[Point], colour: str) -> Markup:
    points = " ".join(map(frame.place, curve))
    floor = f"{frame.up(0):.1f}"
    first, last = f"{frame.across(curve[0][0]):.1f}", f"{frame.across(curve[-1][0]):.1f}"
    return tag(
        "g",
        tag("polygon", points=f"{first},{floor} {points} {last},{floor}", class_=f"area {colour}"),
        tag("polyline", points=points, class_=f"line {colour}"),
    )


def _bar(frame: _Frame, bar: Bar, colour: int) -> Markup:
    x = frame.across(bar.start)
    width = max(0.8, frame.across(bar.start + bar.seconds) - x)
    title = tag("title", f"{bar.name}: {seconds_in_words(bar.seconds)}")
    place = {"x": f"{x:.1f}", "width": f"{width:.1f}", "y": f"{_HEIGHT + bar.depth * _LANE}"}
    return tag(
        "rect", title, height=str(_LANE - 3), rx="2", class_=f"bar s{colour % len(SERIES)}", **place
    )


def _grid(
    frame: _Frame, across: Callable[[float], str], up: Callable[[float], str]
) -> list[Markup]:
    """Return lines and words of both axes; `across` and `up` write their figures."""
    marks: list[Markup] = []
    for tick in _ticks(*frame.y):
        y = f"{frame.up(tick):.1f}"
        marks.append(tag("line", x1=str(_LEFT), x2=str(_WIDTH - 8), y1=y, y2=y, class_="grid"))
        marks.append(tag("text", up(tick), x=str(_LEFT - 6), y=y, class_="left"))
    for tick in _ticks(*frame.x, count=6):
        x = f"{frame.across(tick):.1f}"
        # Words at the right end would be cut off.
        kind = "last" if float(x) > _WIDTH - 40 else "below"
        marks.append(tag("text", across(tick), x=x, y=str(_HEIGHT - 10), class_=kind))
    return marks


def _picture(label: str, *shapes: Markup, below: int = 0) -> Markup:
    box = f"0 0 {_WIDTH} {_HEIGHT + below}"
    return tag("svg", *shapes, viewBox=box, role="img", aria_label=label)


def _legend(names: Sequence[str], kind: str = "line") -> Markup | None:
    if not names:
        return None
    prefix = "c" if kind == "line" else "s"
    entries = (
        tag("li", tag("span", class_=f"key {prefix}{i % len(SERIES)}", aria_hidden="true"), name)
        for i, name in enumerate(names)
    )
    return tag("ul", *entries, class_="key-list")


@dataclass(frozen=True, slots=True)
class Figures:
    """Charts beside each other."""

    charts: Sequence[Curves | Timeline]

    def html(self) -> Markup:
        """Return the charts."""
        return tag("div", *(chart.html() for chart in self.charts), class_="charts")

    def markdown(self) -> str:
        """Return the charts, one after the other."""
        return "\n\n".join(chart.markdown() for chart in self.charts)
