"""Sums whose weights follow from the norms and angles of the models, unit by unit.

The core reads every unit once for the inner products, then adds it up. With `rowwise: true`
each row of a matrix has norms and angles of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from submerge.errors import RecipeError
from submerge.methods.base import (
    CLOSE,
    MECHA,
    MERGEKIT,
    Blend,
    Blends,
    Equality,
    Method,
    Setting,
    number_in_words,
    parameter,
    weighted_sum,
    weighted_words,
)
from submerge.methods.delta import BASE, LAMBDA, WEIGHT
from submerge.methods.parameters import base_of, deltas_of, pair_of, weights_of
from submerge.values import Number, PerModel, Selection, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NormLerp", "NormLimit", "NuSlerp", "Orthogonal", "Polar", "Slerp", "combined"]

PRODUCTS = "inner products of the models, f64"
OPS = ("combine", "rows")
ROWWISE = "norms and angles for each row of a matrix instead of one for the unit."
_ALPHA = "the share of the second model."
OWN_BASE = "the model deltas are taken from; the recipe's, and none where it has none."
EQUAL = {"numpy": CLOSE, MERGEKIT: CLOSE}


def combined(
    given: tuple[str, Mapping[str, Any]],
    base: str | None,
    shares: Mapping[str, float],
    words: str,
    *,
    rowwise: bool,
) -> Blend:
    """Return the blend of the models of `shares`, in that order, after the base."""
    name, arguments = given
    return Blend(
        op="rows" if rowwise else "combine",
        arguments={name: dict(arguments)},
        models=(*shares,) if base is None else (base, *shares),
        words=words + (", row by row" if rowwise else ""),
        base=base,
        shares=shares,
    )


@dataclass(frozen=True, slots=True)
class _Pair(Method):
    """A way from the first model to the second."""

    ops: ClassVar[tuple[str, ...]] = OPS
    passes: ClassVar[int] = 2
    state: ClassVar[str] = PRODUCTS

    alpha: Value = parameter(_ALPHA, Number(0.5))
    rowwise: bool = parameter(ROWWISE, default=False)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models."""
        pair_of(setting, self._base(setting, where), where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the way's point at `alpha`; its ends are the models themselves."""
        base = self._base(setting, where)
        first, second = pair_of(setting, base, where)
        alphas = self.alpha.table(selection, f"{where}.alpha")
        on = f" on {base}" if base else ""

        def at(alpha: float) -> Blend:
            shares = {first: 1.0 - alpha, second: alpha}
            if alpha in (0.0, 1.0):
                return weighted_sum(shares)
            words = f"{self.name} from {first} to {second} at {number_in_words(alpha)}{on}"
            given = (self.name, self._arguments(alpha, base))
            return combined(given, base, shares, words, rowwise=self.rowwise)

        return {unit: at(alphas[unit]) for unit in selection.wanted}

    def _base(self, setting: Setting, where: str) -> str | None:
        """Return the model that is no end of the way, but where it is seen from."""
        del setting, where
        return None

    def _arguments(self, alpha: float, base: str | None) -> dict[str, Any]:
        del base
        return {"alpha": alpha}


@dataclass(frozen=True, slots=True)
class Slerp(_Pair):
    """From the first model to the second along the great circle instead of the straight line.

    Where the cosine of the two is above 0.9995, or below -0.9995, it is the straight line, as in
    mergekit: the report names these units. Models fine-tuned from one base mostly are that near.
    """

    name: ClassVar[str] = "slerp"
    formula: ClassVar[str] = (
        "sin((1 - alpha) theta) / sin(theta) A + sin(alpha theta) / sin(theta) B"
    )
    source: ClassVar[str] = f"Shoemake 1985; {MERGEKIT}"
    equal: ClassVar[Equality] = EQUAL


@dataclass(frozen=True, slots=True)
class NormLerp(_Pair):
    """The straight line, brought to the norm it should have on the way."""

    name: ClassVar[str] = "norm_lerp"
    formula: ClassVar[str] = "L ((1 - alpha) |A| + alpha |B|) / |L|, L = (1 - alpha) A + alpha B"
    source: ClassVar[str] = "magnitude-preserving interpolation, sd-mecha"
    equal: ClassVar[Equality] = {"numpy": CLOSE}


@dataclass(frozen=True, slots=True)
class NuSlerp(_Pair):
    """Slerp with a finer rule for near directions; with a base, of what was learned on it."""

    name: ClassVar[str] = "nuslerp"
    formula: ClassVar[str] = "slerp(dA, dB; alpha) + C"
    source: ClassVar[str] = MERGEKIT
    equal: ClassVar[Equality] = EQUAL

    base: str | None = parameter(OWN_BASE)

    def _base(self, setting: Setting, where: str) -> str | None:
        given = self.base or setting.base
        return None if given is None else base_of(given, setting, where)

    def _arguments(self, alpha: float, base: str | None) -> dict[str, Any]:
        return {"weights": [1.0 - alpha, alpha], "base": base is not None}


@dataclass(frozen=True, slots=True)
class Orthogonal(Method):
    """The first model plus that part of the second's delta that is new to it."""

    name: ClassVar[str] = "orthogonal"
    ops: ClassVar[tuple[str, ...]] = OPS
    formula: ClassVar[str] = "A + alpha (dB - dA <dA, dB> / |dA|^2)"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = PRODUCTS
    source: ClassVar[str] = "sd-mecha `perpendicular_component`"
    equal: ClassVar[Equality] = {"numpy": CLOSE, MECHA: CLOSE}

    alpha: Value = parameter("how much of that part.", Number(1.0))
    base: str | None = parameter(BASE)
    rowwise: bool = parameter(ROWWISE, default=False)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, and other than two models beside it."""
        pair_of(setting, base_of(self.base, setting, where), where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sum for every unit; where `alpha` is 0 the first model."""
        base = base_of(self.base, setting, where)
        first, second = pair_of(setting, base, where)
        alphas = self.alpha.table(selection, f"{where}.alpha")

        def at(alpha: float) -> Blend:
            if alpha == 0:
                return weighted_sum({first: 1.0})
            words = f"{first} + {number_in_words(alpha)} * what is new in {second} on {base}"
            given = (self.name, {"alpha": alpha, "base": True})
            shares = {first: 1.0, second: alpha}
            return combined(given, base, shares, words, rowwise=self.rowwise)

        return {unit: at(alphas[unit]) for unit in selection.wanted}


@dataclass(frozen=True, slots=True)
class Polar(Method):
    """Direction and norm apart: each from anywhere between the first model and the second."""

    name: ClassVar[str] = "polar"
    ops: ClassVar[tuple[str, ...]] = OPS
    formula: ClassVar[str] = (
        "D ((1 - norm) |A| + norm |B|) / |D|, D = (1 - direction) A / |A| + direction B / |B|"
    )
    passes: ClassVar[int] = 2
    state: ClassVar[str] = PRODUCTS
    source: ClassVar[str] = "NORM of Chattiori-Model-Merger, with two shares"
    equal: ClassVar[Equality] = {"numpy": CLOSE}

    direction: Value = parameter("the second model's share of the direction.", Number(0.5))
    norm: Value = parameter("the second model's share of the norm.", Number(0.5))
    rowwise: bool = parameter(ROWWISE, default=False)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models."""
        pair_of(setting, None, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the formula for every unit; both from one model are the model itself."""
        first, second = pair_of(setting, None, where)
        directions = self.direction.table(selection, f"{where}.direction")
        norms = self.norm.table(selection, f"{where}.norm")

        def at(direction: float, norm: float) -> Blend:
            shares = {first: 1.0 - direction, second: direction}
            if direction == norm and direction in (0.0, 1.0):
                return weighted_sum(shares)
            words = (
                f"polar from {first} to {second}: direction at {number_in_words(direction)}, "
                f"norm at {number_in_words(norm)}"
            )
            given = (self.name, {"direction": direction, "norm": norm})
            return combined(given, None, shares, words, rowwise=self.rowwise)

        return {unit: at(directions[unit], norms[unit]) for unit in selection.wanted}


@dataclass(frozen=True, slots=True)
class NormLimit(Method):
    """A sum of deltas that takes the result so far from the base and no further."""

    name: ClassVar[str] = "norm_limit"
    ops: ClassVar[tuple[str, ...]] = OPS
    formula: ClassVar[str] = "C + D min(1, limit |C| / |D|), D = lambda sum_i w_i d_i"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = PRODUCTS
    source: ClassVar[str] = "norm clipping (Pascanu et al. 2013, arXiv 1211.5063) of a task vector"
    equal: ClassVar[Equality] = {"numpy": CLOSE}

    weight: PerModel | None = parameter(WEIGHT)
    lambda_: Value = parameter(LAMBDA, Number(1.0))
    limit: Value = parameter("the longest way, as a share of the base's norm.", Number(0.1))
    base: str | None = parameter(BASE)
    rowwise: bool = parameter(ROWWISE, default=False)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, unknown names, a weight of the base."""
        deltas_of(setting, self.weight, [base_of(self.base, setting, where)], where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sum for every unit; where nothing may be added it is the base."""
        base = base_of(self.base, setting, where)
        models = deltas_of(setting, self.weight, [base], where)
        weights = weights_of(self.weight, models, selection, where)
        scales = self.lambda_.table(selection, f"{where}.lambda")
        limits = self.limit.table(selection, f"{where}.limit")

        def at(unit: str) -> Blend:
            row = {model: weights[model][unit] for model in models if weights[model][unit]}
            scale, limit = scales[unit], limits[unit]
            if limit < 0:
                raise RecipeError(f"{where}.limit: {limit:g}, expected at least 0")
            if not row or scale == 0 or limit == 0:
                return weighted_sum({base: 1.0})
            factor = "" if scale == 1 else f"{number_in_words(scale)} * "
            words = (
                f"{base} + {factor}({weighted_words(row)}), at most {number_in_words(limit)} away"
            )
            given = {"weights": list(row.values()), "lambda": scale, "limit": limit}
            shares = {model: scale * weight for model, weight in row.items()}
            return combined((self.name, given), base, shares, words, rowwise=self.rowwise)

        return {unit: at(unit) for unit in selection.wanted}
