"""What a merge method is: parameters in, for each unit an operation of the core out."""

from __future__ import annotations

import math
import struct
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

from submerge.errors import RecipeError, quoted
from submerge.given import Declared, Record, declare, declared, meant, one_of

if typing.TYPE_CHECKING:
    from submerge.values import Selection

__all__ = [
    "AWAY_FROM_THRESHOLD",
    "CLOSE",
    "EXACT",
    "IN_STATISTICS",
    "MECHA",
    "MERGEKIT",
    "OUTSIDE_TIES",
    "Blend",
    "Blends",
    "Equality",
    "Method",
    "Setting",
    "Weights",
    "copied",
    "known",
    "number_in_words",
    "parameter",
    "weighted_sum",
    "weighted_words",
]

MERGEKIT = "mergekit 0.1.5"
MECHA = "sd-mecha 1.1.8"

# How far results in F32 agree with another program's, or with the formula in numpy.
EXACT = "bit for bit"
CLOSE = "to a few units of the last place"
OUTSIDE_TIES = "bit for bit, but which of equal magnitudes at a threshold stay"
AWAY_FROM_THRESHOLD = "bit for bit, but elements whose rank hangs on rounding"
IN_STATISTICS = "in statistics: the noise is another"

Equality: TypeAlias = Mapping[str, str]
"""How far results agree with those of others, by name."""

Weights: TypeAlias = dict[str, dict[str, float]]
"""Unit name to model name to weight, models in the recipe's order, f64, every model present."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a recipe says around a method.

    Attributes:
        models: the names of the models, in the recipe's order.
        base: the model that deltas are taken from, unless the method names another.
        seed: of the methods that draw random numbers.
        compat: the program whose arithmetic is wanted where it differs from that of the papers.
    """

    models: tuple[str, ...]
    base: str | None = None
    seed: int = 0
    compat: Literal["mergekit"] | None = None

    @property
    def floor(self) -> float:
        """What mergekit takes for nothing in sums and products of deltas; 0 for no such limit."""
        return 1e-6 if self.compat == "mergekit" else 0.0


@dataclass(frozen=True, slots=True)
class Blend:
    """What one unit is made by: an operation of the core, its arguments and its operands.

    Attributes:
        op: the core's operation.
        arguments: its arguments, as the plan spells them.
        models: the operands, in the order of the arithmetic.
        words: the formula, for people.
        base: the model that deltas are taken from, if the formula has one.
        shares: the other models' shares in the weighted sum that comes nearest to the formula.
    """

    op: str
    arguments: Mapping[str, Any]
    models: tuple[str, ...]
    words: str
    base: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_sum(self) -> bool:
        """Whether the shares are the weights of the formula itself."""
        return self.op in ("copy", "linear", "same")

    def among(self, having: Iterable[str]) -> dict[str, float]:
        """Return the weights of the sum that stands in among the models that have the unit.

        With a base that has it: `base + sum_i share_i * (x_i - base)`. Without: the shares over
        their sum. The weights of a weighted sum are its own.
        """
        present = set(having)
        parts = {model: s for model, s in self.shares.items() if model in present and s != 0}
        if self.is_sum:
            return parts
        total = math.fsum(parts.values())
        if self.base in present:
            whole = {self.base: 1.0 - total, **parts}
            return {model: weight for model, weight in whole.items() if weight != 0}
        return {model: share / total for model, share in parts.items()} if total else parts


Blends: TypeAlias = Mapping[str, Blend]
"""Unit name to what the unit is made by."""


def weighted_sum(weights: Mapping[str, float], total: float = 1.0) -> Blend:
    """Return the weighted sum of the models, those of weight 0 left out, in order of their names.

    The order of the operands is one that permuting the models of a recipe does not change.

    Args:
        weights: a weight for each model, before it is divided.
        total: what they are divided by. Where they fit into F32 and what they would become does
            not, as thirds, the core divides the sum instead: that of numbers in BF16 or F16 is
            mostly exact, so what lies in the middle between two numbers of the output is rounded
            as it should be.
    """
    given = {model: weight for model, weight in weights.items() if weight != 0}
    shares = {model: weight / total for model, weight in weights.items()}
    models = tuple(sorted(given))
    arguments: dict[str, Any] = {"weights": [shares[model] for model in models]}
    whole = len(models) > 1 and all(map(_fits, (*given.values(), total)))
    if whole and not all(_fits(shares[model]) for model in models):
        arguments = {"weights": [given[model] for model in models], "divisor": total}
    return Blend(
        op="linear",
        arguments=arguments,
        models=models,
        words=weighted_words({model: shares[model] for model in given}),
        shares=shares,
    )


def _fits(number: float) -> bool:
    """Whether F32 has the number."""
    try:
        rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return False
    return rounded == number


def copied(model: str) -> Blend:
    """Return one model's bytes as they are."""
    return Blend("copy", {}, (model,), model, shares={model: 1.0})


def parameter(meaning: str, default: Any = None) -> Any:
    """Declare a parameter of a method, with what it means and what it is left out."""
    return declare(meaning, default)


class Method(Record, ABC):
    """A merge formula with its parameters, which are the fields of the record.

    Attributes:
        name: the word recipes use.
        ops: the core's operations that execute it.
        formula: the result in one line; `A` and `B` are the first and second model, `C` the base.
        passes: how often a unit is read: for statistics of the whole of it, and to merge it.
        state: what is kept of a unit between its passes.
        source: where the formula and its defaults come from.
        equal: how far results in F32 agree with those of others, by name; `numpy` is the formula
            written down once more, whatever else it is held against is a program.
    """

    __slots__ = ()
    noun: ClassVar[str] = "parameter"
    name: ClassVar[str]
    ops: ClassVar[tuple[str, ...]]
    formula: ClassVar[str]
    passes: ClassVar[int] = 1
    state: ClassVar[str] = "nothing"
    source: ClassVar[str] = ""
    equal: ClassVar[Equality] = MappingProxyType({"numpy": EXACT})

    @abstractmethod
    def check(self, setting: Setting, where: str) -> None:
        """Refuse parameters that do not fit these models; needs no units.

        Args:
            setting: the recipe's models, base and seed.
            where: the method's path in the recipe; a parameter's is `<where>.<name>`.

        Raises:
            RecipeError: with the path of the offending parameter.
        """

    @abstractmethod
    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return what every wanted unit of `selection` is made by.

        Raises:
            RecipeError: as `check`, and for values that do not fit the selection.
        """

    @classmethod
    def parameters(cls) -> Mapping[str, Declared]:
        """Return the fields by the names recipes use: `lambda_` is written `lambda`."""
        return declared(cls)


def known(model: str, models: Sequence[str], where: str) -> None:
    """Refuse the name of a model that is not in the recipe."""
    if model not in models:
        raise RecipeError(
            f"{where}: no model is called {quoted(model)}, expected one of {one_of(models)}",
            hint=meant(model, models),
        )


def number_in_words(value: float) -> str:
    """Return a weight with two decimals where that says it, else with up to six digits."""
    return f"{value:.2f}" if abs(round(value, 2) - value) < 1e-9 else f"{value:.6g}"


def weighted_words(weights: Mapping[str, float]) -> str:
    """Return a weighted sum in words: `0.70 * schnell + 0.30 * krea`; a whole model is its name."""
    if not weights:
        return "0"
    words = ""
    for model, weight in weights.items():
        sign = " - " if weight < 0 else " + "
        term = model if abs(weight) == 1 else f"{number_in_words(abs(weight))} * {model}"
        words += (sign if words else sign.strip().replace("+", "")) + term
    return words
