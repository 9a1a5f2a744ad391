"""`scope: tensor`: numbers of whole tensors of the files instead of single units.

Methods that look at a unit before they merge it (norms, thresholds, variances) find other numbers
in q, k and v apart than in the one tensor some layouts keep them in. Other programs know tensors
only. Here the units of such a tensor become one, which is possible where every model and the output
keep them together, in one order, under one formula.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from submerge.errors import LayoutError, listing, quoted
from submerge.plan.form import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from submerge.layout import Model
    from submerge.plan.fill import Filled
    from submerge.plan.output import Tensor

__all__ = ["spanned"]

# What works on single elements finds the same in any part of a tensor.
_ELEMENTWISE = ("copy", "same", "linear", "pointwise")


def spanned(tensors: Sequence[Tensor], models: Mapping[str, Model]) -> list[Tensor]:
    """Return the tensors, each of one unit where its formula looks at the whole of it.

    Noise is that of the first unit of a tensor, counted on over the others.

    Raises:
        LayoutError: a tensor of a file that stands in parts of other tensors, in another order, or
            under several formulas.
    """
    return [_spanned(tensor, models) for tensor in tensors]


def _spanned(tensor: Tensor, models: Mapping[str, Model]) -> Tensor:
    parts = [part for _, part in tensor.parts]
    if not any(map(_looks, parts)) or all(_whole(part, models) for part in parts):
        return tensor
    first = parts[0]
    formulas = dict.fromkeys(part.formula for part in parts)
    if len({(part.op, part.models, repr(_without_keys(part.arguments))) for part in parts}) > 1:
        raise LayoutError(
            f"recipe.scope: {quoted(tensor.name)} is made by {len(parts)} units with different "
            f"parameters, expected one formula for a whole tensor, got "
            f"{listing(list(formulas), noun='formula')}",
            hint="select the whole tensor in a rule, or leave `scope` out",
        )
    joined = first._replace(
        operands=tuple(map(_joined, zip(*(part.operands for part in parts), strict=True))),
        rows=sum(part.rows for part in parts),
        dtypes=frozenset().union(*(part.dtypes for part in parts)),
        nbytes=sum(part.nbytes for part in parts),
    )
    if not _whole(joined, models):
        raise LayoutError(
            f"recipe.scope: {quoted(tensor.name)} is not one whole tensor in every model, expected "
            "all models and the output in one layout",
            hint="leave `output.layout` out and merge models of one layout, or leave `scope` out",
        )
    return tensor._replace(parts=((_name([name for name, _ in tensor.parts]), joined),))


def _looks(part: Filled) -> bool:
    """Tell whether the result of a part depends on what it is a part of."""
    if part.op == "delta":
        return "none" not in part.arguments["sparsify"]
    return part.op not in _ELEMENTWISE


def _without_keys(arguments: Mapping[str, Any]) -> Any:
    """Return arguments without the keys of noise, which are those of a unit."""
    return {
        name: _without_keys(value) if isinstance(value, dict) else value
        for name, value in arguments.items()
        if name != "keys"
    }


def _joined(operands: Sequence[Any]) -> Any:
    """Return the rows of all parts; those of the first where they do not follow each other."""
    found = operands[0]
    for operand in operands[1:]:
        follows = isinstance(found, Rows) and isinstance(operand, Rows)
        if not follows or operand != found._replace(start=found.end, end=operand.end):
            return operands[0]
        found = found._replace(end=operand.end)
    return found


def _whole(part: Filled, models: Mapping[str, Model]) -> bool:
    """Tell whether every operand is a whole tensor of its file."""
    for name, operand in zip(part.models, part.operands, strict=True):
        if not isinstance(operand, Rows):
            return False
        rows = models[name].checkpoint.tensors[operand.tensor].rows
        if (operand.start, operand.end) != (0, rows):
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
