"""What the merge methods of sd-mecha make of their arguments.

A model is a weighted sum of files (`Sum`) until a method comes that is none (`Formula`).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from submerge.errors import RecipeError, quoted
from submerge.recipe.importers.mecha.forms import Formula, Numbers, Sum, Value, value
from submerge.recipe.importers.preset import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from submerge.recipe.importers.mecha.call import Call

__all__ = ["NODES"]

_ONE = Fraction(1)


def _together(*parts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(at for part in parts for at in part))


def _mix(call: Call, space: str, *terms: tuple[Numbers, Sum]) -> Sum:
    """Return a sum of sums; a selector counts where every part has it or a number for the rest."""
    places = _together(*(part for scale, found in terms for part in (scale, found.terms)))
    total: dict[str, dict[str, Fraction]] = {}
    for at in places:
        row: dict[str, Fraction] = {}
        for scale, found in terms:
            factor, inner = scale.get(at, scale.get("")), found.terms.get(at, found.terms.get(""))
            if factor is None or inner is None:
                break
            for model, coefficient in inner.items():
                row[model] = _bounded(call, row.get(model, Fraction(0)) + factor * coefficient)
        else:
            total[at] = row
    if not total:
        raise RecipeError(f"{call.where}: no tensor has a number in every part")
    return Sum(space, total)


def _bounded(call: Call, number: Fraction) -> Fraction:
    if abs(number) > LARGEST:
        raise RecipeError(f"{call.where}: the factors multiply to more than a number holds")
    return number


def _less(numbers: Numbers) -> Numbers:
    return {at: 1 - number for at, number in numbers.items()}


def _same_space(call: Call, *parts: Sum) -> str:
    spaces = {part.space for part in parts}
    if len(spaces) != 1:
        raise RecipeError(f"{call.where}: expected models or differences, got both")
    return spaces.pop()


def _weighted_sum(call: Call) -> Value:
    a, b = call.sum(0, "a"), call.sum(1, "b")
    alpha = call.numbers(2, "alpha", Fraction(1, 2))
    return _mix(call, _same_space(call, a, b), (_less(alpha), a), (alpha, b))


def _n_average(call: Call) -> Value:
    parts = [call.sum(i, f"models[{i}]") for i in range(call.count)]
    share: Numbers = {"": Fraction(1, max(1, len(parts)))}
    return _mix(call, _same_space(call, *parts), *((share, part) for part in parts))


def _subtract(call: Call) -> Value:
    a, b = call.sum(0, "a"), call.sum(1, "b")
    return _mix(call, "delta", ({"": _ONE}, a), ({"": -_ONE}, b))


def _scale(call: Call) -> Value:
    by = call.at(1, "alpha")
    if isinstance(by, Formula):
        return _masked(call, call.difference(0, "a"), by)
    given = call.at(0, "a")
    if isinstance(given, Formula):
        return _scaled(call, given, call.numbers(1, "alpha", _ONE))
    a = call.sum(0, "a")
    return _mix(call, a.space, (call.numbers(1, "alpha", _ONE), a))


def _add_difference(call: Call) -> Value:
    by, b = call.at(2, "alpha"), call.at(1, "b")
    if isinstance(by, Formula):
        b, alpha = _masked(call, call.difference(1, "b"), by), {"": _ONE}
    else:
        alpha = call.numbers(2, "alpha", _ONE)
    if not isinstance(b, Formula):
        a = call.sum(0, "a")
        return _mix(call, a.space, ({"": _ONE}, a), (alpha, call.sum(1, "b")))
    found = _scaled(call, b, alpha)
    if "truncated_svd" in found.method:
        return _onto(call.leaf(0, "a"), found)
    to = found.order[0] if found.base is None or "orthogonal" in found.method else found.base
    if found.space != "delta" or call.leaf(0, "a") != to:
        raise RecipeError(f"{call.where}: `a`, expected {quoted(to)}, which the difference is of")
    ((name, given),) = found.method.items()
    if name == "model_stock" and given.get("scale", _ONE) != 1:
        raise RecipeError(f"{call.where}: a scaled `model_stock`, expected `alpha` 1")
    given = {key: x for key, x in given.items() if key != "scale"}
    return replace(found, space="weight", method={name: given})


def _scaled(call: Call, found: Formula, alpha: Numbers) -> Formula:
    """Return a difference with another factor."""
    ((name, given),) = found.method.items()
    words = {"ties": "lambda", "truncated_svd": "lambda", "model_stock": "scale"}
    word = words.get(name, "alpha")
    old = given.get(word, _ONE)
    if isinstance(old, dict) or (set(alpha) != {""} and old != 1):
        raise RecipeError(f"{call.where}: two factors that differ by tensor, expected one")
    if word == "scale" and set(alpha) != {""}:
        raise RecipeError(f"{call.where}: a scaled `model_stock`, expected `alpha` 1")
    new = {at: _bounded(call, Fraction(old) * x) for at, x in alpha.items()}
    written = new[""] if word == "scale" else value(new)
    return replace(found, method={name: {**given, word: written}})


def _slerp(call: Call) -> Value:
    order = call.leaf(0, "a"), call.leaf(1, "b")
    alpha = call.numbers(2, "alpha", Fraction(1, 2))
    if alpha == {"": Fraction(1, 2)}:
        # Half-way the great circle meets the mean direction, and both have the mean norm.
        return Formula("weight", {"multislerp": {"weight": dict.fromkeys(order, 1.0)}}, order)
    note = (
        "not the same: sd-mecha's slerp brings the result to the norm between the two models'; "
        "`slerp` does not, and is equal where their norms are"
    )
    return Formula("weight", {"slerp": {"alpha": value(alpha)}}, order, notes=[note])


def _perpendicular(call: Call) -> Value:
    order, base = call.from_base()
    return Formula("delta", {"orthogonal": {}}, order, base)


def _mask(call: Call) -> Value:
    order = (call.leaf(0, "a"), call.leaf(1, "b"), call.leaf(2, "c"))
    alpha = value(call.numbers(3, "alpha", _ONE))
    roles = dict(zip(("to", "plus", "minus"), order, strict=True))
    name = call.instruction.method.removesuffix("_mask")
    return Formula("mask", {name: {"alpha": alpha, **roles}}, order, whole_tensors=False)


def _cosine(call: Call) -> Value:
    order = call.leaf(0, "a"), call.leaf(1, "b")
    alpha = value(call.numbers(2, "alpha", _ONE))
    return Formula("weight", {call.instruction.method: {"alpha": alpha}}, order)


def _masked(call: Call, pair: tuple[str, str], mask: Formula) -> Formula:
    if mask.space != "mask" or pair != mask.order[1:]:
        raise RecipeError(
            f"{call.where}: expected a mask of the same models as the difference it scales"
        )
    return replace(mask, space="delta")


def _clamp(call: Call) -> Value:
    row, bounds = call.sum(0, "a").row(), [call.leaf(i, f"bounds[{i}]") for i in (1, 2)]
    others = [model for model in row if model not in bounds]
    to = next((model for model in bounds if row.get(model) == 1), None)
    plus = next((model for model in bounds if model != to), None)
    share = row.get(str(plus), Fraction(0))
    if call.count != 3 or to is None or len(others) != 1 or row[others[0]] != -share:
        raise RecipeError(
            f"{call.where}: expected `a + alpha (b - c)` and the bounds a and b, got something else"
        )
    if call.scalar("stiffness", Fraction(0)):
        raise RecipeError(f"{call.where}: `stiffness`, expected 0: it has no counterpart")
    roles = {"to": to, "plus": plus, "minus": others[0]}
    order = (to, str(plus), others[0])
    return Formula(
        "weight", {"clamp": {"alpha": float(share), **roles}}, order, whole_tensors=False
    )


def _ties(call: Call) -> Value:
    extended = call.instruction.method == "ties_sum_extended"
    if extended and (call.flag("apply_median") or not call.flag("apply_stock")):
        raise RecipeError(
            f"{call.where}: scales or replaces the sum by model stock or a median, expected "
            "`apply_stock=true apply_median=false`, which in sd-mecha 1.1 is plain TIES"
        )
    order, base = call.from_base()
    density = call.scalar("k", Fraction(1, 5) if extended else _ONE)
    signs = "sum" if call.flag("vote_sgn") else "count"
    if signs == "count" and len(order) % 2 == 0:
        raise RecipeError(
            f"{call.where}: `vote_sgn=false` with {len(order)} differences, expected an odd "
            "number; where as many point up as down sd-mecha keeps the base, `ties` does not",
            hint="with `vote_sgn=true`, which elects by the sum as the paper does, both agree",
        )
    given = {
        "density": float(density),
        "consensus": signs,
        "weight": dict.fromkeys(order, 1.0),
    }
    notes = ["ties: at the threshold sd-mecha keeps one element more of each tensor"]
    ups = "not the same: where as many differences point up as down, which takes zeros among them"
    even = f"{ups}, sd-mecha keeps the base and `ties` takes those that point up"
    notes = notes[: density < 1] + ([even] if signs == "count" else [])
    return Formula("delta", {"ties": given}, order, base, notes=notes)


def _model_stock(call: Call) -> Value:
    order, base = call.from_base()
    note = (
        "not the same: sd-mecha averages the cosines of neighbours, `model_stock` those of all "
        "pairs of models"
    )
    return Formula(
        "delta",
        {"model_stock": {"rowwise": True}},
        order,
        base,
        whole_tensors=False,
        notes=[note] if len(order) > 2 else [],
    )


def _truncate_rank(call: Call) -> Value:
    plus, minus = call.difference(0, "a")
    found = call.numbers(1, "rank", Fraction(8))
    if any(rank.denominator != 1 or rank < 1 for rank in found.values()):
        raise RecipeError(f"{call.where}: `rank`, expected whole numbers above 0")
    exact = call.at(2, "use_approximate_basis") is False
    note = "not the same: sd-mecha's approximate basis is random; `truncated_svd` draws its own"
    rank = {"rank": value(found)}
    return Formula("delta", {"truncated_svd": rank}, (plus,), minus, notes=[] if exact else [note])


def _onto(model: str, found: Formula) -> Formula:
    """Return a truncated difference added to a model, which need not be the difference's base."""
    if model == found.base:
        return replace(found, space="weight")
    method = {"truncated_svd": {**found.method["truncated_svd"], "delta_base": found.base}}
    order = (*found.order, str(found.base))
    return replace(found, space="weight", method=method, order=order, base=model)


