"""What became of the modules of an adapter that was made."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.blocks import place_of
from submerge.errors import counted, listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from submerge.plan.form import Plan

__all__ = ["MadeModule", "made_in_words", "made_modules", "short_of", "span", "summed"]


class MadeModule(NamedTuple):
    """One module of an adapter that was made, or several.

    Attributes:
        block: the block it lies in, or the part where it lies in none.
        part: the part: `attn.q`, `mlp`, `mod`, ...; of a module that stacks several, each of them.
        name: its name in the form it is written in.
        ranks: the rank of each module; 0 for one that is no product or is left out.
        norm2: the sum of squares of what it adds; 0 where it is a tensor's new value.
        residual2: the sum of squares of what is missing in it as it is written.
    """

    block: str
    part: str
    name: str
    ranks: tuple[int, ...]
    norm2: float
    residual2: float

    @property
    def residual(self) -> float:
        """The length of what is missing, as a share of the whole; 0 where there is nothing."""
        return math.sqrt(self.residual2 / self.norm2) if self.norm2 > 0 else 0.0

    def plus(self, other: MadeModule) -> MadeModule:
        """Return the sum of two, under this one's names."""
        return self._replace(
            ranks=self.ranks + other.ranks,
            norm2=self.norm2 + other.norm2,
            residual2=self.residual2 + other.residual2,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "block": self.block,
            "part": self.part,
            "name": self.name,
            "rank": max(self.ranks),
            "norm": math.sqrt(self.norm2),
            "residual": self.residual,
        }


def made_modules(plan: Plan, figures: Mapping[str, Any]) -> tuple[MadeModule, ...]:
    """Return the modules of a plan with the core's figures; none where it makes no adapter."""
    if plan.making is None:
        return ()
    pairs = zip(plan.making.modules, figures["modules"], strict=True)
    return tuple(
        MadeModule(
            *_place_of(module.units),
            module.name,
            (made["rank"],),
            0.0 if module.value else made["norm2"],
            made["residual2"],
        )
        for module, made in pairs
    )


def short_of(plan: Plan, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note of the modules whose largest rank holds less than the energy asked for."""
    if plan.making is None:
        return ()
    outputs = iter(plan.outputs)
    short, ranks = [], []
    for module, made in zip(plan.making.modules, figures["modules"], strict=True):
        mine = [next(outputs) for _ in range(module.outputs)]
        if module.energy is None or made["rank"] < module.rank:
            continue
        # A rank that is all there is lacks nothing but rounding.
        if module.made == "matrix":
            most = min(mine[0].shape)
        else:
            most = sum(down.shape[0] for down in mine[1 : 2 * len(module.products) : 2])
        if module.rank < most and made["residual2"] > (1 - module.energy) * made["norm2"]:
            short.append(module.name)
            ranks.append(made["rank"])
    if not short:
        return ()
    most_allowed = f"{listing(short, noun='module')}: rank {span(ranks)}, the most allowed"
    return (f"{most_allowed}, holds less than the energy asked for; a larger `rank` allows more",)


def _place_of(units: Sequence[str]) -> tuple[str, str]:
    places = [place_of(unit) for unit in units]
    return places[0][0], ", ".join(dict.fromkeys(part for _, part in places))


def summed(modules: Iterable[MadeModule]) -> MadeModule:
    """Return the sum of modules."""
    return functools.reduce(MadeModule.plus, modules, MadeModule("", "", "", (), 0.0, 0.0))


def made_in_words(modules: Sequence[MadeModule]) -> str:
    """Return what was made: `304 modules, rank 32, relative residual 0.1234`."""
    whole = summed(modules)
    ranks = [rank for rank in whole.ranks if rank]
    kept = f"{counted(len(ranks), 'module')}, rank {span(ranks)}"
    return f"{kept}, relative residual {whole.residual:.4f}"


def span(ranks: Sequence[int]) -> str:
    """Return ranks in words: `32`, `4 to 64`, or `-`."""
    if not ranks:
        return "-"
    least, most = min(ranks), max(ranks)
    return str(least) if least == most else f"{least} to {most}"
