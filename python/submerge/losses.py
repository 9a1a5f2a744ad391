"""What writing numbers in few bits lost of them: of each unit, of blocks, of the whole.

The core compares what it wrote with what the formulas gave, in one block of 1,024 elements of 16,
the same on every run. Bytes that were copied lost nothing and are not measured.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.checkpoint import DTYPES
from submerge.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from submerge.plan import Plan, Unit

__all__ = ["Loss", "Quantisation", "loss_of"]

# Of wider types the rounding is told beside the change alone.
_FEW = 8


class Loss(NamedTuple):
    """Sums over the elements of some units.

    Attributes:
        lost: `|written - value|^2`, value being what the formula gave in f32.
        value: `|value|^2`.
    """

    lost: float = 0.0
    value: float = 0.0

    def plus(self, other: Loss) -> Loss:
        """Return the sums over both."""
        return Loss(self.lost + other.lost, self.value + other.value)

    @property
    def error(self) -> float | None:
        """The relative error, `|written - value| / |value|`; None where there was nothing."""
        return math.sqrt(self.lost / self.value) if self.value > 0 else None

    @property
    def sqnr(self) -> float | None:
        """The ratio of signal to noise in decibels; None without either."""
        if self.value <= 0 or self.lost <= 0:
            return None
        return 10 * math.log10(self.value / self.lost)


def loss_of(plan: Plan, unit: Unit, figure: Mapping[str, Any]) -> Loss:
    """Return what was lost of a unit; nothing of one in a wide type, or copied."""
    output = plan.outputs[unit.output]
    few = output.format or DTYPES[output.dtype].bits <= _FEW
    if not few or not figure["sampled"]:
        return Loss()
    scale = figure["elements"] / figure["sampled"]
    return Loss(figure["rounding2"] * scale, figure["value2"] * scale)


class Quantisation(NamedTuple):
    """What writing in few bits lost of a whole output.

    Attributes:
        formats: the formats of the units that were measured.
        error: the relative error of them all, and `sqnr` in decibels.
        worst: the unit where it is largest, and `worst_error`.
    """

    formats: tuple[str, ...]
    error: float
    sqnr: float | None
    worst: str
    worst_error: float

    @classmethod
    def of(cls, plan: Plan, units: Iterable[tuple[Unit, Mapping[str, Any]]]) -> Quantisation | None:
        """Return it of the units that were made; None where none is in few bits."""
        found = list(_losses(plan, units))
        total = Loss()
        for _, _, loss in found:
            total = total.plus(loss)
        if total.error is None:
            return None
        _, worst, most = max(found, key=lambda each: each[2].error or 0.0)
        formats = sorted({form for form, _, _ in found})
        return cls(tuple(formats), total.error, total.sqnr, worst, most.error or 0.0)

    @property
    def words(self) -> str:
        """The figures in a line."""
        ratio = "" if self.sqnr is None else f" ({self.sqnr:.1f} dB)"
        return (
            f"{', '.join(self.formats)}: relative error {self.error:.2g}{ratio}, most in "
            f"{quoted(self.worst)}, {self.worst_error:.2g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return self._asdict() | {"formats": list(self.formats)}


def _losses(
    plan: Plan, units: Iterable[tuple[Unit, Mapping[str, Any]]]
) -> Iterator[tuple[str, str, Loss]]:
    for unit, figure in units:
        loss = loss_of(plan, unit, figure)
        if loss.value > 0:
            yield plan.outputs[unit.output].written, unit.name, loss
