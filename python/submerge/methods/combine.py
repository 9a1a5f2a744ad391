"""Sums whose weights follow from the norms and angles of the models, unit by unit.

The core looks at every unit once for the inner products, then adds it up. With `rowwise: true`
each row of a matrix has norms and angles of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from submerge.errors import RecipeError
from submerge.methods.base import Blend, Method, Mixtures, Setting, number_in_words, weighted_words
from submerge.methods.parameters import base_of, deltas_of, pair_of, weights_of
from submerge.values import Number, PerModel, Selection, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "GeometricMedian",
    "Karcher",
    "ModelStock",
    "MultiSlerp",
    "NormLerp",
    "NuSlerp",
    "Orthogonal",
    "Slerp",
]

_PRODUCTS = "inner products of the models, f64"
_MERGEKIT = "mergekit 0.1.5"
_OPS = ("combine", "rows")


def _blend(
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

    ops: ClassVar[tuple[str, ...]] = _OPS
    passes: ClassVar[int] = 2
    state: ClassVar[str] = _PRODUCTS

    alpha: Value = Number(0.5)
    rowwise: bool = False

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models."""
        pair_of(setting, None, where)

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the way's point at `alpha`; its ends are the models themselves."""
        first, second = pair_of(setting, None, where)
        shares = self.alpha.table(selection, f"{where}.alpha")

        def at(share: float) -> Blend | dict[str, float]:
            both = {first: 1.0 - share, second: share}
            if share in (0.0, 1.0):
                return both
            words = f"{self.name} from {first} to {second} at {number_in_words(share)}"
            return _blend((self.name, {"t": share}), None, both, words, rowwise=self.rowwise)

        return {unit: at(shares[unit]) for unit in selection.wanted}


@dataclass(frozen=True, slots=True)
class Slerp(_Pair):
    """From the first model to the second along the great circle instead of the straight line.

    Attributes:
        alpha: the share of the second model; mergekit's `t`, with its base as the first model.
        rowwise: norms and angles for each row of a matrix instead of one for the unit.
    """

    name: ClassVar[str] = "slerp"
    formula: ClassVar[str] = (
        "sin((1 - alpha) theta) / sin(theta) A + sin(alpha theta) / sin(theta) B"
    )
    source: ClassVar[str] = f"Shoemake 1985; {_MERGEKIT}"


@dataclass(frozen=True, slots=True)
class NormLerp(_Pair):
    """The straight line, brought to the norm it should have on the way.

    Attributes:
        alpha: the share of the second model.
        rowwise: norms and angles for each row of a matrix instead of one for the unit.
    """

    name: ClassVar[str] = "norm_lerp"
    formula: ClassVar[str] = "L ((1 - alpha) |A| + alpha |B|) / |L|, L = (1 - alpha) A + alpha B"
    source: ClassVar[str] = "magnitude-preserving interpolation, sd-mecha"


