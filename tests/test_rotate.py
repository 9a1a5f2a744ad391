"""`rotate`: the formula, what it leaves alone, memory, and what changes no bit."""

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

SHAPES = [(90, 60), (60, 90), (64, 64), (8, 4, 3, 3)]


def flat(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graded(shape: tuple[int, int], seed: int, least: float) -> Array:
    """A matrix whose singular values fall from 1 to `least`."""
    random = np.random.default_rng(seed)
    short = min(shape)
    u, v = (np.linalg.qr(random.standard_normal((side, short)))[0] for side in shape)
    return np.asarray((u * np.geomspace(1, least, short)) @ v.T).astype(np.float32)


def turn(n: int, seed: int) -> Array:
    """An orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def recipe(folder: Path, **parameters: Any) -> dict[str, Any]:
    models = {n: {"path": str(folder / f"{n}.safetensors"), "layout": "generic"} for n in "ab"}
    return {"models": models, "method": {"rotate": parameters}}


def merged(
    folder: Path, a: dict[str, Array], b: dict[str, Array], run: Any = None, **parameters: Any
) -> tuple[dict[str, Array], Report]:
    for name, tensors in (("a", a), ("b", b)):
        factory.write(folder / f"{name}.safetensors", tensors)
    out = folder / "out.safetensors"
    report = submerge.merge(recipe(folder, **parameters), out, overwrite=True, **(run or {}))
    return factory.read(out), report


def one(folder: Path, a: Array, b: Array, **parameters: Any) -> Array:
    return merged(folder, {"a": a}, {"a": b}, **parameters)[0]["a"]


def relative(got: Array, want: Array) -> float:
    """The error in Frobenius norm, relative to what is wanted."""
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))


@pytest.mark.parametrize("alignment", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_formula(tmp_path: Path, shape: tuple[int, ...], alignment: int) -> None:
    a, b = flat(shape, 1), flat(shape, 2)
    for alpha in (0.0, 0.3, 1.0, 1.4):
        got = one(tmp_path, a, b, alpha=alpha, alignment=alignment)
        assert relative(got, formulas_matrix.rotated(a, b, alpha, alignment)) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_a_part_of_the_way(tmp_path: Path, shape: tuple[int, ...]) -> None:
    # The seeds are chosen for both signs of the determinant.
    signs = set()
    for seed in (31, 32, 33, 34, 35):
        a, b = flat(shape, seed), flat(shape, seed + 100)
        x, y = (m.reshape(m.shape[0], -1).astype(np.float64) for m in (a, b))
        signs.add(np.sign(np.linalg.det(x.T @ y if len(x) >= x.shape[1] else x @ y.T)))
        for alignment, alpha in ((0.5, 0.0), (0.25, 0.3), (0.9, 1.0)):
            got = one(tmp_path, a, b, alpha=alpha, alignment=alignment)
            assert relative(got, formulas_matrix.rotated(a, b, alpha, alignment)) < 1e-6
    assert signs == {-1.0, 1.0}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alignment", [0, 0.4, 1])
@pytest.mark.parametrize("centralization", [1, 0.7])
def test_without_their_means(
    tmp_path: Path, shape: tuple[int, ...], alignment: float, centralization: float
) -> None:
    a, b = flat(shape, 36) + np.float32(0.7), flat(shape, 37) - np.float32(0.4)
    for alpha in (0.0, 0.3):
        given = {"alpha": alpha, "alignment": alignment, "centralization": centralization}
        want = formulas_matrix.rotated(a, b, alpha, alignment, centralization)
        if alpha == alignment == 0:
            want = a
        assert relative(one(tmp_path, a, b, **given), want) < 1e-6


def test_small_turns_add_up(tmp_path: Path) -> None:
    # A turn of known angles, a quarter of which four times is the whole: no complex numbers needed.
    angles = np.asarray([0.02, 0.02, 1e-5, 0.3, 1.2, 2.9, 3.1])
    planes = np.zeros((14, 14))
    for i, (c, s) in enumerate(zip(np.cos(angles), np.sin(angles), strict=True)):
        planes[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[c, -s], [s, c]]
    basis = turn(14, 38)
    a = flat((40, 14), 39)
    whole = a @ (basis @ planes @ basis.T)
    b = whole.astype(np.float32)
    step = a
    for rest in (4, 3, 2, 1):
        step = one(tmp_path, step, b, alpha=0.0, alignment=1 / rest)
    assert relative(step, whole) < 1e-5
    quarter = one(tmp_path, a, b, alpha=0.0, alignment=0.25).astype(np.float64)
    planes = np.zeros((14, 14))
    for i, (c, s) in enumerate(zip(np.cos(angles / 4), np.sin(angles / 4), strict=True)):
        planes[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[c, -s], [s, c]]
    assert relative(quarter, a @ (basis @ planes @ basis.T)) < 1e-6


def test_half_a_turn_goes_one_of_both_ways(tmp_path: Path) -> None:
    # Two columns with their signs turned: half of the way is a quarter turn of their plane.
    a = flat((50, 6), 40)
    b = a * np.asarray([-1, 1, -1, 1, 1, 1], np.float32)
    got = one(tmp_path, a, b, alpha=0.0, alignment=0.5)
    np.testing.assert_allclose(got[:, [1, 3, 4, 5]], a[:, [1, 3, 4, 5]], atol=1e-5)
    way = np.sign(got[0, 2] / a[0, 0])
    np.testing.assert_allclose(got[:, [0, 2]], way * a[:, [2, 0]] * [-1, 1], atol=1e-5)
    with pytest.raises(PlanError, match=r"`a`: 6 of 6 directions are turned by half a turn"):
        one(tmp_path, a, -a, alpha=0.0, alignment=0.5)
    assert relative(one(tmp_path, a, -a, alpha=0.0), -a) < 2e-7


@pytest.mark.parametrize("least", [1e-1, 1e-2, 1e-4])
def test_the_turned_model_is_as_near_as_can_be(tmp_path: Path, least: float) -> None:
    # The singular values of A^T B fall to the square of `least`.
    a = graded((80, 50), 3, least)
    b = (a.astype(np.float64) @ turn(50, 4) + 1e-3 * least * flat((80, 50), 5)).astype(np.float32)
    got = one(tmp_path, a, b, alpha=0.0).astype(np.float64)
    want = formulas_matrix.rotated(a, b, 0.0, 1)
    assert relative(got, want) < 1e-6
    assert np.linalg.norm(got - b) <= np.linalg.norm(want - b) + 1e-6
    gram = np.linalg.eigvalsh(got @ got.T) - np.linalg.eigvalsh(a.astype(np.float64) @ a.T)
    assert np.abs(gram).max() < 1e-6  # lengths and angles of rows are kept


@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (64, 64)])
def test_a_model_that_was_turned_is_turned_back(tmp_path: Path, shape: tuple[int, int]) -> None:
    a = graded(shape, 6, 0.05)
    q = turn(min(shape), 7)
    b = (a @ q if shape[0] >= shape[1] else q @ a).astype(np.float32)
    for alpha in (0.0, 0.5):
        assert relative(one(tmp_path, a, b, alpha=alpha), b) < 2e-7
    assert relative(one(tmp_path, a, b, alpha=1, alignment=0), a) < 2e-7


def test_the_ends_are_the_models(tmp_path: Path) -> None:
    a, b = flat((40, 30), 8), flat((40, 30), 9)
    np.testing.assert_array_equal(one(tmp_path, a, b, alpha=0, alignment=0), a)
    np.testing.assert_array_equal(one(tmp_path, a, b, alpha=1, alignment=1), b)


def deficient(shape: tuple[int, int], rank: int, seed: int) -> Array:
    """Whole numbers, so that nothing of lower rank is left by rounding."""
    random = np.random.default_rng(seed)
    left, right = (random.integers(-4, 5, size) for size in ((shape[0], rank), (rank, shape[1])))
    return np.asarray(left @ right).astype(np.float32)


SAME: dict[str, Array] = {
    "full": flat((50, 40), 10),
    "rank-deficient": deficient((50, 40), 7, 11),
    "badly conditioned": graded((40, 40), 12, 1e-6),
    "zero": np.zeros((20, 30), np.float32),
    "tiny": flat((20, 30), 13) * np.float32(1e-30),
    "huge": flat((20, 30), 14) * np.float32(1e30),
    "column": flat((30, 1), 15),
    "vector": flat((30,), 16),
    "scalar": np.asarray(0.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("name", SAME)
def test_a_model_and_itself_make_that_model(tmp_path: Path, name: str) -> None:
    a = SAME[name]
    for alignment in (0, 0.3, 1):
        got = one(tmp_path, a, a, alpha=0.3, alignment=alignment)
        scale = float(np.abs(a).max(initial=0)) or 1.0
        np.testing.assert_allclose(got / scale, a / scale, atol=1e-6)


def test_what_the_models_do_not_determine_is_left_alone(tmp_path: Path) -> None:
    # B is zero but for two columns, which are those of A exchanged: the others stay where they are.
    a = flat((50, 6), 17)
    a[:, 2:] -= a[:, :2] @ np.linalg.lstsq(a[:, :2], a[:, 2:], rcond=None)[0]
    b = np.zeros_like(a)
    b[:, 0], b[:, 1] = a[:, 1], a[:, 0]
    got = one(tmp_path, a, b, alpha=0.0)
    np.testing.assert_allclose(got, a[:, [1, 0, 2, 3, 4, 5]], atol=1e-5)
    zero = one(tmp_path, a, np.zeros_like(a), alpha=0.25)
    np.testing.assert_allclose(zero, 0.75 * a, rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 5])
def test_what_has_few_directions_keeps_lengths_and_angles(tmp_path: Path, rank: int) -> None:
    a, b = (deficient((40, 30), rank, seed).astype(np.float64) for seed in (18, 19))
    got = one(tmp_path, a.astype(np.float32), b.astype(np.float32), alpha=0.0).astype(np.float64)
    np.testing.assert_allclose(got @ got.T, a @ a.T, atol=1e-4 * np.abs(a @ a.T).max())
    # As near as any rotation: |A R|^2 is fixed, and <A R, B> is the sum of singular values.
    best = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    assert abs(np.sum(got * b) / best - 1) < 1e-5


TENSORS = [
    {"a.weight": flat((310, 290), s), "b.weight": flat((70, 300), s), "c.bias": flat((64,), s)}
    for s in (20, 21)
]


@pytest.mark.parametrize("given", [{}, {"alignment": 0.3, "centralization": 1}], ids=str)
def test_how_a_merge_is_run_changes_no_bit(tmp_path: Path, given: dict[str, Any]) -> None:
    runs: list[dict[str, Any]] = [{"isa": isa} for isa in build_info()["isas"]]
    runs += [{"threads": 1}, {"threads": 3, "chunk": 1 << 14}, {"io": "pread", "stats": False}]
    outputs = set()
    for run in runs:
        found, report = merged(tmp_path, TENSORS[0], TENSORS[1], run, **given)
        outputs.add(b"".join(found[name].tobytes() for name in sorted(found)))
    assert len(outputs) == 1
    assert "vectors: not rotated, in 1 unit: `c`" in report.summary["notes"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(tmp_path: Path, bad: float) -> None:
    a, b = flat((30, 20), 24), flat((30, 20), 25)
    a[3, 4] = bad
    with pytest.raises(PlanError) as caught:
        one(tmp_path, a, b)
    assert caught.value.message.startswith("`a`: 1 elements of the models are not finite")
    assert not (tmp_path / "out.safetensors").exists()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    a = flat((4, 4), 26)
    with pytest.raises(RecipeError) as caught:
        one(tmp_path, a, a, alignment=1.5)
    where = "recipe.method.rotate.alignment"
    assert caught.value.message == f"{where}: 1.5 for `a`, expected 0 to 1"
