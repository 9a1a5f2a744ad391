"""Codes that are taken with their scales as they are: a format is not written anew for nothing.

Where a tensor is one model's, whole, in the very format that is asked for, its codes and what
stands beside them are copied byte for byte. Nothing is decoded, so nothing is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from submerge.checkpoint.codecs import CODECS
from submerge.methods import copied
from submerge.plan.form import BESIDE, OutputTensor, Unit
from submerge.plan.terms import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from submerge.checkpoint import TensorInfo
    from submerge.formats import Format
    from submerge.layout import OutTensor
    from submerge.plan.unit import Inputs

__all__ = ["Taken", "taken"]


class Taken(NamedTuple):
    """Codes as they are: the tensor with its units, and the tensors beside it with theirs."""

    codes: tuple[OutputTensor, list[Unit]]
    beside: list[tuple[OutputTensor, list[Unit]]]


def taken(tensor: OutTensor, form: Format, units: Sequence[Unit], inputs: Inputs) -> Taken | None:
    """Return a tensor as codes that are copied; None where it has to be written.

    Blocks without anything beside them are left to the core, which copies any rows of them.
    """
    if not form.sides or len({unit.models for unit in units}) > 1:
        return None
    if any(unit.op != "copy" or unit.added or len(unit.operands) != 1 for unit in units):
        return None
    (model,) = units[0].models
    info, *others = (inputs.tensor(model, unit.name) for unit in units)
    if any(other != info for other in others):
        return None
    rows = [found for unit in units if (found := _codes(unit)) is not None]
    if len(rows) < len(units) or not _is_whole(tensor, form, info, rows):
        return None
    codes = [unit._replace(operands=((own,),)) for unit, own in zip(units, rows, strict=True)]
    assert info.packed is not None  # noqa: S101 - it is of the format
    stem = tensor.name.rpartition(".")[0]
    beside = []
    for side, own in zip(form.sides, info.sides, strict=True):
        name = f"{stem}.{side.leaf}"
        operand = (Rows(inputs.source(model, own), own.name, 0, own.rows),)
        unit = Unit(name, BESIDE, copied(model), (operand,), 0, own.rows)
        beside.append((OutputTensor(0, name, own.dtype, own.shape), [unit]))
    shape = info.packed.shape
    return Taken((OutputTensor(0, tensor.name, form.dtype, shape, form.name), codes), beside)


def _codes(unit: Unit) -> Rows | None:
    """Return the rows of codes that a unit is a copy of, as bytes."""
    ((first, *more),) = unit.operands
    if more or not isinstance(first, Rows):
        return None
    return first._replace(codec=None, sides=())


def _is_whole(tensor: OutTensor, form: Format, info: TensorInfo, placed: Sequence[Rows]) -> bool:
    """Tell whether rows are all of a tensor's, in their order, and in this format."""
    if info.packed is None or info.dtype != form.codec or info.shape != tensor.shape:
        return False
    known = CODECS[form.codec].spec
    plain = info.packed.spec in (known, {known: {"rotated": 256}})
    if not plain or info.packed.dtype != form.dtype:
        return False
    at = 0
    for rows in placed:
        if rows.start != at:
            return False
        at = rows.end
    return at == info.rows