@dataclass(frozen=True, slots=True)
class NuSlerp(Method):
    """Slerp with a finer rule for near directions; with a base, of what was learned on top of it.

    Attributes:
        alpha: the share of the second model; mergekit's `w_2 / (w_1 + w_2)`.
        base: the model deltas are taken from; the recipe's, and none where it has none.
        rowwise: norms and angles for each row of a matrix instead of one for the unit.
    """

    name: ClassVar[str] = "nuslerp"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = "slerp(dA, dB; alpha) + C"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = _PRODUCTS
    source: ClassVar[str] = _MERGEKIT

    alpha: Value = Number(0.5)
    base: str | None = None
    rowwise: bool = False

    def check(self, setting: Setting, where: str) -> None:
        """Refuse other than two models beside the base."""
        pair_of(setting, self._base(setting, where), where)

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the point at `alpha`; the ends are the models themselves."""
        base = self._base(setting, where)
        first, second = pair_of(setting, base, where)
        shares = self.alpha.table(selection, f"{where}.alpha")
        on = f" on {base}" if base else ""

        def at(share: float) -> Blend | dict[str, float]:
            both = {first: 1.0 - share, second: share}
            if share in (0.0, 1.0):
                return both
            given = {"weights": list(both.values()), "base": base is not None}
            words = f"nuslerp from {first} to {second} at {number_in_words(share)}{on}"
            return _blend((self.name, given), base, both, words, rowwise=self.rowwise)

        return {unit: at(shares[unit]) for unit in selection.wanted}

    def _base(self, setting: Setting, where: str) -> str | None:
        given = self.base or setting.base
        return None if given is None else base_of(given, setting, where)


@dataclass(frozen=True, slots=True)
class MultiSlerp(Method):
    """The mean direction of any number of models, at their mean norm.

    Attributes:
        weight: a number for each model by name; 1 where none are given.
        normalize: divide the weights by their sum; mergekit's `normalize_weights`.
        eps: below this a norm counts as nothing.
        base: the model deltas are taken from; the recipe's, and none where it has none.
        rowwise: norms and angles for each row of a matrix instead of one for the unit.
    """

    name: ClassVar[str] = "multislerp"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = "M / |M| sum_i w_i |X_i|, M = sum_i w_i X_i / |X_i|"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = _PRODUCTS
    source: ClassVar[str] = _MERGEKIT

    weight: PerModel | None = None
    normalize: bool = True
    eps: float = 1e-8
    base: str | None = None
    rowwise: bool = False

    def check(self, setting: Setting, where: str) -> None:
        """Refuse unknown names, and fewer than two models."""
        self._models(setting, where)

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the mean with every unit's weights; models of weight 0 are left out."""
        base, models = self._models(setting, where)
        weights = weights_of(self.weight, models, selection, where)
        found: dict[str, Blend | dict[str, float]] = {}
        for unit in selection.wanted:
            row = {model: weights[model][unit] for model in models if weights[model][unit]}
            found[unit] = self._blend(row, base, where)
        return found

    def _blend(
        self, row: Mapping[str, float], base: str | None, where: str
    ) -> Blend | dict[str, float]:
        if len(row) < 2:
            raise RecipeError(f"{where}.weight: expected two models with a weight, got {len(row)}")
        arguments = {
            "weights": list(row.values()),
            "normalize": self.normalize,
            "eps": self.eps,
            "base": base is not None,
        }
        words = f"multislerp of {weighted_words(row)}" + (f" on {base}" if base else "")
        return _blend((self.name, arguments), base, row, words, rowwise=self.rowwise)

    def _models(self, setting: Setting, where: str) -> tuple[str | None, tuple[str, ...]]:
        given = self.base or setting.base
        base = None if given is None else base_of(given, setting, where)
        models = deltas_of(setting, self.weight, [base] if base else [], where)
        if len(models) < 2:
            raise RecipeError(f"{where}: expected at least two models, got {len(models)}")
        return base, models


