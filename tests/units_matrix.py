"""What methods of whole matrices make of a unit: the formulas on the models of a merge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import formulas_matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from formulas import Vector


def decomposed(
    make: Callable[[Vector], Vector], weights: dict[str, float], to: str = "base", scale: float = 1
) -> Any:
    def unit(_: str, of: dict[str, Vector]) -> Vector:
        models = [of[model] for model in weights]
        d = formulas_matrix.summed(of["base"], models, list(weights.values()))
        return formulas_matrix.on(of[to], make(d), scale)

    return unit


def decorrelated(weights: dict[str, float], rank: int | None = None, scale: float = 1) -> Any:
    def unit(_: str, of: dict[str, Vector]) -> Vector:
        base = of["base"]
        each = [formulas_matrix.summed(base, [of[m]], [w]) for m, w in weights.items()]
        return formulas_matrix.on(base, formulas_matrix.decorrelated(each, rank), scale)

    return unit


def shared(weights: dict[str, float], scale: float = 1, **given: Any) -> Any:
    def unit(_: str, of: dict[str, Vector]) -> Vector:
        base = of["base"]
        each = [formulas_matrix.summed(base, [of[m]], [1.0]) for m in weights]
        made = formulas_matrix.shared(each, list(weights.values()), **given)
        return formulas_matrix.on(base, made, scale)

    return unit


def rotated(alpha: float, alignment: float) -> Any:
    def unit(_: str, of: dict[str, Vector]) -> Vector:
        return formulas_matrix.rotated(of["carl"], of["anna"], alpha, alignment)

    return unit
