"""Operands made of several terms: factors, the terms of a plan, and what they are in numpy.

Formulas are those of docs and papers, in f32 and in the documented order; the same functions with
f64 arrays give what exact arithmetic would be near.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import factory
from boundary import blended, place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from factory import Array

KINDS = ("rows", "scaled", "low_rank", "multiplied", "hadamard", "kronecker", "magnitude")


class Made(NamedTuple):
    """A term over all rows of a unit.

    Attributes:
        arrays: the tensors it names.
        plan: its JSON for the rows from one to another.
        value: what is added, of arrays of f32 or f64; of a magnitude a number for each row.
        stretched: of a magnitude, what the sum so far and the first term become; of what multiplies
            the first term, too.
    """

    arrays: dict[str, Array]
    plan: Callable[[int, int], dict[str, Any]]
    value: Callable[[dict[str, Array]], Array]
    stretched: Callable[[Array, Array, Array], Array] | None = None


def thin(up: Array, down: Array) -> Array:
    """`up @ down` over the rank from 0 on, every product and every sum rounded."""
    total: Array = up[:, :1] * down[:1]
    for k in range(1, up.shape[1]):
        total = total + up[:, k : k + 1] * down[k : k + 1]
    return total


def lengths(values: Array) -> Array:
    """The norm of each row: squares in f64 over 16 lanes, folded; rounded once."""
    wide = values.astype(np.float64)
    rows, columns = wide.shape
    lanes = np.zeros((rows, -(-columns // 16) * 16))
    lanes[:, :columns] = wide * wide
    sums = np.zeros((rows, 16))
    for at in range(0, lanes.shape[1], 16):
        sums = sums + lanes[:, at : at + 16]
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    norms: Array = np.sqrt(sums).astype(values.dtype)
    return norms


class Terms:
    """Makes terms of a unit of some shape, with random factors; all in source `source`."""

    def __init__(self, seed: int, shape: tuple[int, int], dtype: str, source: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.height, self.columns = shape
        self.dtype = factory._NUMPY[dtype]
        self.source = source
        self.count = 0

    def make(self, kind: str, scale: float) -> Made:
        """A term of a kind; for a magnitude `scale` is the strength."""
        self.count += 1
        made: Made = getattr(self, f"_{kind}")(f"{self.count}.{kind}", scale)
        return made

    def _array(self, *shape: int) -> Array:
        values: Array = self.random.normal(size=shape).astype(self.dtype)
        return values

    def _place(self, name: str, start: int, end: int) -> dict[str, Any]:
        return place(self.source, name, start, end)

    def _rows(self, name: str, _: float) -> Made:
        arrays = {name: self._array(self.height, self.columns)}
        return Made(
            arrays,
            lambda start, end: {"rows": self._place(name, start, end)},
            lambda given: given[name],
        )

    def _scaled(self, name: str, scale: float) -> Made:
        arrays = {name: self._array(self.height, self.columns)}
        return Made(
            arrays,
            lambda start, end: {
                "scaled": {"rows": self._place(name, start, end), "scale": scale},
            },
            lambda given: given[name] * given[name].dtype.type(scale),
        )

    def _thin(self, name: str, height: int, columns: int) -> tuple[dict[str, Array], int]:
        rank = int(self.random.integers(1, 20))
        up, down = self._array(height, rank), self._array(rank, columns)
        return {f"{name}.up": up, f"{name}.down": down}, rank

    def _factors(self, name: str, rank: int, start: int, end: int) -> dict[str, Any]:
        up = self._place(f"{name}.up", start, end)
        return {"up": up, "down": self._place(f"{name}.down", 0, rank)}

    def _low_rank(self, name: str, scale: float) -> Made:
        arrays, rank = self._thin(name, self.height, self.columns)

        def value(given: dict[str, Array]) -> Array:
            product = thin(given[f"{name}.up"], given[f"{name}.down"])
            scaled: Array = product * product.dtype.type(scale)
            return scaled

        return Made(
            arrays,
            lambda start, end: {
                "low_rank": {**self._factors(name, rank, start, end), "scale": scale}
            },
            value,
        )

    def _multiplied(self, name: str, scale: float) -> Made:
        rank = int(self.random.integers(1, 9))
        arrays = {
            f"{name}.up": self._array(self.columns, rank),
            f"{name}.down": self._array(rank, self.columns),
        }

        def stretched(total: Array, first: Array, values: Array) -> Array:
            up, down = values[:, :rank], values[:, rank:].T
            # Sums one after the other, as `thin` forms them.
            middle = np.add.accumulate(first[:, :, None] * up[None], axis=1)[:, -1]
            more: Array = total + thin(middle, down) * total.dtype.type(scale)
            return more

        return Made(
            arrays,
            lambda *_: {
                "multiplied": {**self._factors(name, rank, 0, self.columns), "scale": scale}
            },
            lambda given: np.hstack([given[f"{name}.up"], given[f"{name}.down"].T]),
            stretched,
        )

    def _hadamard(self, name: str, scale: float) -> Made:
        names = f"{name}.left", f"{name}.right"
        sides = [self._thin(side, self.height, self.columns) for side in names]

        def plan(start: int, end: int) -> dict[str, Any]:
            left, right = (
                self._factors(side, rank, start, end)
                for side, (_, rank) in zip(names, sides, strict=True)
            )
            return {"hadamard": {"left": left, "right": right, "scale": scale}}

        def value(given: dict[str, Array]) -> Array:
            left, right = (thin(given[f"{side}.up"], given[f"{side}.down"]) for side in names)
            scaled: Array = left * right * left.dtype.type(scale)
            return scaled

        return Made({**sides[0][0], **sides[1][0]}, plan, value)

    def _kronecker(self, name: str, scale: float) -> Made:
        """Factors of random shapes; the unit may begin in the middle of the product."""
        names = f"{name}.left", f"{name}.right"
        wide = int(self.random.choice([n for n in range(1, 30) if self.columns % n == 0]))
        high = int(self.random.integers(1, 12))
        skipped = int(self.random.integers(0, high))
        shapes = (-(-(self.height + skipped) // high), wide), (high, self.columns // wide)
        arrays: dict[str, Array] = {}
        plans = []
        for side, (rows, columns) in zip(names, shapes, strict=True):
            if self.random.random() < 0.5:
                arrays[side] = self._array(rows, columns)
                plans.append({"rows": self._place(side, 0, rows)})
            else:
                made, rank = self._thin(side, rows, columns)
                arrays.update(made)
                plans.append({"low_rank": self._factors(side, rank, 0, rows)})

        def value(given: dict[str, Array]) -> Array:
            left, right = (
                given[side] if side in given else thin(given[f"{side}.up"], given[f"{side}.down"])
                for side in names
            )
            whole = np.kron(left, right)[skipped : skipped + self.height]
            scaled: Array = whole * whole.dtype.type(scale)
            return scaled

        def plan(start: int, end: int) -> dict[str, Any]:
            left, right = plans
            first = skipped + start
            assert start < end <= self.height
            return {"kronecker": {"left": left, "right": right, "first": first, "scale": scale}}

        return Made(arrays, plan, value)

    def _magnitude(self, name: str, strength: float) -> Made:
        shape = [(self.height,), (self.height, 1)][int(self.random.integers(2))]
        norm = ["sum", "base"][int(self.random.integers(2))]
        epsilon = [0.0, 2.0**-20][int(self.random.integers(2))]

        def stretched(total: Array, first: Array, values: Array) -> Array:
            of = total.dtype.type
            norms = lengths(total if norm == "sum" else first)
            factor = of(strength) * (values / (norms + of(epsilon)) - of(1)) + of(1)
            longer: Array = total * factor
            return longer

        return Made(
            {name: self._array(*shape)},
            lambda start, end: {
                "magnitude": {
                    "values": self._place(name, start, end),
                    "axis": "rows",
                    "norm": norm,
                    "strength": strength,
                    "epsilon": epsilon,
                }
            },
            lambda given: given[name].reshape(-1, 1),
            stretched,
        )


def total(terms: Sequence[Made], of: type[np.floating[Any]] = np.float32) -> Array:
    """What an operand of these terms is, in f32 or in f64."""
    found: Array | None = None
    first: Array | None = None
    for term in terms:
        given = {name: array.astype(np.float32).astype(of) for name, array in term.arrays.items()}
        value = term.value(given)
        if found is None or first is None:
            found = first = value
        elif term.stretched is not None:
            found = term.stretched(found, first, value)
        else:
            found = found + value
    assert found is not None
    return found


def job(
    folder: Path,
    operands: Sequence[Sequence[Made]],
    shape: tuple[int, int],
    *,
    op: dict[str, Any] | None = None,
    added: Sequence[Made] = (),
    cuts: Sequence[int] = (),
    dtype: str = "F32",
) -> dict[str, Any]:
    """A plan of one tensor of such operands, cut into units at the rows `cuts`."""
    out = folder / "out.safetensors"
    everything = [term for terms in (*operands, added) for term in terms]
    arrays = {name: array for term in everything for name, array in term.arrays.items()}
    path = factory.write(folder / "in.safetensors", arrays)
    plan = blended(out, [path], [1.0])
    plan["outputs"] = [{"file": 0, "name": "w", "dtype": dtype, "shape": list(shape)}]
    ends = [0, *cuts, shape[0]]
    plan["units"] = [
        {
            "name": f"w{start}",
            "output": 0,
            "start": start,
            "end": end,
            "operands": [[term.plan(start, end) for term in terms] for terms in operands],
            "op": op or {"copy": {}},
            "added": [term.plan(start, end) for term in added],
        }
        for start, end in itertools.pairwise(ends)
    ]
    return plan
