"""What a plan would write, without writing it: its headers, and what differs between two."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from submerge.checkpoint import Checkpoint, FileInfo, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from submerge.plan import Plan
    from submerge.plan.form import Unit

__all__ = ["alike", "checkpoint_of"]


def checkpoint_of(plan: Plan, path: Path) -> Checkpoint:
    """Return the headers of the file that a plan would write, called `path`."""
    at, tensors = 0, {}
    for output in plan.outputs:
        end = at + output.nbytes
        tensors[output.name] = TensorInfo(output.name, output.dtype, output.shape, 0, at, end)
        at = end
    file = FileInfo(path, at, {}, dict(plan.files[0].metadata))
    return Checkpoint(path, "file", (file,), MappingProxyType(tensors), None, None)


def alike(mine: Sequence[Unit], theirs: Sequence[Unit], plan: Plan, other: Plan) -> bool:
    """Tell whether two tensors are made of the same rows of the same files in the same way."""
    if plan.sources == other.sources:
        pairs = zip(mine, theirs, strict=False)
        return len(mine) == len(theirs) and all(_made(a) == _made(b) for a, b in pairs)
    return [_named(u.plain(), plan) for u in mine] == [_named(u.plain(), other) for u in theirs]


def _made(unit: Unit) -> tuple[object, ...]:
    blend = unit.blend
    return unit.operands, unit.added, unit.start, unit.end, blend.op, blend.arguments


def _named(plain: Any, plan: Plan) -> Any:
    """Return a unit's JSON form with sources by what they are, not by their place in a plan."""
    if isinstance(plain, Mapping):
        return {
            key: plan.sources[value].plain() if key == "source" else _named(value, plan)
            for key, value in plain.items()
            if key != "name"
        }
    return [_named(item, plan) for item in plain] if isinstance(plain, list | tuple) else plain
