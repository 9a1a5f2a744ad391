"""What nodes of sd-mecha stand for: weighted sums of files, formulas, and numbers by tensor.

Numbers may differ by tensor: they are a mapping of selectors to numbers, where "" is the rest.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

from submerge.errors import RecipeError, quoted
from submerge.recipe.importers.preset import DOUBLE, SINGLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Formula", "Numbers", "Sum", "Value", "selectors", "value"]

Numbers: TypeAlias = dict[str, Fraction]
_ONE = Fraction(1)
_FLUX = "flux-flux"


@dataclass(frozen=True, slots=True)
class Sum:
    """A weighted sum of files: selector to model to coefficient, "" for the rest.

    `space` is `weight` for a model and `delta` for a difference of models.
    """

    space: str
    terms: dict[str, dict[str, Fraction]]

    def models(self, names: Iterable[str]) -> list[str]:
        """Return which of these models are in it, in this order."""
        used = {model for row in self.terms.values() for model in row}
        return [name for name in names if name in used]

    def row(self) -> dict[str, Fraction]:
        """Return the coefficients other than 0, if they are the same everywhere; else nothing."""
        rows = list(self.terms.values())
        even = all(row == rows[0] for row in rows)
        return {m: x for m, x in rows[0].items() if x} if even else {}

    def action(self, names: list[str]) -> dict[str, Any]:
        """Return the action of a recipe with these models."""
        row = self.row()
        if list(row.values()) == [_ONE]:
            return {"take": next(iter(row))}
        columns = {
            name: {at: found.get(name, Fraction(0)) for at, found in self.terms.items()}
            for name in names
        }
        even = all(sum(found.values()) == 1 for found in self.terms.values())
        if len(names) == 2 and even:
            return {"method": {"linear": {"alpha": value(columns[names[1]])}}}
        weight = {name: value(column) for name, column in columns.items()}
        return {"method": {"linear": {"weight": weight, **({} if even else {"normalize": False})}}}


@dataclass(frozen=True, slots=True)
class Formula:
    """A method that is no weighted sum.

    Attributes:
        space: `weight`; `delta` until it is added to its base; `mask` until it scales a difference.
        method: its name here, and its parameters.
        order: the models it is made of, in the order of the formula.
        base: what the differences are taken from.
        whole_tensors: whether norms, angles or thresholds of whole tensors decide.
        notes: where the result is not sd-mecha's.
    """

    space: str
    method: dict[str, dict[str, Any]]
    order: tuple[str, ...]
    base: str | None = None
    whole_tensors: bool = True
    notes: list[str] = field(default_factory=list)

    def models(self, names: Iterable[str]) -> list[str]:
        """Return the models in it, in the order of the formula whatever that of the names."""
        del names
        return [*self.order, *([] if self.base is None else [self.base])]

    def action(self, names: list[str]) -> dict[str, Any]:
        """Return the action of a recipe, whatever the order of its models."""
        del names
        return {"method": self.method} | ({} if self.base is None else {"base": self.base})


Value: TypeAlias = Sum | Formula | dict[str, Any] | str | bool | None


def value(column: Mapping[str, Fraction]) -> Any:
    """Return a recipe's value: a number, or a mapping whose `default` is the rest's number.

    The selectors of longer names go first: one reaches all that begins with it.
    """
    rest = column.get("")
    if rest is not None and all(x == rest for x in column.values()):
        return float(rest)
    ordered = sorted(column.items(), key=lambda item: -len(item[0]))
    written = {at: float(x) for at, x in ordered if at and x != rest}
    return written if rest is None else {**written, "default": float(rest)}


def selectors(name: str, config: str, where: str) -> list[str]:
    """Return the selectors of a tensor; none for one that is no part of FLUX.1's transformer."""
    if config == _FLUX:
        return list(_flux_units().get(name.removeprefix("model.diffusion_model."), ()))
    if set("[]*?") & set(name):
        raise RecipeError(f"{where}: {quoted(name)} cannot be written as a selector")
    return [name]


@functools.cache
def _flux_units() -> dict[str, tuple[str, ...]]:
    from submerge.layout import Architecture, tensors_of

    dev = Architecture(
        "flux1", (DOUBLE, SINGLE), 3072, 128, 12288, 64, 64, 4096, 768, guidance=True
    )
    return {tensor.name: tensor.units for tensor in tensors_of(dev, "bfl")}
