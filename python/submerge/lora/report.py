"""What making an adapter did: its modules, and what of each is missing in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from submerge import documents
from submerge.columns import aligned
from submerge.plan.sizes import bytes_in_words
from submerge.report import Run
from submerge.residuals import (
    MadeModule,
    made_in_words,
    made_modules,
    short_of,
    span,
    summed,
)
from submerge.run import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from submerge.documents import MakingDocument
    from submerge.plan import Plan

__all__ = ["MadeAdapter", "MadeModule"]


@dataclass(frozen=True, slots=True)
class MadeAdapter:
    """An adapter that was made.

    Attributes:
        path: the file.
        modules: in file order.
        notes: what has no place in it, and whatever else is unusual.
        run: time, memory and speed.
    """

    path: Path
    modules: tuple[MadeModule, ...]
    notes: tuple[str, ...]
    run: Run

    def __repr__(self) -> str:
        return f"<MadeAdapter {str(self.path)!r}: {self._words()}>"

    @classmethod
    def of(cls, plan: Plan, figures: Mapping[str, Any]) -> MadeAdapter:
        """Make the report of a plan that was carried out."""
        notes = (*plan.about.notes, *short_of(plan, figures), *figures["notes"])
        return cls(plan.target, made_modules(plan, figures), notes, Run.of(figures))

    @property
    def residual(self) -> float:
        """The length of what is missing in the whole adapter, as a share of all differences."""
        return summed(self.modules).residual

    def to_dict(self) -> MakingDocument:
        """Return the report as plain data, ready for JSON."""
        return {
            "format": "submerge-making/1",
            "submerge": __version__,
            "path": str(self.path),
            "residual": self.residual,
            "modules": [cast(Any, module.to_dict()) for module in self.modules],
            "notes": list(self.notes),
            "run": cast(Any, self.run._asdict()),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the report as JSON."""
        return documents.text(self.to_dict(), indent=indent)

    def text(self, by: Literal["part", "block"] = "part") -> str:
        """Return a line for each part of each stack or for each block, and a summary."""
        lines = [["", "modules", "rank", "residual"]]
        for row in _grouped(self.modules, by):
            label = row.block if row.block == row.part else f"{row.block} {row.part}"
            made = [rank for rank in row.ranks if rank]
            lines.append(
                [label, f"{len(row.ranks):,}", span(made), f"{row.residual:.4f}"],
            )
        return "\n".join([aligned(lines), *self.notes, self._words(), self.run.line()])

    def _words(self) -> str:
        return f"{made_in_words(self.modules)}, {bytes_in_words(self.run.bytes_written)}"


def _grouped(modules: Iterable[MadeModule], by: Literal["part", "block"]) -> list[MadeModule]:
    """Add modules up over the blocks of a stack, or over the parts of a block."""
    sums: dict[tuple[str, str], MadeModule] = {}
    for module in modules:
        if by == "part":
            key = (module.block.partition(".")[0], module.part)
        else:
            key = (module.block, "all" if module.block != module.part else module.part)
        named = module._replace(block=key[0], part=key[1])
        sums[key] = sums[key].plus(named) if key in sums else named
    return list(sums.values())
