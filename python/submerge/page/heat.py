"""Maps of a model: one cell for each part of each block, coloured by a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from submerge.page.content import Table
from submerge.page.markup import Markup, markdown, tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HeatMap", "HeatMaps"]

# Steps of colour; the page's style gives each its shade.
STEPS = 20
_PARTS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp", "mod", "norm", "out")


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A figure over the blocks of a model.

    Attributes:
        title: what the figure is.
        note: how to read it, in a sentence.
        cells: (block, part) to the figure; outside the blocks both are the same.
        bounds: the figures of the lightest and the darkest shade.
        shape: how the figure is written, `{:.2f}`.
    """

    title: str
    note: str
    cells: Mapping[tuple[str, str], float]
    bounds: tuple[float, float]
    shape: str = "{:.2f}"

    @property
    def blocks(self) -> list[str]:
        """The blocks, in the order given."""
        return list(dict.fromkeys(block for block, _ in self.cells))

    @property
    def parts(self) -> list[str]:
        """The parts inside blocks, in the usual order, unknown ones last."""
        found = dict.fromkeys(part for block, part in self.cells if block != part)
        return sorted(found, key=lambda p: (_PARTS.index(p) if p in _PARTS else len(_PARTS), p))

    def written(self, value: float) -> str:
        """Return a figure as a cell shows it: five characters or so, no zero before the point."""
        shown = self.shape.format(value)
        if shown.endswith("%") and len(shown) > 5:
            return f"{value:.0%}"
        return shown.replace("0.", ".", 1) if shown.lstrip("-").startswith("0.") else shown

    def shade(self, value: float) -> int:
        """Return the step of colour of a figure, 0 to 20, the middle where all are equal."""
        low, high = self.bounds
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(min(1.0, max(0.0, share)) * STEPS)

    def html(self) -> Markup:
        """Return the map as a table whose cells say their figure."""
        parts = self.parts
        head = tag("tr", tag("td"), *(tag("th", tag("span", part), scope="col") for part in parts))
        rows = (self._row(block, parts) for block in self.blocks)
        low, high = (self.shape.format(bound) for bound in self.bounds)
        legend = tag(
            "p", low, tag("span", class_="ramp", aria_hidden="true"), high, class_="legend"
        )
        table = tag("table", tag("thead", head), tag("tbody", *rows), class_="heat")
        caption = tag("figcaption", tag("strong", self.title), Markup(" "), self.note)
        return tag("figure", caption, table, legend, class_="map")

    def _row(self, block: str, parts: Sequence[str]) -> Markup:
        name = tag("th", block.replace(".", " "), scope="row")
        if (block, block) in self.cells:
            return tag("tr", name, self._cell(block, block, len(parts)))
        return tag("tr", name, *(self._cell(block, part, 1) for part in parts))

    def _cell(self, block: str, part: str, width: int) -> Markup:
        value = self.cells.get((block, part))
        span = width if width > 1 else None
        if value is None:
            return tag("td", colspan=span)
        where = block if block == part else f"{block} {part}"
        title = f"{where}: {value:.6g}"
        return tag(
            "td", self.written(value), class_=f"h{self.shade(value)}", title=title, colspan=span
        )


@dataclass(frozen=True, slots=True)
class HeatMaps:
    """Several maps side by side."""

    maps: Sequence[HeatMap]

    def html(self) -> Markup:
        """Return the maps."""
        return tag("div", *(found.html() for found in self.maps), class_="maps")

    def markdown(self) -> str:
        """Return one table for each map, averaged over the blocks of a stack."""
        return "\n\n".join(_averages(found) for found in self.maps)


def _averages(found: HeatMap) -> str:
    sums: dict[tuple[str, str], list[float]] = {}
    for (block, part), value in found.cells.items():
        stack = block.partition(".")[0]
        where = (stack, part if block != part else "")
        sums.setdefault(where, []).append(value)
    rows = [
        [f"{stack} {part}".strip(), *(f"{v:.6g}" for v in (min(v), sum(v) / len(v), max(v)))]
        for (stack, part), v in sums.items()
    ]
    table = Table(["part", "least", "mean over blocks", "most"], rows, figures=1)
    return f"**{markdown(found.title)}.** {markdown(found.note)}\n\n{table.markdown()}"
