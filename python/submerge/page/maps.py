"""Maps of a model on the page, each with its figures in words for whoever cannot see colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from submerge.page.content import Details, Table
from submerge.pictures.markup import Markup, markdown, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from submerge.pictures.heatmap import HeatMap

__all__ = ["Maps"]


@dataclass(frozen=True, slots=True)
class Maps:
    """Several maps side by side."""

    maps: Sequence[HeatMap]

    def html(self) -> Markup:
        """Return the maps; below each, its figures part by part."""
        return tag("div", *map(_figure, self.maps), class_="maps")

    def markdown(self) -> str:
        """Return one table for each map, averaged over the blocks of a stack."""
        return "\n\n".join(
            f"**{markdown(found.title)}.** {markdown(found.note)}\n\n{_averages(found).markdown()}"
            for found in self.maps
        )


def _figure(found: HeatMap) -> Markup:
    caption = tag("figcaption", tag("strong", found.title), Markup(" "), found.note)
    figures = Details("in figures", [_averages(found)]).html()
    return tag("figure", caption, found.drawn().inline(), figures, class_="map")


def _averages(found: HeatMap) -> Table:
    sums: dict[str, list[float]] = {}
    for place, (value, _) in found.cells.items():
        words = place._replace(block=place.stack).words if not place.outside else place.block
        sums.setdefault(words, []).append(value)
    rows = [
        [words, *(found.shape.format(v) for v in (min(of), sum(of) / len(of), max(of)))]
        for words, of in sums.items()
    ]
    return Table(["part", "least", "mean over blocks", "most"], rows, figures=1, narrow=True)
