"""Means of any number of models on spheres and in space, from the inner products of the models."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from submerge.errors import RecipeError
from submerge.given import Count
from submerge.methods.base import (
    CLOSE,
    MECHA,
    MERGEKIT,
    Blend,
    Blends,
    Equality,
    Method,
    Setting,
    parameter,
    weighted_words,
)
from submerge.methods.combine import EQUAL, OPS, OWN_BASE, PRODUCTS, ROWWISE, combined
from submerge.methods.delta import BASE, WEIGHT
from submerge.methods.parameters import base_of, deltas_of, weights_of
from submerge.values import PerModel, Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GeometricMedian", "Karcher", "ModelStock", "MultiSlerp"]


@dataclass(frozen=True, slots=True)
class MultiSlerp(Method):
    """The mean direction of any number of models, at their mean norm."""

    name: ClassVar[str] = "multislerp"
    ops: ClassVar[tuple[str, ...]] = OPS
    formula: ClassVar[str] = "M / |M| sum_i w_i |X_i|, M = sum_i w_i X_i / |X_i|"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = PRODUCTS
    source: ClassVar[str] = MERGEKIT
    equal: ClassVar[Equality] = EQUAL

    weight: PerModel | None = parameter(WEIGHT)
    normalize: bool = parameter("divide the weights by their sum.", default=True)
    eps: float = parameter("below this a norm counts as nothing.", 1e-8)
    base: str | None = parameter(OWN_BASE)
    rowwise: bool = parameter(ROWWISE, default=False)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse unknown names, and fewer than two models."""
        self._models(setting, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the mean with every unit's weights; models of weight 0 are left out."""
        base, models = self._models(setting, where)
        weights = weights_of(self.weight, models, selection, where)
        found: dict[str, Blend] = {}
        for unit in selection.wanted:
            row = {model: weights[model][unit] for model in models if weights[model][unit]}
            found[unit] = self._combined(row, base, where)
        return found

    def _combined(self, row: Mapping[str, float], base: str | None, where: str) -> Blend:
        if len(row) < 2:
            raise RecipeError(f"{where}.weight: expected two models with a weight, got {len(row)}")
        arguments = {
            "weights": list(row.values()),
            "normalize": self.normalize,
            "eps": self.eps,
            "base": base is not None,
        }
        words = f"multislerp of {weighted_words(row)}" + (f" on {base}" if base else "")
        return combined((self.name, arguments), base, row, words, rowwise=self.rowwise)

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

    ops: ClassVar[tuple[str, ...]] = OPS
    passes: ClassVar[int] = 2
    state: ClassVar[str] = PRODUCTS

    rowwise: bool = parameter(ROWWISE, default=False)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse fewer than two models."""
        if len(setting.models) < 2:
            raise RecipeError(f"{where}: expected at least two models, got {len(setting.models)}")

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the mean of all models for every unit."""
        self.check(setting, where)
        models = tuple(sorted(setting.models))
        even = dict.fromkeys(models, 1.0 / len(models))
        words = f"{self.name} of {', '.join(models)}"
        given = (self.name, self._arguments(setting))
        blend = combined(given, None, even, words, rowwise=self.rowwise)
        return dict.fromkeys(selection.wanted, blend)

    @abstractmethod
    def _arguments(self, setting: Setting) -> dict[str, Any]:
        """Return what the core is told."""


@dataclass(frozen=True, slots=True)
class Karcher(_Mean):
    """The mean on the sphere of all models' directions, times the mean of their norms."""

    name: ClassVar[str] = "karcher"
    formula: ClassVar[str] = "argmin_u sum_i angle(u, u_i)^2 times the mean of |X_i|"
    source: ClassVar[str] = MERGEKIT
    equal: ClassVar[Equality] = EQUAL

    max_iter: Count | None = parameter(
        "steps at most. Left out it is 100, and 10 under `compat: mergekit`."
    )
    tol: float | None = parameter(
        "a step shorter than this is the last. Left out it is 1e-9, below all that F32 shows, and "
        "1e-5 under `compat: mergekit`."
    )

    def _arguments(self, setting: Setting) -> dict[str, Any]:
        steps, step = (10, 1e-5) if setting.compat == "mergekit" else (100, 1e-9)
        return {
            "max_iter": steps if self.max_iter is None else self.max_iter,
            "tol": step if self.tol is None else self.tol,
        }


@dataclass(frozen=True, slots=True)
class GeometricMedian(_Mean):
    """The point with the least sum of distances to all models."""

    name: ClassVar[str] = "geometric_median"
    formula: ClassVar[str] = "argmin_m sum_i |X_i - m|"
    source: ClassVar[str] = "Weiszfeld 1937; sd-mecha `geometric_median`"
    equal: ClassVar[Equality] = {
        "numpy": CLOSE,
        MECHA: "to 0.001 of elements about 1: it iterates in f32 and stops earlier",
    }

    max_iter: Count = parameter("steps of Weiszfeld's iteration at most.", 100)
    tol: float = parameter("a relative change of the sum of distances that counts as none.", 1e-20)
    eps: float = parameter("the least distance that is divided by.", 1e-6)

    def _arguments(self, setting: Setting) -> dict[str, Any]:
        count = len(setting.models)
        weights = [1.0 / count] * count
        return {"weights": weights, "max_iter": self.max_iter, "tol": self.tol, "eps": self.eps}


@dataclass(frozen=True, slots=True)
class ModelStock(Method):
    """The mean of all models, drawn towards the base by as much as they disagree."""

    name: ClassVar[str] = "model_stock"
    ops: ClassVar[tuple[str, ...]] = OPS
    formula: ClassVar[str] = "t mean(X) + (1 - t) C, t = n cos / (1 + (n - 1) cos)"
    passes: ClassVar[int] = 2
    state: ClassVar[str] = PRODUCTS
    source: ClassVar[str] = f"Jang et al. 2024, Model Stock (arXiv 2403.19522); {MERGEKIT}"
    equal: ClassVar[Equality] = EQUAL

    base: str | None = parameter(BASE)
    rowwise: bool = parameter(ROWWISE, default=False)

    def check(self, setting: Setting, where: str) -> None:
        """Refuse a missing base, and fewer than two models beside it."""
        self._models(setting, where)

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the same for every unit."""
        base, models = self._models(setting, where)
        even = dict.fromkeys(models, 1.0 / len(models))
        words = f"model_stock of {', '.join(models)} on {base}"
        given = (self.name, {"floor": setting.floor})
        blend = combined(given, base, even, words, rowwise=self.rowwise)
        return dict.fromkeys(selection.wanted, blend)

    def _models(self, setting: Setting, where: str) -> tuple[str, tuple[str, ...]]:
        base = base_of(self.base, setting, where)
        models = deltas_of(setting, None, [base], where)
        if len(models) < 2:
            raise RecipeError(
                f"{where}: expected at least two models beside the base, got {len(models)}"
            )
        return base, models
