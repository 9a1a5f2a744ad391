"""Formulas on single elements with numbers that follow from the whole unit: how far, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from submerge.errors import RecipeError, quoted
from submerge.methods.base import (
    AWAY_FROM_THRESHOLD,
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
)
from submerge.methods.delta import BASE
from submerge.methods.parameters import base_of, deltas_of, pair_of
from submerge.values import Number, Selection, Value

__all__ = ["AddCosineA", "AddCosineB", "ArceeFusion", "Sce"]

_OPS = ("adaptive",)


@dataclass(frozen=True, slots=True)
class Sce(Method):
    """The elements models differ in most, weighted by how far each model has moved.

    Signs are elected as in TIES. mergekit takes squares that sum to less than 1e-6, as those of
    fine-tuned models often do, for equal ones; `compat: mergekit` does too.
    """

    name: ClassVar[str] = "sce"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = (
        "C + sum_i w_i d_i [agrees] / sum_i w_i [agrees], w_i = |d_i|^2 / sum_j |d_j|^2"
    )
    passes: ClassVar[int] = 8
    state: ClassVar[str] = "counts of variances, exact thresholds; a sum for each model"
    source: ClassVar[str] = f"Wan et al. 2024, FuseChat (arXiv 2408.07990); {MERGEKIT}"
    equal: ClassVar[Equality] = {"numpy": CLOSE, MERGEKIT: CLOSE}

    select_topk: Value = parameter(
        "the share of the elements models differ in that is selected, largest variances first.",
        Number(1.0),
    )
    base: str | None = parameter(BASE)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, and a recipe without another model."""
        deltas_of(setting, None, [base_of(self.base, setting, where)], where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the formula for every unit; where nothing is selected it is the base."""
        base = base_of(self.base, setting, where)
        models = deltas_of(setting, None, [base], where)
        shares = self.select_topk.table(selection, f"{where}.select_topk")

        def at(unit: str) -> Blend:
            share = shares[unit]
            if not 0 <= share <= 1:
                raise RecipeError(
                    f"{where}.select_topk: {share:g} in {quoted(unit)}, expected a share from 0 "
                    "to 1"
                )
            if share == 0:
                return weighted_sum({base: 1.0})
            said = "" if share == 1 else f"; the {number_in_words(share)} that differ most"
            return Blend(
                op="adaptive",
                arguments={self.name: {"select_topk": share, "floor": setting.floor}},
                models=(base, *models),
                words=f"{base} + sce({' + '.join(models)}{said})",
                base=base,
                shares=dict.fromkeys(models, 1.0 / len(models)),
            )

        return {unit: at(unit) for unit in selection.wanted}


@dataclass(frozen=True, slots=True)
class ArceeFusion(Method):
    """The first model, and the second where it matters most.

    An element matters by its difference times the divergence of its row. The quartiles of all
    these are exact here; mergekit estimates them from a random million.
    """

    name: ClassVar[str] = "arcee_fusion"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = (
        "A + (B - A) [g >= median g + 1.5 (Q3 g - Q1 g)], "
        "g = |B - A| KL(softmax(row B), softmax(row A))"
    )
    passes: ClassVar[int] = 6
    state: ClassVar[str] = "a number for each row; counts of magnitudes, exact thresholds"
    source: ClassVar[str] = MERGEKIT
    equal: ClassVar[Equality] = {
        "numpy": AWAY_FROM_THRESHOLD,
        MERGEKIT: AWAY_FROM_THRESHOLD + ", up to 1,000,000 elements",
    }

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models."""
        pair_of(setting, None, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the same for every unit."""
        first, second = pair_of(setting, None, where)
        blend = Blend(
            op="adaptive",
            arguments={self.name: {}},
            models=(first, second),
            words=f"{first}, {second} where it matters most",
            shares={first: 1.0},
        )
        return dict.fromkeys(selection.wanted, blend)


@dataclass(frozen=True, slots=True)
class AddCosineA(Method):
    """The second model, and the first where their columns agree."""

    name: ClassVar[str] = "add_cosine_a"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = "(1 - k) A + k B, k = 1 - clip(cos(column) - alpha, 0, 1)"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = "three sums for each column, f64"
    source: ClassVar[str] = "sd-mecha, after cosineA and cosineB of sd-webui-supermerger"
    equal: ClassVar[Equality] = {"numpy": CLOSE, MECHA: CLOSE}
    WHOLE: ClassVar[bool] = False

    alpha: Value = parameter("the cosine up to which the second model is taken whole.", Number(1.0))

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models."""
        pair_of(setting, None, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the formula for every unit; from an `alpha` of 1 on it is the second model."""
        first, second = pair_of(setting, None, where)
        alphas = self.alpha.table(selection, f"{where}.alpha")

        def at(alpha: float) -> Blend:
            if alpha >= 1:
                return weighted_sum({second: 1.0})
            return Blend(
                op="adaptive",
                arguments={"cosine": {"alpha": alpha, "whole": self.WHOLE}},
                models=(first, second),
                words=f"{self.name} of {first} and {second} at {number_in_words(alpha)}",
                shares={second: 1.0},
            )

        return {unit: at(alphas[unit]) for unit in selection.wanted}


@dataclass(frozen=True, slots=True)
class AddCosineB(AddCosineA):
    """The second model, and the first where columns agree, and units as a whole."""

    name: ClassVar[str] = "add_cosine_b"
    formula: ClassVar[str] = (
        "(1 - k) A + k B, k = 1 - clip((cos(column) + cos(unit)) / 2 - alpha, 0, 1)"
    )
    WHOLE: ClassVar[bool] = True