@dataclass(frozen=True, slots=True)
class _Mean(Method):
    """A mean of all models, every one with the same say."""

    ops: ClassVar[tuple[str, ...]] = _OPS
    passes: ClassVar[int] = 2
    state: ClassVar[str] = _PRODUCTS

    rowwise: bool = False

    def check(self, setting: Setting, where: str) -> None:
        """Refuse fewer than two models."""
        if len(setting.models) < 2:
            raise RecipeError(f"{where}: expected at least two models, got {len(setting.models)}")

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the mean of all models for every unit."""
        self.check(setting, where)
        models = tuple(sorted(setting.models))
        even = dict.fromkeys(models, 1.0 / len(models))
        words = f"{self.name} of {', '.join(models)}"
        given = (self.name, self._arguments(len(models)))
        blend = _blend(given, None, even, words, rowwise=self.rowwise)
        return dict.fromkeys(selection.wanted, blend)

    @abstractmethod
    def _arguments(self, count: int) -> dict[str, Any]:
        """Return what the core is told for this many models."""


@dataclass(frozen=True, slots=True)
class Karcher(_Mean):
    """The mean on the sphere of all models' directions, times the mean of their norms.

    Attributes:
        rowwise: norms and angles for each row of a matrix instead of one for the unit.
        max_iter: steps at most.
        tol: a step shorter than this is the last.
    """

    name: ClassVar[str] = "karcher"
    formula: ClassVar[str] = "argmin_u sum_i angle(u, u_i)^2 times the mean of |X_i|"
    source: ClassVar[str] = _MERGEKIT

    max_iter: int = 10
    tol: float = 1e-5

    def _arguments(self, count: int) -> dict[str, Any]:  # noqa: ARG002
        return {"max_iter": self.max_iter, "tol": self.tol}


@dataclass(frozen=True, slots=True)
class GeometricMedian(_Mean):
    """The point with the least sum of distances to all models.

    Attributes:
        rowwise: norms and angles for each row of a matrix instead of one for the unit.
        max_iter: steps of Weiszfeld's iteration at most.
        tol: a relative change of the sum of distances that counts as none.
        eps: the least distance that is divided by.
    """

    name: ClassVar[str] = "geometric_median"
    formula: ClassVar[str] = "argmin_m sum_i |X_i - m|"
    source: ClassVar[str] = "Weiszfeld 1937; sd-mecha `geometric_median`"

    max_iter: int = 100
    tol: float = 1e-20
    eps: float = 1e-6

    def _arguments(self, count: int) -> dict[str, Any]:
        weights = [1.0 / count] * count
        return {"weights": weights, "max_iter": self.max_iter, "tol": self.tol, "eps": self.eps}


@dataclass(frozen=True, slots=True)
class ModelStock(Method):
    """The mean of all models, drawn towards the base by as much as they disagree.

    Attributes:
        base: the model that differences are taken from; the recipe's where nothing is said.
        rowwise: angles for each row of a matrix instead of one for the unit; mergekit's
            `filter_wise`.
    """

    name: ClassVar[str] = "model_stock"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = "t mean(X) + (1 - t) C, t = n cos / (1 + (n - 1) cos)"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = _PRODUCTS
    source: ClassVar[str] = f"Jang et al. 2024, Model Stock (arXiv 2403.19522); {_MERGEKIT}"

    base: str | None = None
    rowwise: bool = False

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, and fewer than two models beside it."""
        self._models(setting, where)

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the same for every unit."""
        base, models = self._models(setting, where)
        even = dict.fromkeys(models, 1.0 / len(models))
        words = f"model_stock of {', '.join(models)} on {base}"
        blend = _blend((self.name, {}), base, even, words, rowwise=self.rowwise)
        return dict.fromkeys(selection.wanted, blend)

    def _models(self, setting: Setting, where: str) -> tuple[str, tuple[str, ...]]:
        base = base_of(self.base, setting, where)
        models = deltas_of(setting, None, [base], where)
        if len(models) < 2:
            raise RecipeError(
                f"{where}: expected at least two models beside the base, got {len(models)}"
            )
        return base, models


@dataclass(frozen=True, slots=True)
class Orthogonal(Method):
    """The first model plus that part of the second's delta that is new to it.

    Attributes:
        alpha: how much of that part.
        base: the model that deltas are taken from; the recipe's where nothing is said.
        rowwise: norms and angles for each row of a matrix instead of one for the unit.
    """

    name: ClassVar[str] = "orthogonal"
    ops: ClassVar[tuple[str, ...]] = _OPS
    formula: ClassVar[str] = "A + alpha (dB - dA <dA, dB> / |dA|^2)"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = _PRODUCTS
    source: ClassVar[str] = "sd-mecha `perpendicular_component`"

    alpha: Value = Number(1.0)
    base: str | None = None
    rowwise: bool = False

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, and other than two models beside it."""
        pair_of(setting, base_of(self.base, setting, where), where)

    def mixtures(self, setting: Setting, selection: Selection, where: str) -> Mixtures:
        """Return the sum for every unit; where `alpha` is 0 the first model."""
        base = base_of(self.base, setting, where)
        first, second = pair_of(setting, base, where)
        shares = self.alpha.table(selection, f"{where}.alpha")

        def at(share: float) -> Blend | dict[str, float]:
            if share == 0:
                return {first: 1.0}
            words = f"{first} + {number_in_words(share)} * what is new in {second} on {base}"
            given = (self.name, {"alpha": share, "base": True})
            both = {first: 1.0, second: share}
            return _blend(given, base, both, words, rowwise=self.rowwise)

        return {unit: at(shares[unit]) for unit in selection.wanted}
