"""Whether an output is right: against the exact sum, rounded once.

A rival that is fast and wrong must not win, and how often each one rounds wrongly is a figure of
its own. Works on row-major slices of every tensor, in either layout.

Shares are whole numbers, 3 and 7 for 0.3 and 0.7: `(3 a + 7 b) / 10` is exact in float64 up to the
division, so that a sum halfway between two bf16 numbers is seen as that. With the weights in
float64 it would lie next to the middle, on a side that says nothing about the merge.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benches.peers.measure import files_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Numerics", "Tensor", "compare", "round_once", "tensors"]

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's numbers lie: bytes `start` to `end` of a file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def bits(self, first: int, count: int) -> Array:
        """Return the bit patterns of some elements, flat."""
        with self.path.open("rb") as file:
            file.seek(self.start + 2 * first)
            return np.frombuffer(file.read(2 * count), np.uint16)


@dataclass(frozen=True, slots=True)
class Numerics:
    """How an output compares with the formula rounded once.

    Attributes:
        elements: elements compared.
        wrong: those that differ.
        ulp: the largest difference, in units in the last place; where the two terms cancel to
            nearly nothing, in units of float32's own grain at the size of the terms.
        problems: what is missing or has another dtype or shape, as sentences.
    """

    elements: int
    wrong: int
    ulp: float
    problems: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of elements that are wrong."""
        return self.wrong / self.elements if self.elements else 0.0


def tensors(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a file or folder, by name."""
    found: dict[str, Tensor] = {}
    for file in files_of(path):
        with file.open("rb") as data:
            (length,) = struct.unpack("<Q", data.read(8))
            header = json.loads(data.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = (8 + length + at for at in entry["data_offsets"])
            found[name] = Tensor(file, entry["dtype"], tuple(entry["shape"]), start, end)
    return found


def compare(
    inputs: tuple[Path, Path],
    output: Path,
    shares: tuple[int, int],
    *,
    sample: int = 1 << 20,
) -> Numerics:
    """Compare an output with `(s0 a + s1 b) / (s0 + s1)`, a sample of each tensor's elements.

    A tensor that only the second input has must come out as it is. The sample is taken from the
    middle of a tensor, where an error in rows or chunks has had room to grow.
    """
    first, second, made = map(tensors, (*inputs, output))
    problems = [f"`{name}` is extra" for name in made if name not in second]
    elements, wrong, ulp = 0, 0, 0.0
    for name, b in second.items():
        got = made.get(name)
        if got is None or (got.dtype, got.shape) != (b.dtype, b.shape):
            problems.append(f"`{name}` is {'missing' if got is None else 'another dtype or shape'}")
            continue
        total = (b.end - b.start) // 2
        count = min(sample, total)
        at = (total - count) // 2
        y = _value(b.bits(at, count))
        x = _value(first[name].bits(at, count)) if name in first else y
        apart = _apart(_value(got.bits(at, count)), (x, y), shares)
        elements += count
        wrong += int(np.count_nonzero(apart))
        ulp = max(ulp, float(apart.max(initial=0)))
    return Numerics(elements, wrong, ulp, tuple(problems))


def round_once(numbers: Array) -> Array:
    """Return the bf16 bit patterns of float64 numbers, rounded to nearest even in one step.

    By way of float32, a number next to the middle between two neighbours would be rounded twice.
    """
    numbers = np.asarray(numbers, np.float64)
    bits = numbers.view(np.uint64)
    dropped = np.uint64(52 - 7)
    odd = (bits >> dropped) & np.uint64(1)
    rounded = (bits + ((np.uint64(1) << (dropped - np.uint64(1))) - np.uint64(1)) + odd) >> dropped
    normal = (rounded << dropped).view(np.float64)
    # Below the smallest normal number the steps are all of one size.
    small = np.rint(numbers * 2.0**133) * 2.0**-133
    exact = np.where(np.abs(numbers) < 2.0**-126, small, normal).astype(np.float32)
    return (exact.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _apart(got: Array, inputs: tuple[Array, Array], shares: tuple[int, int]) -> Array:
    """Return how far results are from the exact sum rounded once, in units in the last place."""
    terms = [x * (share / sum(shares)) for x, share in zip(inputs, shares, strict=True)]
    exact = (inputs[0] * shares[0] + inputs[1] * shares[1]) / sum(shares)
    expected = _value(round_once(exact))
    grain = np.abs(terms[0]) + np.abs(terms[1])
    unit = np.maximum(np.spacing(np.abs(expected)) * 2.0 ** (52 - 7), grain * 2.0**-23)
    return np.where(got == expected, 0.0, np.abs(got - expected) / np.maximum(unit, 2.0**-133))


def _value(bits: Array) -> Array:
    """Return the numbers of bf16 bit patterns."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
