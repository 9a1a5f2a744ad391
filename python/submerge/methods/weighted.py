"""Weighted sums whose weights are known before any tensor is read.

Ratios are shares of the SECOND model: `alpha: 0.3` means `0.7 * first + 0.3 * second`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from submerge.errors import RecipeError, counted, quoted
from submerge.methods.base import (
    CLOSE,
    EXACT,
    MECHA,
    MERGEKIT,
    Blend,
    Blends,
    Equality,
    Method,
    Setting,
    Weights,
    copied,
    known,
    parameter,
    weighted_sum,
)
from submerge.methods.parameters import difference, pair_of, roles
from submerge.values import Number, PerModel, Selection, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["AddDifference", "Lerp", "Linear", "Take", "Three", "notes_on"]

# A sum this small against its largest weight is a cancellation, not a scale anybody meant.
_CANCELLED = 1e-12
# Sums of decimal weights miss 1 by a few ulp; anything beyond is the user's intent and is reported.
_UNITY = 1e-9


@dataclass(frozen=True, slots=True)
class Linear(Method):
    """The weighted sum `w_1 x_1 + ... + w_n x_n`, element by element."""

    name: ClassVar[str] = "linear"
    ops: ClassVar[tuple[str, ...]] = ("linear",)
    formula: ClassVar[str] = "(1 - alpha) A + alpha B, or sum_i w_i X_i"
    source: ClassVar[str] = "Wortsman et al. 2022, model soups (arXiv 2203.05482)"
    # Both fuse multiply and add, where a machine can.
    equal: ClassVar[Equality] = {"numpy": EXACT, MERGEKIT: CLOSE, MECHA: CLOSE}
    EVEN: ClassVar[Value] = Number(0.5)

    alpha: Value | None = parameter(
        "two models: the share of the second, `(1 - alpha) * first + alpha * second`. Shares "
        "outside 0..1 extrapolate. 0.5 where neither `alpha` nor `weight` is given."
    )
    weight: PerModel | None = parameter(
        "any number of models: a weight for each by name; models left out have 0."
    )
    normalize: bool = parameter(
        "divide the weights by their sum (`weight` only; those of `alpha` sum to 1).", default=True
    )

    def check(self, setting: Setting, where: str) -> None:
        """Refuse `alpha` for other than two models, unknown names, and both parameters at once."""
        self._check(setting.models, where)

    def _check(self, models: Sequence[str], where: str) -> None:
        if self.weight is not None:
            if self.alpha is not None:
                raise RecipeError(
                    f"{where}: both `alpha` and `weight` are given, expected one of them"
                )
            for model, _ in self.weight.entries:
                known(model, models, f"{where}.weight")
        elif len(models) != 2 and (self.alpha is not None or len(models) > 2):
            raise RecipeError(
                f"{where}.alpha: the share of the second model, expected two models, "
                f"got {len(models)}",
                hint="name them: `weight: {"
                + ", ".join(f"{model}: 1" for model in models[:10])
                + "}`",
            )

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sums: `1 - alpha` and `alpha`, or the named weights over their sum."""
        rows = self._rows(setting.models, selection, where)
        made: dict[tuple[float, ...], Blend] = {}  # most units are made alike
        found = {}
        for unit, row in rows.items():
            key = tuple(row.values())
            if key not in made:
                made[key] = weighted_sum(row, self._total(row, unit, f"{where}.weight"))
            found[unit] = made[key]
        return found

    def _rows(self, models: Sequence[str], selection: Selection, where: str) -> Weights:
        """Return the weights before they are divided by their sum."""
        self._check(models, where)
        if self.weight is not None:
            return self._named(self.weight, models, selection, f"{where}.weight")
        if len(models) == 1:
            return {unit: {models[0]: 1.0} for unit in selection.wanted}
        first, second = models
        alpha = (self.alpha or self.EVEN).table(selection, f"{where}.alpha")
        return {unit: {first: 1.0 - alpha[unit], second: alpha[unit]} for unit in selection.wanted}

    def _named(
        self, weight: PerModel, models: Sequence[str], selection: Selection, where: str
    ) -> Weights:
        values = dict(weight.entries)
        tables = {
            model: values[model].table(selection, f"{where}.{model}")
            for model in models
            if model in values
        }
        result: Weights = {}
        for unit in selection.wanted:
            row = {model: tables[model][unit] if model in tables else 0.0 for model in models}
            result[unit] = row
        return result

    def _total(self, row: Mapping[str, float], unit: str, where: str) -> float:
        """Return what the weights of a unit are divided by."""
        if self.weight is None or not self.normalize:
            return 1.0
        try:
            total = math.fsum(row.values())
        except OverflowError:
            total = math.inf
        largest = max(abs(weight) for weight in row.values())
        if abs(total) <= _CANCELLED * largest:
            raise RecipeError(
                f"{where}: the weights of {quoted(unit)} cannot be normalised, "
                f"expected a sum other than 0, got {total:g}",
                hint="`method: {linear: {weight: ..., normalize: false}}` uses them as they are",
            )
        if not math.isfinite(total) or not all(math.isfinite(w / total) for w in row.values()):
            raise RecipeError(f"{where}: the weights of {quoted(unit)} are too large to normalise")
        return total


