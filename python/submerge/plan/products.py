"""The products that adapters add to a module: thin factors, as they lie in the files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.adapters import Magnitude, Multiplied, Product, Replacement
from submerge.errors import AdapterError, quoted
from submerge.plan.factorwise import vote_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from submerge.adapters import Delta, Span
    from submerge.plan.adapted import Fused
    from submerge.plan.factorwise import Blending

__all__ = ["Part", "deltas_of", "parts_of", "shared_by"]

# What is no sum of what adapters add, and what it does.
_NO_SUMS: Mapping[type, str] = {
    Magnitude: "sets lengths",
    Multiplied: "multiplies the weight",
    Replacement: "replaces numbers",
}


class Part(NamedTuple):
    """One product of a module: rows of `up` below each other, all with one `down`.

    Attributes:
        fused: the adapter.
        ups: the rows of `up` for each unit, and the unit.
        down: all rows of `down`.
        alpha: what the file multiplies it by.
        strength: what else it is multiplied by.
        first: the first row of the module that it adds to.
    """

    fused: Fused
    ups: tuple[tuple[str, Span], ...]
    down: Span
    alpha: float
    strength: float
    first: int

    @property
    def rows(self) -> int:
        """How many rows of the module it adds to."""
        return sum(span.end - span.start for _, span in self.ups)

    @property
    def rank(self) -> int:
        """Columns of `up` and rows of `down`."""
        return self.down.end - self.down.start

    @property
    def scale(self) -> float:
        """What it is multiplied by in all."""
        return self.alpha * self.strength


def deltas_of(fused: Fused, unit: str) -> tuple[Delta, ...]:
    """Return what an adapter adds to a unit.

    Raises:
        AdapterError: it is no sum.
    """
    found = fused.resolved.deltas[unit] if unit in fused.strengths else ()
    for delta in found:
        if isinstance(delta, Magnitude | Multiplied | Replacement):
            what = f"{_NO_SUMS[type(delta)]} of {quoted(unit)}"
            raise AdapterError(
                f"{fused.adapter.path}: {what}, expected what is added to a weight",
                hint="bake it into its model and extract from that",
            )
    return tuple(found)


def parts_of(
    adapters: Sequence[Fused], shapes: Mapping[str, tuple[int, ...]], weights: Sequence[str]
) -> Iterator[Part]:
    """Yield the products of a module, those of one `down` that stand below each other as one.

    Args:
        adapters: whose; their products come one adapter after the other.
        shapes: of the units.
        weights: what the module stacks.

    Raises:
        AdapterError: as `deltas_of`.
    """
    for fused in adapters:
        last: Part | None = None
        start = 0
        for unit in weights:
            for delta in deltas_of(fused, unit):
                if not isinstance(delta, Product):
                    continue
                (up, down), strength = delta.factors, fused.strengths[unit]
                part = Part(fused, ((unit, up),), down, delta.scale, strength, start)
                same = last is not None and last[2:5] == part[2:5]
                if last is not None and same and last.first + last.rows == start:
                    last = last._replace(ups=last.ups + part.ups)
                    continue
                if last is not None:
                    yield last
                last = part
            start += shapes[unit][0]
        if last is not None:
            yield last


def shared_by(how: Blending, name: str, parts: Sequence[Part]) -> dict[str, Any]:
    """Return how products of several adapters are voted on, in the core's words.

    Args:
        how: the vote.
        name: the module's, for messages.
        parts: its products.

    Raises:
        AdapterError: an adapter has several strengths in the module.
    """
    strengths: dict[str, set[float]] = {}
    for part in parts:
        strengths.setdefault(part.fused.name, set()).add(part.strength)
    uneven = [fused for fused, found in strengths.items() if len(found) > 1]
    if uneven:
        raise AdapterError(
            f"{quoted(name)}: {quoted(uneven[0])} has several strengths in what this form stacks, "
            "expected one to vote with",
            hint="`--to peft` has a module for each",
        )
    own = [part.fused.name for part in parts]
    return {
        "vote": vote_of(how, len(strengths)),
        "weights": [found.pop() for found in strengths.values()],
        "each": [own.count(fused) for fused in strengths],
    }