def _rotate(call: Call) -> Value:
    order = call.leaf(0, "a"), call.leaf(1, "b")
    sides = call.numbers(2, "alignment", _ONE)
    if not all(0 <= side <= 1 for side in sides.values()):
        raise RecipeError(
            f"{call.where}: `alignment`, expected numbers from 0 to 1: there is no turning further"
        )
    given = {
        "alpha": value(call.numbers(3, "alpha", Fraction(0))),
        "alignment": value(sides),
        "centralization": value(call.numbers(4, "centralization", _ONE)),
    }
    wide = (
        "not the same: of matrices with fewer rows than columns sd-mecha turns the columns, and "
        "`rotate` the rows"
    )
    part = (
        "not the same: a part of the way sd-mecha turns in the dtype it merges in, f32, which is "
        "right to about 1e-4; `rotate` does in f64"
    )
    notes = [wide, part] if set(sides.values()) - {0, 1} else [wide]
    return Formula("weight", {"rotate": given}, order, notes=notes)


def _geometric_median(call: Call) -> Value:
    order = tuple(call.leaf(i, f"models[{i}]") for i in range(call.count))
    if len(set(order)) != len(order):
        raise RecipeError(f"{call.where}: a model twice, expected different files")
    given = {
        "max_iter": int(call.scalar("maxiter", Fraction(100))),
        "tol": float(call.scalar("ftol", Fraction(10) ** -20)),
        "eps": float(call.scalar("eps", Fraction(10) ** -6)),
    }
    note = (
        "not the same: sd-mecha iterates in the dtype it merges in, f32, and stops where that sees "
        "no more change; `geometric_median` goes on in f64"
    )
    return Formula("weight", {"geometric_median": given}, order, notes=[note])


NODES: dict[str, Callable[[Call], Value]] = {
    "add_cosine_a": _cosine,
    "add_cosine_b": _cosine,
    "add_difference": _add_difference,
    "add_opposite_mask": _mask,
    "add_strict_opposite_mask": _mask,
    "clamp": _clamp,
    "convert_singleton": lambda call: call.at(0),
    "geometric_median": _geometric_median,
    "model_stock": _model_stock,
    "n_average": _n_average,
    "perpendicular_component": _perpendicular,
    "rotate": _rotate,
    "scale": _scale,
    "slerp": _slerp,
    "subtract": _subtract,
    "ties_sum": _ties,
    "ties_sum_extended": _ties,
    "train_difference_mask": _mask,
    "truncate_rank": _truncate_rank,
    "weighted_sum": _weighted_sum,
}
