"""What a plan says of itself, in words; it decides no byte."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["About", "Applied", "Parent", "Unused"]


class Unused(NamedTuple):
    """Input tensors with no place of their own in the output, and why.

    A tensor used in part is named with the rows that are not: `x rows 0..4`.
    """

    model: str
    tensors: tuple[str, ...]
    reason: str


class Parent(NamedTuple):
    """One model of the plan, in words.

    Attributes:
        name: what the recipe calls it.
        label: hub id or base name; never a machine path.
        variant: what it was identified as.
        license: SPDX id or licence name, with the evidence for it.
        contributes: whether any byte of the output comes from it.
        precision: what its numbers are stored in, if it is quantised.
    """

    name: str
    label: str
    variant: str
    license: str
    contributes: bool
    precision: str = ""


class Applied(NamedTuple):
    """One adapter of the plan, in words.

    Attributes:
        name: what formulas call it.
        label: hub id or base name; never a machine path.
        kind: what it is: `LoRA, kohya names, 304 modules, rank 16`.
        onto: the model it is added to, or None for the result.
        license: SPDX id or licence name, with the evidence for it.
        contributes: whether it changes any byte of the output.
    """

    name: str
    label: str
    kind: str
    onto: str | None
    license: str
    contributes: bool


class About(NamedTuple):
    """What a plan says of itself; decides no byte."""

    title: str
    layout: str
    dtype: str
    guidance: str
    license: str
    parents: tuple[Parent, ...]
    notes: tuple[str, ...] = ()
    unused: tuple[Unused, ...] = ()
    recipe: Mapping[str, Any] = MappingProxyType({})
    adapters: tuple[Applied, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        parents = [parent._asdict() for parent in self.parents]
        unused = [gone._asdict() for gone in self.unused]
        found = self._asdict() | {"parents": parents, "unused": unused}
        adapters = [adapter._asdict() for adapter in found.pop("adapters")]
        return found | ({"adapters": adapters} if adapters else {})
