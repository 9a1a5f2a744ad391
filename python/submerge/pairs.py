"""How one model measures against another over any set of units.

Sums are kept rather than ratios, so that pairs can be added up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["Pair", "unrelated"]

# See docs/real-checkpoints.md: relatives lie far above, networks trained apart far below.
_RELATED = 0.5


class Pair(NamedTuple):
    """Two models over some units.

    Attributes:
        first: name of the model the other is measured against.
        second: the other model.
        norms: the two squared norms, first and second.
        dot: the scalar product.
        delta: the squared norm of second - first, summed from the differences themselves.
    """

    first: str
    second: str
    norms: tuple[float, float]
    dot: float
    delta: float

    @property
    def cosine(self) -> float | None:
        """Return dot / (|first| |second|), or None when either is zero."""
        norm = math.sqrt(self.norms[0]) * math.sqrt(self.norms[1])
        return max(-1.0, min(1.0, self.dot / norm)) if norm > 0 else None

    @property
    def relative_l2(self) -> float | None:
        """Return |second - first| / |first|, or None when first is zero."""
        return math.sqrt(self.delta / self.norms[0]) if self.norms[0] > 0 else None

    def plus(self, other: Pair) -> Pair:
        """Return the pair over both sets of units."""
        norms = (self.norms[0] + other.norms[0], self.norms[1] + other.norms[1])
        return Pair(self.first, self.second, norms, self.dot + other.dot, self.delta + other.delta)

    def turned(self) -> Pair:
        """Return the pair with the first model measured against the second."""
        return Pair(self.second, self.first, self.norms[::-1], self.dot, self.delta)

    def to_dict(self) -> dict[str, Any]:
        """Return the pair as plain data."""
        names = {"first": self.first, "second": self.second}
        return names | {"cosine": self.cosine, "relative_l2": self.relative_l2}


def unrelated(pairs: Iterable[Pair], models: Collection[str]) -> list[str]:
    """Return a note for each two of these models whose weights point elsewhere, taken together.

    Models of one ancestor have cosines of 0.9 and more; of networks trained apart, equal shapes are
    all they have in common, and their cosine is near 0.
    """
    found: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        if pair.first in models and pair.second in models:
            # Units differ in which model comes first.
            turned = pair if pair.first < pair.second else pair.turned()
            key = (turned.first, turned.second)
            found[key] = found[key].plus(turned) if key in found else turned
    return [
        f"{first} and {second} have the cosine {pair.cosine:.3f}, relatives 0.9 or more: networks "
        "trained apart do not merge into one that works"
        for (first, second), pair in found.items()
        if pair.cosine is not None and pair.cosine < _RELATED
    ]
