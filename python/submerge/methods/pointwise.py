"""Formulas on single elements: nothing is read twice, nothing is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from submerge.errors import RecipeError
from submerge.given import Count
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
    number_in_words,
    parameter,
    weighted_sum,
    weighted_words,
)
from submerge.methods.delta import BASE, LAMBDA, WEIGHT
from submerge.methods.parameters import base_of, deltas_of, pair_of, weights_of
from submerge.methods.weighted import Three
from submerge.values import Number, PerModel, Selection, Value

__all__ = [
    "AddOpposite",
    "AddStrictOpposite",
    "Clamp",
    "ConsensusMask",
    "NearSwap",
    "Ram",
    "RamplusTl",
    "SmoothAdd",
    "TrainDifference",
]

_OPS = ("pointwise",)


@dataclass(frozen=True, slots=True)
class NearSwap(Method):
    """The second model's element where it is near the first's, else the first's moved by `t`."""

    name: ClassVar[str] = "nearswap"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = "(1 - w) A + w B, w = min(1, t / |A - B|)"
    source: ClassVar[str] = f"alchemonaut's QuartetAnemoi-70B-t0.0001; {MERGEKIT}"
    equal: ClassVar[Equality] = {"numpy": EXACT, MERGEKIT: EXACT}

    t: Value = parameter("the distance.", Number(0.0001))

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models."""
        pair_of(setting, None, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the formula for every unit; at a distance of 0 it is the first model."""
        first, second = pair_of(setting, None, where)
        ts = self.t.table(selection, f"{where}.t")

        def at(t: float) -> Blend:
            if t < 0:
                raise RecipeError(f"{where}.t: {t:g}, expected a distance of at least 0")
            if t == 0:
                return weighted_sum({first: 1.0})
            return Blend(
                op="pointwise",
                arguments={self.name: {"t": t}},
                models=(first, second),
                words=f"{first}, {second} where it is within {number_in_words(t)}",
                shares={first: 1.0},
            )

        return {unit: at(ts[unit]) for unit in selection.wanted}


@dataclass(frozen=True, slots=True)
class Ram(Method):
    """What one model alone changed stays whole; what several changed is averaged."""

    name: ClassVar[str] = "ram"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = "C + mean of the d_i with |d_i| > epsilon"
    source: ClassVar[str] = f"Reinforced Agent Merging (arXiv 2601.13572); {MERGEKIT}"
    equal: ClassVar[Equality] = {"numpy": EXACT, MERGEKIT: EXACT}

    epsilon: float = parameter("a difference up to this counts as none.", 1e-5)
    base: str | None = parameter(BASE)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, a recipe without another model, numbers below 0."""
        deltas_of(setting, None, [base_of(self.base, setting, where)], where)
        for name, value in self._arguments().items():
            if value < 0:
                raise RecipeError(f"{where}.{name}: {value:g}, expected at least 0")

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the same for every unit."""
        base = base_of(self.base, setting, where)
        models = deltas_of(setting, None, [base], where)
        (op,) = self.ops
        blend = Blend(
            op=op,
            arguments={self.name: self._arguments()},
            models=(base, *models),
            words=f"{base} + {self.name}({' + '.join(models)})",
            base=base,
            shares=dict.fromkeys(models, 1.0 / len(models)),
        )
        return dict.fromkeys(selection.wanted, blend)

    def _arguments(self) -> dict[str, float]:
        return {"epsilon": self.epsilon}


@dataclass(frozen=True, slots=True)
class RamplusTl(Ram):
    """RAM, where what one model alone changed is enlarged by how much it shares with others."""

    name: ClassVar[str] = "ramplus_tl"
    ops: ClassVar[tuple[str, ...]] = ("adaptive",)
    formula: ClassVar[str] = (
        "C + mean of the d_i with |d_i| > epsilon, times 1 + r min(shared_i / alone_i, alpha) "
        "where there is one"
    )
    passes: ClassVar[int] = 2
    state: ClassVar[str] = "two counts for each model"

    r: float = parameter("how much is added for each time shared elements outnumber the own.", 0.1)
    alpha: float = parameter("the largest such number that counts.", 0.2)

    def _arguments(self) -> dict[str, float]:
        return {"r": self.r, "alpha": self.alpha, "epsilon": self.epsilon}