@dataclass(frozen=True, slots=True)
class Take(Method):
    """One model's bytes, unchanged; written `take: <model>`."""

    name: ClassVar[str] = "take"
    ops: ClassVar[tuple[str, ...]] = ("copy",)
    formula: ClassVar[str] = "X"

    model: str

    def check(self, setting: Setting, where: str) -> None:
        """Refuse an unknown name."""
        known(self.model, setting.models, f"{where}.take")

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the copy."""
        known(self.model, setting.models, f"{where}.take")
        return dict.fromkeys(selection.wanted, copied(self.model))


@dataclass(frozen=True, slots=True)
class Lerp(Method):
    """From the first model to the second along the straight line: `linear` by its other name."""

    name: ClassVar[str] = "lerp"
    ops: ClassVar[tuple[str, ...]] = ("linear",)
    formula: ClassVar[str] = "(1 - alpha) A + alpha B"
    source: ClassVar[str] = "linear interpolation; sd-mecha `weighted_sum`"
    equal: ClassVar[Equality] = {"numpy": EXACT, MECHA: CLOSE}

    alpha: Value = parameter("the share of the second model.", Number(0.5))

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models."""
        pair_of(setting, None, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sums with the weights `1 - alpha` and `alpha`."""
        first, second = pair_of(setting, None, where)
        alpha = self.alpha.table(selection, f"{where}.alpha")
        return {
            unit: weighted_sum({first: 1.0 - alpha[unit], second: alpha[unit]})
            for unit in selection.wanted
        }


@dataclass(frozen=True, slots=True)
class Three(Method):
    """A formula around `A + alpha (B - C)`."""

    alpha: Value = parameter("how much of the difference.", Number(1.0))
    to: str | None = parameter("the model added to; the recipe's first where nothing is said.")
    plus: str | None = parameter("the model whose difference is added; the second of those left.")
    minus: str | None = parameter("the model it is taken from; the recipe's `base`, else the last.")

    def check(self, setting: Setting, where: str) -> None:
        """Refuse unknown names, and less than three different models."""
        self.roles(setting, where)

    def roles(self, setting: Setting, where: str) -> tuple[str, str, str]:
        """Return `A`, `B` and `C`."""
        return roles(setting, (self.to, self.plus, self.minus), where)


@dataclass(frozen=True, slots=True)
class AddDifference(Three):
    """The first model plus what the second has learned on top of the third: `A + alpha (B - C)`.

    Computed as the weighted sum `1 A + alpha B - alpha C`, in the order of the models' names.
    """

    name: ClassVar[str] = "add_difference"
    ops: ClassVar[tuple[str, ...]] = ("linear",)
    formula: ClassVar[str] = "A + alpha (B - C)"
    source: ClassVar[str] = "AUTOMATIC1111's add difference; sd-mecha `add_difference`"
    equal: ClassVar[Equality] = {"numpy": EXACT, MECHA: CLOSE}

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return 1, `alpha` and `-alpha`."""
        to, plus, minus = self.roles(setting, where)
        alpha = self.alpha.table(selection, f"{where}.alpha")
        return {
            unit: weighted_sum(difference(to, plus, minus, alpha[unit]))
            for unit in selection.wanted
        }


def notes_on(weights: Mapping[str, Mapping[str, float]], where: str) -> list[str]:
    """Return what is allowed but unusual in weights: extrapolation, sums other than 1."""
    outside = [
        row for row in weights.values() if any(not 0.0 <= weight <= 1.0 for weight in row.values())
    ]
    sums = [math.fsum(row.values()) for row in weights.values()]
    scaled = [total for total in sums if abs(total - 1.0) > _UNITY]
    found = []
    if outside:
        low = min(min(row.values()) for row in outside)
        high = max(max(row.values()) for row in outside)
        found.append(
            f"{where}: shares from {low:g} to {high:g} in {counted(len(outside), 'unit')} "
            "lie outside 0..1: the result extrapolates beyond its parents"
        )
    if scaled:
        spread = (
            f"{min(scaled):g}"
            if min(scaled) == max(scaled)
            else f"{min(scaled):g} to {max(scaled):g}"
        )
        found.append(
            f"{where}: the weights of {counted(len(scaled), 'unit')} sum to {spread}, not 1"
        )
    return found
