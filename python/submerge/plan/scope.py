"""`scope: tensor`: numbers of whole tensors of the files instead of single units.

Methods that take figures of a unit before they merge it (norms, thresholds, variances) find other
numbers in q, k and v apart than in the one tensor some layouts keep them in. Other programs know
tensors only. Here the units of such a tensor become one, which is possible where every model and
the output keep them together, in one order, under one formula.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from submerge.errors import LayoutError, listing, quoted
from submerge.plan.terms import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.plan.form import Unit
    from submerge.plan.outputs import Filled
    from submerge.plan.terms import Operand
    from submerge.plan.unit import Inputs

__all__ = ["spanned"]

# What works on single elements finds the same in any part of a tensor.
_ELEMENTWISE = ("copy", "same", "linear", "pointwise")


def spanned(tensors: Sequence[Filled], inputs: Inputs) -> list[Filled]:
    """Return the tensors, each of one unit where its formula depends on the whole of it.

    Noise is that of the first unit of a tensor, counted on over the others.

    Raises:
        LayoutError: a tensor of a file that stands in parts of other tensors, in another order, or
            under several formulas.
    """
    return [(tensor, _spanned(tensor.name, units, inputs)) for tensor, units in tensors]


def _spanned(tensor: str, units: list[Unit], inputs: Inputs) -> list[Unit]:
    if not any(map(_depends, units)) or all(_whole(unit, inputs) for unit in units):
        return units
    formulas = dict.fromkeys(unit.formula for unit in units)
    if len({(u.op, u.models, repr(_without_keys(u.blend.arguments))) for u in units}) > 1:
        raise LayoutError(
            f"recipe.scope: {quoted(tensor)} is made by {len(units)} units with different "
            f"parameters, expected one formula for a whole tensor, got "
            f"{listing(list(formulas), noun='formula')}",
            hint="select the whole tensor in a rule, or leave `scope` out",
        )
    parts = [*zip(*(unit.operands for unit in units), strict=True), [u.added for u in units]]
    *operands, added = map(_joined, parts)
    if added is not None and None not in operands:
        joined = units[0]._replace(
            name=_name([unit.name for unit in units]),
            operands=tuple(operand for operand in operands if operand is not None),
            end=units[-1].end,
            added=added,
        )
        if _whole(joined, inputs):
            return [joined]
    raise LayoutError(
        f"recipe.scope: {quoted(tensor)} is not one whole tensor in every model, expected "
        "all models and the output in one layout, and adapters that change all of a tensor",
        hint="leave `output.layout` out and merge models of one layout, or leave `scope` out",
    )


def _depends(unit: Unit) -> bool:
    """Tell whether the numbers of a unit depend on what it is a part of."""
    if unit.op == "delta":
        # Where deltas cancel, a vote asks for the signs of the whole.
        given = unit.blend.arguments
        votes = given["consensus"] != "none" and given["even"] == "majority"
        return votes or "none" not in given["sparsify"]
    return unit.op not in _ELEMENTWISE


def _without_keys(arguments: Mapping[str, Any]) -> Any:
    """Return arguments without the keys of noise, which are those of a unit."""
    return {
        name: _without_keys(value) if isinstance(value, dict) else value
        for name, value in arguments.items()
        if name != "keys"
    }


def _joined(operands: Sequence[Operand]) -> Operand | None:
    """Return the terms of all parts; None where they do not follow each other."""
    if len({tuple(map(type, operand)) for operand in operands}) > 1:
        return None
    found = operands[0]
    for operand in operands[1:]:
        both = [_following(one, after) for one, after in zip(found, operand, strict=True)]
        if any(term is None for term in both):
            return None
        found = tuple(both)
    return found


def _following(one: Any, after: Any) -> Any:
    """Return a term over the rows of two that follow each other; None where they do not.

    What both share, such as the other factor of a product, stays.
    """
    if isinstance(one, Rows):
        follows = after == one._replace(start=one.end, end=after.end)
        return one._replace(end=after.end) if follows else None
    fields = {}
    for name, mine, theirs in zip(one._fields, one, after, strict=True):
        # A Kronecker product goes on where it was; its first row is that of the first part.
        fields[name] = mine if mine == theirs or name == "first" else None
        if fields[name] is None and isinstance(mine, tuple):
            fields[name] = _following(mine, theirs)
        if fields[name] is None:
            return None
    return one._replace(**fields)


def _whole(unit: Unit, inputs: Inputs) -> bool:
    """Tell whether every operand is a whole tensor of its file."""
    for model, (first, *_) in zip(unit.models, unit.operands, strict=True):
        if not isinstance(first, Rows):
            return False
        rows = inputs.models[model].checkpoint.tensors[first.tensor].rows
        if (first.start, first.end) != (0, rows):
            return False
    return True


def _name(units: Sequence[str]) -> str:
    """Return what the names of units have in common: `single.0.weight`."""
    words = [unit.split(".") for unit in units]
    shortest = min(map(len, words))
    alike = [len({word[i] for word in words}) == 1 for i in range(shortest)]
    ahead = alike.index(False) if False in alike else shortest
    behind = 0
    while behind < shortest - ahead and len({word[-1 - behind] for word in words}) == 1:
        behind += 1
    return ".".join([*words[0][:ahead], *words[0][len(words[0]) - behind :]])
