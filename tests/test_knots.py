"""`knots`: the formula, how it relates to `ties`, degenerate matrices, memory, equal bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import formulas_matrix
import submerge
from submerge import PlanError, RecipeError
from submerge.run import build_info

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.report import Report

    Array = np.ndarray[Any, np.dtype[Any]]

MEGABYTE = 1 << 20
# Decomposed on the left; on the left though tall; on the right.
SHAPES = [(60, 90), (90, 60), (200, 60), (8, 4, 3, 3)]


def flat(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def low(shape: tuple[int, int], rank: int, seed: int) -> Array:
    """A difference as adapters make it."""
    return flat((shape[0], rank), seed) @ flat((rank, shape[1]), seed + 50)


def recipe(folder: Path, models: int, **parameters: Any) -> dict[str, Any]:
    names = ["base", *(f"m{i}" for i in range(1, models + 1))]
    paths = {n: {"path": str(folder / f"{n}.safetensors"), "layout": "generic"} for n in names}
    return {"models": paths, "base": "base", "method": {"knots": parameters}}


def merged(
    folder: Path, deltas: list[dict[str, Array]], run: Any = None, **parameters: Any
) -> tuple[dict[str, Array], Report]:
    """What is made of deltas on a base of zeros."""
    zeros = {name: np.zeros_like(d) for name, d in deltas[0].items()}
    for name, tensors in zip(recipe(folder, len(deltas))["models"], [zeros, *deltas], strict=True):
        factory.write(folder / f"{name}.safetensors", tensors)
    out = folder / "out.safetensors"
    made = recipe(folder, len(deltas), **parameters)
    report = submerge.merge(made, out, overwrite=True, **(run or {}))
    return factory.read(out), report


def one(folder: Path, deltas: list[Array], **parameters: Any) -> Array:
    return merged(folder, [{"a": d} for d in deltas], **parameters)[0]["a"]


def wanted(deltas: list[Array], weights: list[float] | None = None, **given: Any) -> Array:
    each = [d.reshape(d.shape[0] if d.ndim > 1 else d.size, -1).astype(np.float64) for d in deltas]
    found = formulas_matrix.shared(each, weights or [1.0] * len(deltas), **given)
    return found.reshape(deltas[0].shape)


def relative(got: Array, want: Array) -> float:
    """The error in Frobenius norm, relative to what is wanted."""
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_the_formula(tmp_path: Path, shape: tuple[int, ...], models: int, density: float) -> None:
    deltas = [flat(shape, seed) for seed in range(models)]
    got = one(tmp_path, deltas, density=density)
    assert relative(got, wanted(deltas, density=density)) < 1e-6


@pytest.mark.parametrize("signs", ["plain", "sum", "count"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [(60, 90), (200, 40)])
def test_the_parameters_are_those_of_ties(
    tmp_path: Path, shape: tuple[int, int], signs: str, *, normalize: bool
) -> None:
    deltas, weights = [flat(shape, seed) for seed in (1, 2, 3)], [0.7, 1.3, 0.4]
    named = dict(zip(("m1", "m2", "m3"), weights, strict=True))
    given = {"weight": named, "density": 0.6, "normalize": normalize, "consensus": signs}
    got = one(tmp_path, deltas, **given, **{"lambda": 0.5})
    want = 0.5 * wanted(deltas, weights, density=0.6, normalize=normalize, signs=signs)
    assert relative(got, want) < 1e-6


@pytest.mark.parametrize("shape", [(80, 120), (120, 80), (300, 40)])
def test_adapters_share_few_directions(tmp_path: Path, shape: tuple[int, int]) -> None:
    deltas = [low(shape, 4, seed) for seed in (5, 6)]
    _, report = merged(tmp_path, [{"a": d} for d in deltas], density=0.4)
    assert "directions of no strength left out, in 1 unit: `**`" in report.summary["notes"]
    got = factory.read(tmp_path / "out.safetensors")["a"]
    assert relative(got, wanted(deltas, density=0.4)) < 1e-4  # rounding makes weak directions
    assert np.linalg.matrix_rank(got.astype(np.float64), tol=1e-3) <= 8


def test_one_model_and_equal_models_are_themselves(tmp_path: Path) -> None:
    for shape in ((40, 60), (150, 60)):
        d = flat(shape, 7)
        assert relative(one(tmp_path, [d]), d) < 1e-6
        assert relative(one(tmp_path, [d, d, d]), d) < 1e-6


def test_a_turned_output_turns_the_result(tmp_path: Path) -> None:
    # What `ties` lacks: the vote is in a basis that turns with the models.
    deltas = [flat((50, 70), seed) for seed in (8, 9)]
    q = np.linalg.qr(np.random.default_rng(10).standard_normal((50, 50)))[0]
    turned = [(q @ d).astype(np.float32) for d in deltas]
    plain, other = (one(tmp_path, each, density=0.5) for each in (deltas, turned))
    assert relative(other, q @ plain) < 1e-5
    ties = [
        formulas_matrix.voted([d.astype(np.float64) for d in each], [1, 1], 0.5, normalize=True,
                              signs="plain")
        for each in (deltas, turned)
    ]  # fmt: skip
    assert relative(ties[1], q @ ties[0]) > 0.1


def test_where_models_cancel_those_that_point_up_win(tmp_path: Path) -> None:
    d = flat((30, 40), 11)
    got = one(tmp_path, [d, -d])
    u, _, _ = np.linalg.svd(d.astype(np.float64), full_matrices=False)
    u = u * np.sign(np.take_along_axis(u, np.abs(u).argmax(axis=0)[None], 0))
    assert relative(got, u @ np.abs(u.T @ d)) < 1e-6


DEGENERATE: dict[str, list[Array]] = {
    "zero": [np.zeros((20, 30), np.float32)] * 2,
    "tall zero": [np.zeros((90, 30), np.float32)] * 2,
    "tiny": [flat((20, 30), seed) * np.float32(1e-30) for seed in (12, 13)],
    "huge": [flat((20, 30), seed) * np.float32(1e30) for seed in (14, 15)],
    "one column": [flat((50, 1), seed) for seed in (16, 17)],
    "one row": [flat((1, 50), seed) for seed in (18, 19)],
    "vector": [flat((70,), seed) for seed in (20, 21)],
    "scalar": [np.asarray(x, np.float32) for x in (0.5, -0.25)],
    "two columns": [flat((900, 2), seed) for seed in (22, 23)],
    "two rows": [flat((2, 900), seed) for seed in (24, 25)],
    "empty": [np.zeros((0, 4), np.float32)] * 2,
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("density", [1.0, 0.5, 0.0])
def test_degenerate_matrices(tmp_path: Path, name: str, density: float) -> None:
    deltas = DEGENERATE[name]
    got = one(tmp_path, deltas, density=density)
    assert got.shape == deltas[0].shape
    if got.size:
        scale = float(max(np.abs(d).max() for d in deltas)) or 1.0
        want = wanted(deltas, density=density) if density else np.zeros_like(got)
        np.testing.assert_allclose(got / scale, want / scale, atol=3e-6)


def test_vectors_are_told_of(tmp_path: Path) -> None:
    deltas = [{"a.weight": flat((9, 7), i), "a.bias": flat((7,), i)} for i in (26, 27)]
    found, report = merged(tmp_path, deltas)
    want = wanted([d["a.bias"] for d in deltas])
    np.testing.assert_allclose(found["a.bias"], want, rtol=1e-6)
    assert "vectors: voted on as they are, in 1 unit: `a.bias`" in report.summary["notes"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(tmp_path: Path, bad: float) -> None:
    deltas = [flat((30, 20), seed) for seed in (28, 29)]
    deltas[1][3, 4] = bad
    with pytest.raises(PlanError) as caught:
        one(tmp_path, deltas)
    assert caught.value.message.startswith("`a`: 1 elements of the difference are not finite")
    assert not (tmp_path / "out.safetensors").exists()


TENSORS = [
    {"a.weight": flat((310, 290), s), "b.weight": flat((500, 70), s), "c.bias": flat((64,), s)}
    for s in (30, 31)
]


def test_how_a_merge_is_run_changes_no_bit(tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = [{"isa": isa} for isa in build_info()["isas"]]
    runs += [{"threads": 1}, {"threads": 3, "chunk": 1 << 14}, {"io": "pread", "stats": False}]
    outputs = set()
    for run in runs:
        found, _ = merged(tmp_path, TENSORS, run, density=0.4)
        outputs.add(b"".join(found[name].tobytes() for name in sorted(found)))
    assert len(outputs) == 1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.method\.knots\.density"):
        one(tmp_path, [flat((4, 4), 34)], density=1.5)
    with pytest.raises(RecipeError, match=r"recipe\.method\.knots.*`rank`"):
        one(tmp_path, [flat((4, 4), 34)], rank=3)
