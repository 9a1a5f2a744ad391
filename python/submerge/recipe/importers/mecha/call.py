"""A merge method of sd-mecha with its arguments, each as what it must be."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from submerge.errors import RecipeError, quoted
from submerge.recipe.importers.mecha.forms import Formula, Numbers, Sum, Value, selectors
from submerge.recipe.importers.mecha.instructions import Argument, Instruction, Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Call"]

_ONE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Call:
    """A merge method with its arguments.

    Attributes:
        where: for messages: the file and the line.
        instruction: the line.
        values: what the lines before it made.
    """

    where: str
    instruction: Instruction
    values: Mapping[int, Value]

    @property
    def count(self) -> int:
        """How many arguments stand in order."""
        return len(self.instruction.given) - (self.instruction.command == "merge")

    def at(self, position: int, name: str = "") -> Value:
        """Return an argument by position or name; None if it is missing."""
        shift = self.instruction.command == "merge"
        given = self.instruction.given[shift:]
        raw = given[position] if 0 <= position < len(given) else self.instruction.named.get(name)
        return self.one(raw)

    def one(self, raw: object) -> Value:
        """Return what an argument stands for; a number is the same everywhere."""
        found = self.values[raw.at] if isinstance(raw, Reference) else raw
        return {"": found} if isinstance(found, Fraction) else found  # type: ignore[return-value]

    def number(self, raw: Argument, name: str) -> Fraction:
        """Return a plain number."""
        found = self.one(raw)
        if isinstance(found, dict) and set(found) == {""}:
            return Fraction(found[""])
        raise RecipeError(f"{self.where}: {quoted(name)}, expected a number")

    def numbers(self, position: int, name: str, default: Fraction | None = None) -> Numbers:
        """Return numbers by selector."""
        found = self.at(position, name)
        if found is None and default is not None:
            return {"": default}
        if isinstance(found, dict) and all(isinstance(x, Fraction) for x in found.values()):
            # A bare dict, which sd-mecha takes as one with the tensors' names.
            return {
                at: number
                for key, number in found.items()
                for at in ([key] if not key else selectors(key, "", self.where))
            }
        raise RecipeError(f"{self.where}: {quoted(name)}, expected a number, or one by tensor")

    def scalar(self, name: str, default: Fraction) -> Fraction:
        """Return a number that cannot differ by tensor."""
        found = self.numbers(-1, name, default)
        if set(found) != {""}:
            raise RecipeError(f"{self.where}: {quoted(name)}, expected one number for all tensors")
        return found[""]

    def flag(self, name: str) -> bool:
        """Return true or false; false where it is missing."""
        found = self.at(-1, name)
        if not isinstance(found, bool | None):
            raise RecipeError(f"{self.where}: {quoted(name)}, expected true or false")
        return bool(found)

    def sum(self, position: int, name: str) -> Sum:
        """Return a model or a difference that is a weighted sum."""
        found = self.at(position, name)
        if isinstance(found, Sum):
            return found
        if isinstance(found, Formula):
            raise RecipeError(
                f"{self.where}: {quoted(name)} is made by {quoted(next(iter(found.method)))}, "
                "expected a weighted sum of files: one recipe has one method",
                hint="import that node alone (`node`), merge it, and use the result as a model",
            )
        raise RecipeError(f"{self.where}: {quoted(name)}, expected a model")

    def leaf(self, position: int, name: str) -> str:
        """Return a model that is a file."""
        found = self.sum(position, name).row()
        if list(found.values()) != [_ONE]:
            raise RecipeError(
                f"{self.where}: {quoted(name)} is a sum of models, expected a file",
                hint="import that node alone (`node`), merge it, and use the result as a model",
            )
        return next(iter(found))

    def difference(self, position: int, name: str) -> tuple[str, str]:
        """Return the two files of `a - b`."""
        found = self.sum(position, name).row()
        plus = [model for model, x in found.items() if x == 1]
        minus = [model for model, x in found.items() if x == -1]
        if len(found) != 2 or len(plus) != 1 or len(minus) != 1:
            raise RecipeError(f"{self.where}: {quoted(name)}, expected a difference of two files")
        return plus[0], minus[0]

    def from_base(self) -> tuple[tuple[str, ...], str]:
        """Return the files whose differences to one base are the arguments, and the base."""
        pairs = [self.difference(i, f"deltas[{i}]") for i in range(self.count)]
        bases = {minus for _, minus in pairs}
        order = tuple(plus for plus, _ in pairs)
        if len(bases) != 1 or len(set(order)) != len(order):
            raise RecipeError(f"{self.where}: expected differences of different files to one base")
        return order, bases.pop()