@dataclass(frozen=True, slots=True)
class _Formula(Three):
    """A formula of three models, `A`, `B` and `C`."""

    ops: ClassVar[tuple[str, ...]] = _OPS

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the formula for every unit; where `alpha` is 0 it is the first model."""
        to, plus, minus = self.roles(setting, where)
        alphas = self.alpha.table(selection, f"{where}.alpha")
        (op,) = self.ops

        def at(alpha: float) -> Blend:
            if alpha == 0:
                return weighted_sum({to: 1.0})
            return Blend(
                op=op,
                arguments=self._arguments(alpha),
                models=(to, plus, minus),
                words=f"{self.name}({to} + {number_in_words(alpha)} * ({plus} - {minus}))",
                shares={to: 1.0},
            )

        return {unit: at(alphas[unit]) for unit in selection.wanted}

    def _arguments(self, alpha: float) -> dict[str, Any]:
        return {self.name: {"alpha": alpha}}


@dataclass(frozen=True, slots=True)
class TrainDifference(_Formula):
    """The second model's difference to the third, weakened where the first has moved already."""

    name: ClassVar[str] = "train_difference"
    formula: ClassVar[str] = "A + 1.8 alpha (B - C) |B - A| / (|B - C| + |B - A|)"
    source: ClassVar[str] = "sd-webui-supermerger"
    equal: ClassVar[Equality] = {"numpy": EXACT, MECHA: CLOSE}


@dataclass(frozen=True, slots=True)
class AddOpposite(_Formula):
    """The second model's difference to the third, the more the first's points the other way."""

    name: ClassVar[str] = "add_opposite"
    formula: ClassVar[str] = "A + 2 alpha (B - C) |A - B| / (|A - B| + |A + B - 2 C|)"
    source: ClassVar[str] = "sd-mecha `add_opposite_mask`"
    equal: ClassVar[Equality] = {"numpy": EXACT, MECHA: CLOSE}


@dataclass(frozen=True, slots=True)
class AddStrictOpposite(_Formula):
    """The second model's difference to the third, only where the first's points the other way."""

    name: ClassVar[str] = "add_strict_opposite"
    formula: ClassVar[str] = "A + 2 alpha (B - C) max(0, (C - A) (B - C) / max(|A - C|, |B - C|)^2)"
    source: ClassVar[str] = "sd-mecha `add_strict_opposite_mask`"
    equal: ClassVar[Equality] = {"numpy": EXACT, MECHA: CLOSE}


@dataclass(frozen=True, slots=True)
class Clamp(_Formula):
    """An added difference that leaves no element beyond the two models it lies between."""

    name: ClassVar[str] = "clamp"
    formula: ClassVar[str] = "min(max(A + alpha (B - C), min(A, B)), max(A, B))"
    source: ClassVar[str] = "sd-mecha `clamp` of `add_difference`"
    equal: ClassVar[Equality] = {"numpy": EXACT, MECHA: CLOSE}

    def _arguments(self, alpha: float) -> dict[str, Any]:
        return {"clamp": {"weights": [1.0, alpha, -alpha], "bounds": [True, True, False]}}


@dataclass(frozen=True, slots=True)
class SmoothAdd(_Formula):
    """An added difference without its noise: the median of neighbours, then a Gaussian blur."""

    name: ClassVar[str] = "smooth_add"
    ops: ClassVar[tuple[str, ...]] = ("smooth",)
    formula: ClassVar[str] = "A + alpha gauss(median_3(B - C))"
    state: ClassVar[str] = "five rows above and below those in work"
    source: ClassVar[str] = "smoothAdd of sd-webui-supermerger"
    equal: ClassVar[Equality] = {"numpy": CLOSE, "scipy 1.17.1": CLOSE}

    def _arguments(self, alpha: float) -> dict[str, Any]:
        return {"alpha": alpha}


@dataclass(frozen=True, slots=True)
class ConsensusMask(Method):
    """A sum of deltas, of which those elements stay that enough models need.

    A model needs an element if its delta there exceeds `tolerance` times that of all others
    together.
    """

    name: ClassVar[str] = "consensus_mask"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = (
        "C + lambda sum_i w_i d_i [#{|d_i| > tolerance |sum d - d_i|} >= agree]"
    )
    source: ClassVar[str] = "Wang et al. 2024, TALL masks (arXiv 2405.07813)"

    weight: PerModel | None = parameter(WEIGHT)
    lambda_: Value = parameter(LAMBDA, Number(1.0))
    tolerance: Value = parameter(
        "how large the others may be beside a model that still needs the element.", Number(0.4)
    )
    agree: Count = parameter("how many models must need it.", 2)
    base: str | None = parameter(BASE)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, unknown names, a weight of the base."""
        deltas_of(setting, self.weight, [base_of(self.base, setting, where)], where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sum for every unit; where `lambda` is 0 it is the base."""
        base = base_of(self.base, setting, where)
        models = deltas_of(setting, self.weight, [base], where)
        weights = weights_of(self.weight, models, selection, where)
        scales = self.lambda_.table(selection, f"{where}.lambda")
        tolerances = self.tolerance.table(selection, f"{where}.tolerance")

        def at(unit: str) -> Blend:
            scale, tolerance = scales[unit], tolerances[unit]
            # A model of weight 0 still votes.
            row = {model: weights[model][unit] for model in models}
            if scale == 0 or not any(row.values()):
                return weighted_sum({base: 1.0})
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
