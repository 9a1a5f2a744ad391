"""Formulas on single elements: nothing is read twice, nothing is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from submerge.errors import RecipeError
from submerge.methods.base import Blend, Method, Mixtures, Setting, number_in_words, weighted_words
from submerge.methods.parameters import base_of, deltas_of, pair_of, roles, weights_of
from submerge.values import Number, PerModel, Selection, Value

__all__ = ["Clamp", "ConsensusMask", "NearSwap", "Ram", "TrainDifference"]

_OPS = ("pointwise",)


@dataclass(frozen=True, slots=True)
class NearSwap(Method):
    """The second model's element where it is near the first's, else the first's moved by `t`.

    Attributes:
        t: the distance.
    """

    name: ClassVar[str] = "nearswap"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = "(1 - w) A + w B, w = min(1, t / |A - B|)"
    source: ClassVar[str] = "alchemonaut's QuartetAnemoi-70B-t0.0001; mergekit 0.1.5"

    t: Value = Number(0.0001)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models."""
        pair_of(setting, None, where)

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the formula for every unit; at a distance of 0 it is the first model."""
        first, second = pair_of(setting, None, where)
        reach = self.t.table(selection, f"{where}.t")

        def at(t: float) -> Blend | dict[str, float]:
            if t < 0:
                raise RecipeError(f"{where}.t: {t:g}, expected a distance of at least 0")
            if t == 0:
                return {first: 1.0}
            return Blend(
                op="pointwise",
                arguments={self.name: {"t": t}},
                models=(first, second),
                words=f"{first}, {second} where it is within {number_in_words(t)}",
                shares={first: 1.0},
            )

        return {unit: at(reach[unit]) for unit in selection.wanted}


@dataclass(frozen=True, slots=True)
class Ram(Method):
    """What one model alone changed stays whole; what several changed is averaged.

    Attributes:
        epsilon: a difference up to this counts as none.
        base: the model deltas are taken from; the recipe's where nothing is said.
    """

    name: ClassVar[str] = "ram"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = "C + mean of the d_i with |d_i| > epsilon"
    source: ClassVar[str] = "Reinforced Agent Merging (arXiv 2601.13572); mergekit 0.1.5"

    epsilon: float = 1e-5
    base: str | None = None

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, and a recipe without another model."""
        deltas_of(setting, None, [base_of(self.base, setting, where)], where)
        if self.epsilon < 0:
            raise RecipeError(f"{where}.epsilon: {self.epsilon:g}, expected at least 0")

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the same for every unit."""
        base = base_of(self.base, setting, where)
        models = deltas_of(setting, None, [base], where)
        blend = Blend(
            op="pointwise",
            arguments={self.name: {"epsilon": self.epsilon}},
            models=(base, *models),
            words=f"{base} + ram({' + '.join(models)})",
            base=base,
            shares=dict.fromkeys(models, 1.0 / len(models)),
        )
        return dict.fromkeys(selection.wanted, blend)


@dataclass(frozen=True, slots=True)
class _Three(Method):
    """A formula of three models, `A`, `B` and `C`."""

    ops: ClassVar[tuple[str, ...]] = _OPS

    alpha: Value = Number(1.0)
    to: str | None = None
    plus: str | None = None
    minus: str | None = None

    def check(self, setting: Setting, where: str) -> None:
        """Refuse unknown names, and less than three different models."""
        roles(setting, (self.to, self.plus, self.minus), where)

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the formula for every unit; where `alpha` is 0 it is the first model."""
        to, plus, minus = roles(setting, (self.to, self.plus, self.minus), where)
        shares = self.alpha.table(selection, f"{where}.alpha")

        def at(share: float) -> Blend | dict[str, float]:
            if share == 0:
                return {to: 1.0}
            return Blend(
                op="pointwise",
                arguments=self._arguments(share),
                models=(to, plus, minus),
                words=f"{self.name}({to} + {number_in_words(share)} * ({plus} - {minus}))",
                shares={to: 1.0},
            )

        return {unit: at(shares[unit]) for unit in selection.wanted}

    def _arguments(self, share: float) -> dict[str, dict[str, object]]:
        return {self.name: {"alpha": share}}


