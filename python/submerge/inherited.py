"""What quantised parents had lost before a merge began: the rounding of their own numbers.

The originals are not there to compare with, so it is estimated: `plan.stored` has the formula. The
sum of squares of the numbers it is compared with is what the core measured.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.blocks import place_of
from submerge.errors import quoted
from submerge.plan.stored import Stored
from submerge.plan.terms import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.plan import Plan

__all__ = ["Inherited", "inherited"]


class Inherited(NamedTuple):
    """The rounding of one quantised parent, estimated.

    Attributes:
        model: what the recipe calls it.
        error2: by block, the sum of squares of the errors.
        norm2: by block, that of the numbers they are in.
    """

    model: str
    error2: Mapping[str, float]
    norm2: Mapping[str, float]

    @property
    def relative(self) -> float:
        """The length of the errors as a share of that of the numbers."""
        return math.sqrt(sum(self.error2.values()) / sum(self.norm2.values()))

    @property
    def blocks(self) -> dict[str, float]:
        """The same for each block."""
        return {b: math.sqrt(e / self.norm2[b]) for b, e in self.error2.items() if self.norm2[b]}

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {"model": self.model, "relative": self.relative, "blocks": self.blocks}

    def words(self) -> str:
        """Return the figures in a sentence."""
        worst, most = max(self.blocks.items(), key=lambda item: item[1])
        return (
            f"{quoted(self.model)}: rounded before it came here, by {self.relative:.2%} of its "
            f"quantised numbers, most in {worst} ({most:.2%}); estimated from its scales"
        )


def inherited(plan: Plan, figures: Mapping[str, Any]) -> tuple[Inherited, ...]:
    """Return the rounding of every quantised parent of which the core measured numbers.

    Raises:
        CheckpointError: a file is no longer the one whose header was read.
        OSError: a file cannot be read.
    """
    found: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    with Stored(plan.sources) as stored:
        for figure in figures["units"]:
            unit = plan.units[figure["unit"]]
            block, _ = place_of(unit.name)
            measured = zip(unit.models, unit.operands, figure["norm2"], strict=False)
            for model, (rows, *_), norm2 in measured:
                if not isinstance(rows, Rows) or rows.codec is None or not norm2:
                    continue
                errors, norms = found.setdefault(model, ({}, {}))
                error2 = stored.error2(rows, figure["elements"])
                errors[block] = errors.get(block, 0.0) + error2
                norms[block] = norms.get(block, 0.0) + norm2
    return tuple(Inherited(model, *sums) for model, sums in found.items())
