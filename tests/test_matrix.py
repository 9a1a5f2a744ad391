"""Methods of whole matrices: accuracy, degenerate matrices, memory, and what changes no bit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import formulas_matrix
import submerge
from jobs import GENEROUS
from submerge import Cancelled, PlanError, RecipeError
from submerge.run import build_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from submerge.report import Report

    Array = np.ndarray[Any, np.dtype[Any]]

MEGABYTE = 1 << 20


def falling(shape: tuple[int, int], seed: int, ratio: float = 0.85) -> Array:
    """A matrix whose singular values fall by `ratio` from one to the next."""
    random = np.random.default_rng(seed)
    short = min(shape)
    u, _ = np.linalg.qr(random.standard_normal((shape[0], short)))
    v, _ = np.linalg.qr(random.standard_normal((shape[1], short)))
    return np.asarray((u * ratio ** np.arange(short)) @ v.T).astype(np.float32)


def flat(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def merged(
    folder: Path, deltas: list[dict[str, Array]], method: str | dict[str, Any], **run: Any
) -> tuple[dict[str, Array], Report]:
    """What a method makes of deltas on a base of zeros."""
    base = {name: np.zeros_like(d) for name, d in deltas[0].items()}
    models = {}
    for i, tensors in enumerate([base, *deltas]):
        path = folder / f"m{i}.safetensors"
        factory.write(path, tensors)
        models["base" if i == 0 else f"m{i}"] = {"path": str(path), "layout": "generic"}
    made = {"models": models, "base": "base", "method": method}
    out = folder / "out.safetensors"
    report = submerge.merge(made, out, overwrite=True, **run)
    return factory.read(out), report


def relative(got: Array, want: Array) -> float:
    """The error in Frobenius norm, relative to what is wanted."""
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))


SHAPES = [(300, 400), (400, 300), (320, 320)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 12, 40, 250])
def test_a_falling_spectrum_is_cut_exactly(
    tmp_path: Path, shape: tuple[int, int], rank: int
) -> None:
    # Ranks 1, 12 and 40 by iteration, 250 by the whole decomposition.
    d = falling(shape, 1)
    found, report = merged(tmp_path, [{"a": d}], {"truncated_svd": {"rank": rank}})
    best = formulas_matrix.truncated(d.astype(np.float64), rank)
    assert relative(found["a"], best) < 2e-7
    held = 100 * np.linalg.norm(best) ** 2 / np.linalg.norm(d.astype(np.float64)) ** 2
    assert (
        f"rank {rank} keeps {held:.0f} % of the difference, in 1 unit: `**`"
        in report.summary["notes"]
    )


def test_a_flat_spectrum_is_cut_nearly_as_well_as_can_be(tmp_path: Path) -> None:
    d = flat((500, 400), 2)
    found, _ = merged(tmp_path, [{"a": d}], {"truncated_svd": {"rank": 50}})
    s = np.linalg.svd(d.astype(np.float64), compute_uv=False)
    least = np.sqrt(np.sum(s[50:] ** 2))
    assert np.linalg.matrix_rank(found["a"].astype(np.float64), tol=1e-4) == 50
    assert np.linalg.norm(found["a"].astype(np.float64) - d) < 1.001 * least


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_the_least_rank_that_keeps_the_energy(tmp_path: Path, share: float) -> None:
    d = flat((120, 90), 3)
    found, _ = merged(tmp_path, [{"a": d}], {"truncated_svd": {"energy": share}})
    assert relative(found["a"], formulas_matrix.energetic(d.astype(np.float64), share)) < 2e-7


@pytest.mark.parametrize("shape", SHAPES)
def test_all_directions_get_one_strength(tmp_path: Path, shape: tuple[int, int]) -> None:
    d = flat(shape, 4)
    found, _ = merged(tmp_path, [{"a": d}], "iso_c")
    want = formulas_matrix.isotropic(d.astype(np.float64), 1)
    # The smallest direction of a square matrix is a thousandth of the largest.
    assert relative(found["a"], want) < 1e-6
    s = np.linalg.svd(found["a"].astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(s, s.mean(), rtol=1e-5)


DEGENERATE: dict[str, Array] = {
    "zero": np.zeros((40, 30), np.float32),
    "rank-1": np.outer(flat((40,), 5), flat((30,), 6)),
    "diagonal": np.diag(np.arange(1, 31)).astype(np.float32),
    "equal": np.eye(32, dtype=np.float32),
    "one column": flat((50, 1), 7),
    "one row": flat((1, 50), 8),
    "one element": flat((1, 1), 9),
    "tall": flat((1000, 3), 10),
    "wide": flat((2, 900), 11),
    "tiny": flat((20, 30), 12) * np.float32(1e-30),
    "huge": flat((20, 30), 13) * np.float32(1e30),
    "vector": flat((70,), 14),
    "scalar": np.asarray(0.5, np.float32),
    "blocks": flat((8, 4, 3, 3), 15),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [None, 8])
def test_directions_of_models_become_orthogonal(
    tmp_path: Path, shape: tuple[int, int], rank: int | None
) -> None:
    # By the whole decomposition, and by iteration.
    deltas = [falling(shape, seed, 0.97 if rank is None else 0.7) for seed in (24, 25)]
    method = {"tsv_m": {} if rank is None else {"rank": rank}}
    found, _ = merged(tmp_path, [{"a": d} for d in deltas], method)
    want = formulas_matrix.decorrelated([d.astype(np.float64) for d in deltas], rank)
    assert relative(found["a"], want) < 1e-6


def test_equal_models_are_counted_once_in_strength(tmp_path: Path) -> None:
    # Their directions are the same: half of the sum of their strengths remains on each.
    d = falling((60, 50), 26, 0.8)
    found, _ = merged(tmp_path, [{"a": d}, {"a": d}], {"tsv_m": {"rank": 10}})
    assert relative(found["a"], formulas_matrix.truncated(d.astype(np.float64), 10)) < 1e-5


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_matrices(tmp_path: Path, name: str) -> None:
    d = DEGENERATE[name]
    exact = formulas_matrix.summed(np.zeros_like(d), [d], [1.0]) if d.size else d
    cases: list[tuple[Any, Callable[[], Array]]] = [
        ({"truncated_svd": {"rank": 2}}, lambda: formulas_matrix.truncated(exact, 2)),
        ({"truncated_svd": {"rank": 5000}}, lambda: exact),
        ({"truncated_svd": {"energy": 1}}, lambda: exact),
        ("iso_c", lambda: strong(exact)),
        ("tsv_m", lambda: exact),
    ]
    for method, want in cases:
        found, _ = merged(tmp_path, [{"a": d}], method)
        assert found["a"].shape == d.shape
        if d.size:
            scale = float(np.abs(exact).max()) or 1.0
            wanted = want().reshape(d.shape)
            if name == "equal" and method == {"truncated_svd": {"rank": 2}}:
                # Any two of equal directions are right.
                s = np.linalg.svd(found["a"].astype(np.float64), compute_uv=False)
                np.testing.assert_allclose(s[:2], 1, rtol=1e-6)
                assert s[2:].max() < 1e-6
                continue
            np.testing.assert_allclose(found["a"] / scale, wanted / scale, atol=1e-6)


def strong(d: Array) -> Array:
    """Isotropic over the directions that have a strength."""
    u, s, vt = np.linalg.svd(d, full_matrices=False)
    keep = s > 1e-6 * max(s[0], 1e-300)
    return np.asarray(np.mean(s) * (u[:, keep] @ vt[keep]))


@pytest.mark.parametrize("method", ["iso_c", "tsv_m"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(tmp_path: Path, bad: float, method: str) -> None:
    d = flat((30, 20), 16)
    d[3, 4] = bad
    with pytest.raises(PlanError) as caught:
        merged(tmp_path, [{"good": flat((8, 8), 1), "worse": d}], method)
    assert caught.value.message.startswith("`worse`: 1 elements of the difference are not finite")
    assert "rule" in str(caught.value.hint)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("method", ["iso_c", "tsv_m"])
def test_vectors_are_told_of(tmp_path: Path, method: str) -> None:
    deltas = [{"a.weight": flat((9, 7), i), "a.bias": flat((7,), i)} for i in (17, 18)]
    found, report = merged(tmp_path, deltas, method)
    np.testing.assert_allclose(found["a.bias"], (deltas[0]["a.bias"] + deltas[1]["a.bias"]) / 2)
    assert "vectors: mean of the differences, in 1 unit: `a.bias`" in report.summary["notes"]


MATRICES = {
    "a.weight": falling((310, 290), 19),
    "b.weight": flat((140, 600), 20),
    "c.weight": flat((64, 48), 21),
    "c.bias": flat((64,), 22),
}
METHODS: list[Any] = [
    {"truncated_svd": {"rank": 9}},
    {"truncated_svd": {"energy": 0.5}},
    "iso_c",
    {"tsv_m": {"rank": 9}},
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_how_a_merge_is_run_changes_no_bit(tmp_path: Path, method: Any) -> None:
    runs: list[dict[str, Any]] = [{"isa": isa} for isa in build_info()["isas"]]
    runs += [{"threads": 1}, {"threads": 3, "chunk": 1 << 14}, {"io": "pread", "stats": False}]
    outputs = set()
    for run in runs:
        found, _ = merged(tmp_path, [MATRICES], method, **run)
        outputs.add(b"".join(found[name].tobytes() for name in sorted(found)))
    assert len(outputs) == 1


def test_the_plan_says_what_a_matrix_needs(tmp_path: Path) -> None:
    d = {"a": flat((700, 600), 23)}
    _, report = merged(tmp_path, [d], "iso_c", threads=2)
    one = report.run.working_bytes // report.run.threads
    assert report.run.threads == 2
    # Four bytes an element, two squares of the short side, panels, windows.
    assert 4 * 700 * 600 + 16 * 600 * 600 < one < 40 * MEGABYTE
    with pytest.raises(
        PlanError, match=r"too few, expected at least \d+ for whole matrices"
    ) as caught:
        merged(tmp_path, [d], "iso_c", memory_budget=8 * MEGABYTE)
    assert "`memory_budget`" in str(caught.value.hint)
    _, report = merged(tmp_path, [d], "iso_c", threads=2, memory_budget=one + MEGABYTE)
    assert report.run.threads == 1


def test_a_decomposition_can_be_left_in_the_middle(tmp_path: Path) -> None:
    asked: list[float] = []

    def progress(done: int, total: int) -> bool:
        assert 0 <= done < total
        asked.append(time.monotonic())
        return False

    with pytest.raises(Cancelled):
        merged(tmp_path, [{"a": flat((1600, 1600), 29)}], "iso_c", progress=progress)
    assert time.monotonic() - asked[0] < GENEROUS
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"rank": 0},
            "recipe.method.truncated_svd.rank: 0 for `a`, expected a whole number above 0",
        ),
        ({"rank": 1.5}, "recipe.method.truncated_svd.rank: 1.5 for `a`, expected a whole number"),
        ({"energy": 0}, "recipe.method.truncated_svd.energy: 0 for `a`, expected a share above 0"),
        (
            {"rank": 2, "energy": 1},
            "recipe.method.truncated_svd: both `rank` and `energy` are given",
        ),
        ({"delta_base": "m2"}, "recipe.method.truncated_svd.delta_base: no model is called `m2`"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        merged(tmp_path, [{"a": flat((4, 4), 1)}], {"truncated_svd": parameters})
    assert caught.value.message.startswith(message)
    assert not (tmp_path / "out.safetensors").exists()
