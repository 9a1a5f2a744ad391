"""Methods of whole matrices beside scipy's linear algebra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import linalg

import factory
import submerge

if TYPE_CHECKING:
    from pathlib import Path

    Array = np.ndarray[Any, np.dtype[Any]]


def flat(shape: tuple[int, int], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def merged(folder: Path, models: dict[str, Array], **recipe: Any) -> Array:
    paths = {}
    for name, x in models.items():
        factory.write(folder / f"{name}.safetensors", {"x": x})
        paths[name] = {"path": str(folder / f"{name}.safetensors"), "layout": "generic"}
    out = folder / "out.safetensors"
    submerge.merge({"models": paths, **recipe}, out, overwrite=True)
    return factory.read(out)["x"].astype(np.float64)


def relative(got: Array, want: Array) -> float:
    return float(linalg.norm(got - want) / linalg.norm(want))


@pytest.mark.parametrize("shape", [(150, 70), (90, 90), (70, 150)])
def test_a_rotation_is_that_of_procrustes(tmp_path: Path, shape: tuple[int, int]) -> None:
    a, b = flat(shape, 1), flat(shape, 2)
    wide = shape[0] < shape[1]
    x, y = (m.T.astype(np.float64) if wide else m.astype(np.float64) for m in (a, b))
    turn, _ = linalg.orthogonal_procrustes(x, y)
    got = merged(tmp_path, {"a": a, "b": b}, method={"rotate": {"alpha": 0.0}})
    assert relative(got.T if wide else got, x @ turn) < 1e-6


@pytest.mark.parametrize("alignment", [0.125, 0.5, 0.8])
@pytest.mark.parametrize("seed", [3, 4, 5, 6])
def test_a_part_of_it_is_its_fractional_power(tmp_path: Path, alignment: float, seed: int) -> None:
    a, b = flat((100, 60), seed), flat((100, 60), seed + 10)
    x, y = a.astype(np.float64), b.astype(np.float64)
    u, _, vt = linalg.svd(x.T @ y)
    u[:, -1] *= np.sign(linalg.det(u @ vt))
    part = linalg.fractional_matrix_power(u @ vt, alignment)
    back = linalg.fractional_matrix_power(u @ vt, alignment - 1)
    assert np.abs(part.imag).max() < 1e-9
    given = {"alpha": 0.25, "alignment": alignment}
    got = merged(tmp_path, {"a": a, "b": b}, method={"rotate": given})
    assert relative(got, 0.75 * x @ part.real + 0.25 * y @ back.real) < 1e-6


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (250, 40)])
def test_knots_of_two_is_the_larger_or_their_mean(tmp_path: Path, shape: tuple[int, int]) -> None:
    # All that TIES does with two models: where signs agree their mean, else the larger.
    deltas = [flat(shape, 7), flat(shape, 8)]
    u, s, vt = linalg.svd(np.concatenate(deltas, axis=1).astype(np.float64), full_matrices=False)
    left, right = np.split(s[:, None] * vt, 2, axis=1)
    agree = np.sign(left) == np.sign(right)
    larger = np.where(np.abs(left) > np.abs(right), left, right)
    want = u @ np.where(agree, (left + right) / 2, larger)
    models = {"base": np.zeros(shape, np.float32), "a": deltas[0], "b": deltas[1]}
    assert relative(merged(tmp_path, models, base="base", method="knots"), want) < 1e-6
