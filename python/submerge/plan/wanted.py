"""How much of a module an adapter is to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Wanted", "most"]


class Wanted(NamedTuple):
    """What is asked for at a module: a rank at most, None for all there is, and an energy."""

    rank: int | None = None
    energy: float | None = None


def most(wishes: Iterable[Wanted]) -> Wanted:
    """Return what is enough for each of the units that a module stacks."""
    ranks, energies = zip(*wishes, strict=True)
    return Wanted(
        max((rank for rank in ranks if rank is not None), default=None),
        max((energy for energy in energies if energy is not None), default=None),
    )