@dataclass(frozen=True, slots=True)
class TrainDifference(_Three):
    """The second model's difference to the third, weakened where the first has moved already.

    Attributes:
        alpha: the strength.
        to: the model added to; the recipe's first where nothing is said.
        plus: the model whose difference is added; the second of those left.
        minus: the model it is taken from; the recipe's `base`, else the last.
    """

    name: ClassVar[str] = "train_difference"
    formula: ClassVar[str] = "A + 1.8 alpha (B - C) |B - A| / (|B - C| + |B - A|)"
    source: ClassVar[str] = "sd-webui-supermerger"


@dataclass(frozen=True, slots=True)
class Clamp(_Three):
    """An added difference that leaves no element beyond the two models it lies between.

    Attributes:
        alpha: how much of the difference.
        to: the model added to; the recipe's first where nothing is said.
        plus: the model whose difference is added; the second of those left.
        minus: the model it is taken from; the recipe's `base`, else the last.
    """

    name: ClassVar[str] = "clamp"
    formula: ClassVar[str] = "min(max(A + alpha (B - C), min(A, B)), max(A, B))"
    source: ClassVar[str] = "sd-mecha `clamp` of `add_difference`"

    def _arguments(self, share: float) -> dict[str, dict[str, object]]:
        return {"clamp": {"weights": [1.0, share, -share], "bounds": [True, True, False]}}


@dataclass(frozen=True, slots=True)
class ConsensusMask(Method):
    """A sum of deltas, of which those elements stay that enough models need.

    A model needs an element if its delta there exceeds `tolerance` times that of all others
    together.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        lambda_: what the whole sum is multiplied by.
        tolerance: how large the others may be beside a model that still needs the element.
        agree: how many models must need it.
        base: the model deltas are taken from; the recipe's where nothing is said.
    """

    name: ClassVar[str] = "consensus_mask"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = (
        "C + lambda sum_i w_i d_i [#{|d_i| > tolerance |sum d - d_i|} >= agree]"
    )
    source: ClassVar[str] = "Wang et al. 2024, TALL masks (arXiv 2405.07813)"

    weight: PerModel | None = None
    lambda_: Value = Number(1.0)
    tolerance: Value = Number(0.4)
    agree: int = 2
    base: str | None = None

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, unknown names, a weight of the base."""
        deltas_of(setting, self.weight, [base_of(self.base, setting, where)], where)

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the sum for every unit; where `lambda` is 0 it is the base."""
        base = base_of(self.base, setting, where)
        models = deltas_of(setting, self.weight, [base], where)
        weights = weights_of(self.weight, models, selection, where)
        scales = self.lambda_.table(selection, f"{where}.lambda")
        tolerances = self.tolerance.table(selection, f"{where}.tolerance")

        def at(unit: str) -> Blend | dict[str, float]:
            scale, tolerance = scales[unit], tolerances[unit]
            # A model of weight 0 still votes.
            row = {model: weights[model][unit] for model in models}
            if scale == 0 or not any(row.values()):
                return {base: 1.0}
            given = {"weights": list(row.values()), "lambda": scale}
            factor = "" if scale == 1 else f"{number_in_words(scale)} * "
            said = f"{weighted_words(row)}; tolerance {number_in_words(tolerance)}"
            return Blend(
                op="pointwise",
                arguments={self.name: {**given, "tolerance": tolerance, "agree": self.agree}},
                models=(base, *models),
                words=f"{base} + {factor}consensus_mask({said}, {self.agree} agree)",
                base=base,
                shares={model: scale * weight for model, weight in row.items()},
            )

        return {unit: at(unit) for unit in selection.wanted}
