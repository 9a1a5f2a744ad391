"""How many elements of a BF16 output are not the nearest to the formula in f64.

A few always are: weights and sums are rounded to F32 on the way, and a result within that of the
middle between two numbers may go either way. A result that lies in the middle itself must not, and
that of BF16 numbers of several exponents often does.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import factory
import formulas
import submerge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from formulas import Vector

ROWS, COLUMNS = 512, 1024


@functools.cache
def parents(count: int) -> tuple[Vector, ...]:
    """Weights of a matrix, and what training with different data made of them."""
    random = np.random.default_rng(count)
    base = 0.02 * random.standard_normal((ROWS, COLUMNS))
    each = [base + 0.004 * random.standard_normal(base.shape) for _ in range(count)]
    return tuple(x.astype(ml_dtypes.bfloat16) for x in each)


def nearest(x: Vector) -> Vector:
    """The nearest BF16 numbers, of two the even one: eight digits of the mantissa."""
    mantissa, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.rint(mantissa * 256) / 256, exponent))


def wrong(folder: Path, count: int, method: Any, exact: Callable[..., Vector]) -> float:
    """The share of the elements that are not the nearest."""
    names = "abcdefgh"[:count]
    paths = {}
    for name, x in zip(names, parents(count), strict=True):
        path = factory.write(folder / f"{name}.safetensors", {"w": x})
        paths[name] = {"path": str(path), "layout": "generic"}
    submerge.merge({"models": paths, "method": method}, folder / "out.safetensors")
    got = factory.read(folder / "out.safetensors")["w"].astype(np.float64)
    wanted = exact(*(x.astype(np.float64).ravel() for x in parents(count)))
    return float(np.mean(got.ravel() != nearest(wanted)))


def mean(*x: Vector, weights: Sequence[int] | None = None) -> Vector:
    """A sum that is exact in f64, and one division."""
    w = [1] * len(x) if weights is None else weights
    return np.asarray(sum(wi * xi for wi, xi in zip(w, x, strict=True)) / sum(w))


@pytest.mark.parametrize(
    "weights", [(1, 1, 1), (2, 1), (1, 1, 1, 1, 1), (3, 2, 2), (1,) * 6, (1,) * 7], ids=str
)
def test_a_mean_of_whole_parts_is_one_sum_and_one_division(
    tmp_path: Path, weights: tuple[int, ...]
) -> None:
    method = {"linear": {"weight": dict(zip("abcdefgh", weights, strict=False))}}
    share = wrong(tmp_path, len(weights), method, functools.partial(mean, weights=weights))
    assert share <= 3e-4


@pytest.mark.parametrize(
    ("count", "method", "exact"),
    [
        (3, "karcher", formulas.karcher),
        (2, "karcher", formulas.karcher),
        (3, "geometric_median", formulas.geometric_median),
        (2, {"slerp": {"alpha": 0.3}}, functools.partial(formulas.slerp, t=0.3)),
        (2, {"norm_lerp": {"alpha": 0.3}}, functools.partial(formulas.norm_lerp, t=0.3)),
        (
            3,
            {"multislerp": {"weight": {"a": 1, "b": 2, "c": 1}}},
            functools.partial(formulas.multislerp, weights=[1.0, 2.0, 1.0]),
        ),
    ],
    ids=["karcher", "karcher of two", "geometric_median", "slerp", "norm_lerp", "multislerp"],
)
def test_weights_from_norms_and_angles_are_as_good_as_f32(
    tmp_path: Path, count: int, method: Any, exact: Callable[..., Vector]
) -> None:
    assert wrong(tmp_path, count, method, exact) <= 3e-4
