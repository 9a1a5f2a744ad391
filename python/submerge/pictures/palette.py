"""The colours of every picture, each with a form for light and for dark surroundings.

The light ones are ColorBrewer's Blues and PuOr, which people who see few colours can tell apart
too; the dark ones run from the ground to light in the same hues. In both the faintest colour is
the one nearest to the ground.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DIVERGING", "INK", "NOTHING", "PAPER", "SEQUENTIAL", "SERIES", "Scale", "Shade"]

# Steps between the ends of a scale: each is one rule of a page's style.
_STEPS = 40


class Shade(NamedTuple):
    """One colour, by the name that a style knows it by."""

    name: str
    light: str
    dark: str


class Scale(NamedTuple):
    """Colours that figures run through.

    Attributes:
        name: begins the names of its shades.
        light, dark: the colours in equal distances, first to last.
    """

    name: str
    light: Sequence[str]
    dark: Sequence[str]

    def shade(self, share: float) -> Shade:
        """Return the colour at `share`, 0 to 1, of the way through, in one of 41 steps."""
        step = round(max(0.0, min(1.0, share)) * _STEPS)
        return Shade(
            f"{self.name}{step}",
            _blend(self.light, step / _STEPS),
            _blend(self.dark, step / _STEPS),
        )

    def shades(self) -> Iterable[Shade]:
        """Return all of its colours."""
        return (self.shade(step / _STEPS) for step in range(_STEPS + 1))


SEQUENTIAL = Scale(
    "h",
    ("#deebf7", "#b9d5ea", "#6baed6", "#2171b5", "#08306b"),
    ("#20282e", "#1d4258", "#2a6f97", "#5fb0dd", "#d3f0ff"),
)
DIVERGING = Scale(
    "d",
    ("#b35806", "#f1a340", "#fee0b6", "#f7f7f7", "#d8daeb", "#998ec3", "#542788"),
    ("#ffc27d", "#d9822b", "#6e4519", "#262c31", "#463f6b", "#8d7fd0", "#d9ccff"),
)
# One after the other, for curves and bars.
SERIES = (
    Shade("c0", "#0a6780", "#63c8e2"),
    Shade("c1", "#c2570c", "#ffa25c"),
    Shade("c2", "#6d4bb5", "#b79cf5"),
    Shade("c3", "#2c7a3f", "#7bd68f"),
    Shade("c4", "#b02a6b", "#f58cbf"),
    Shade("c5", "#6b6f12", "#d5da63"),
)
PAPER = Shade("paper", "#ffffff", "#14171a")
INK = Shade("ink", "#1a1a1a", "#e6e8ea")
NOTHING = Shade("nothing", "#e3e3e3", "#333b41")


def _blend(colours: Sequence[str], share: float) -> str:
    place = share * (len(colours) - 1)
    at = min(int(place), len(colours) - 2)
    pairs = zip(_channels(colours[at]), _channels(colours[at + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - at)):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
