"""What a thread holds of a unit that is worked on as a whole, as the core counts it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.checkpoint import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.plan.form import Plan, Unit

__all__ = ["matrix_bytes"]

# Rows that are worked on at once, elements of the long side that are read at once, and what
# packing, rotations and counts take.
_PANEL = 256
_SLAB = 512
_ROOM = 24 << 20


class _Taken(NamedTuple):
    """Bytes: of the decomposition; of what makes the result; of parts that are read."""

    solved: int
    made: int = 0
    parts: int = 0


def matrix_bytes(plan: Plan, unit: Unit) -> int:
    """Return the bytes one thread holds of a unit; 0 where it is not worked on as a matrix."""
    if unit.op != "matrix":
        return 0
    output = plan.outputs[unit.output]
    rows, columns = unit.end - unit.start, math.prod(output.shape[1:])
    make = unit.arguments["make"]
    models = len(unit.arguments["weights"]) if {"decorrelated", "shared"} & set(make) else 1
    written = rows * columns * DTYPES[output.dtype] // 8
    whole, short = 4 * rows * columns, min(rows, columns)
    if short <= 1:
        copies = 2 if {"shared", "rotated"} & set(make) else 1
        return whole * copies * models + written
    taken = _taken(make, models, rows, columns)
    panels = 16 * _PANEL * short + _ROOM
    later = whole + max(written, taken.made + taken.parts + panels)
    return max(later, taken.solved + taken.parts + panels)


def _taken(make: Mapping[str, Any], models: int, rows: int, columns: int) -> _Taken:
    whole, short, long = 4 * rows * columns, min(rows, columns), max(rows, columns)
    square = 8 * short**2
    if "rotated" in make:
        how = make["rotated"]
        powers = (how["alpha"] != 0) + (how["alpha"] != 1)
        solved = max(7 + 2 * powers, 8) if 0 < how["alignment"] < 1 else 6
        parts = (8 * _SLAB + 32 * _PANEL) * short
        return _Taken(solved * square // 2, max(powers, 1) * square, parts)
    if "shared" in make:
        return _shared(make["shared"], models, rows, columns)
    if "decorrelated" in make:
        rank = min(make["decorrelated"]["rank"] or max(1, short // models), short)
        count = rank * models
        vectors = 8 * count * short
        found = whole + vectors + _vectors(rank, short, long)
        parts = 4 * _SLAB * models * short + 16 * _PANEL * count
        return _Taken(max(found, 24 * count**2 + vectors), 2 * vectors, parts)
    if "isotropic" in make:
        return _Taken(whole + 2 * square)
    return _Taken(whole + _vectors(make.get("rank", short), short, long))


def _shared(vote: Mapping[str, Any], models: int, rows: int, columns: int) -> _Taken:
    beside = models * columns
    if rows <= beside:
        held = 4 * rows * columns if "magnitude" in vote["sparsify"] else 0
        parts = (24 + 4 * models) * rows * _SLAB
        return _Taken(8 * rows**2 + held, 8 * rows**2, parts)
    turn = 8 * beside * columns
    return _Taken(8 * beside**2 + turn, turn, (4 * beside + 12 * columns) * _SLAB)


def _vectors(rank: int, short: int, long: int) -> int:
    """Return the bytes that are held to find so many directions."""
    iterated = rank + max(16, rank // 8)
    return 8 * iterated * (long + 3 * short) if 4 * iterated <= short else 8 * short**2
