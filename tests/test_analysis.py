"""What an analysis says of two models, against plain numpy in f64."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import boundary
import factory
from submerge import Analysis, PlanError, RecipeError, analyze

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.analysis.rows import Sums

Array = np.ndarray[Any, np.dtype[Any]]

DEV = factory.Flux(guidance=True, seed=2)


def generic(path: Path, **arrays: Array) -> Path:
    """A checkpoint of any tensors, in bf16 unless they are of another type already."""
    bf16 = factory.DTYPES["BF16"][0]
    held = {n: a.astype(bf16) if a.dtype == np.float64 else a for n, a in arrays.items()}
    return factory.write(path, held)


def wide(array: Array) -> Array:
    return array.astype(np.float64)


def cosine(x: Array, y: Array) -> float:
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def only(found: Analysis) -> Sums:
    (row,) = found.rows
    return row.sums


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    models = {"schnell": factory.SCHNELL, "krea": factory.KREA, "dev": DEV}
    for name, flux in models.items():
        factory.save_file(folder / name / "diffusers.safetensors", flux)
        factory.save_file(folder / name / "bfl.safetensors", flux, "bfl")
        factory.save_folder(folder / name / "sharded", flux, shards=3)
    return {name: folder / name for name in models}


def blocks(found: Analysis) -> list[dict[str, Any]]:
    return [{**row} for row in found.to_dict()["blocks"]]


def part(flux: factory.Flux, *names: str) -> Array:
    held = factory.tensors(flux)
    return np.concatenate([wide(held[name]).ravel() for name in names])


def test_the_figures_of_a_part_are_numpys(paths: dict[str, Path]) -> None:
    found = analyze(
        paths["schnell"] / "diffusers.safetensors",
        paths["krea"] / "diffusers.safetensors",
        paths["dev"] / "diffusers.safetensors",
    )
    (row,) = (r for r in blocks(found) if (r["block"], r["part"]) == ("single.1", "attn.q"))
    names = [f"single_transformer_blocks.1.attn.to_q.{kind}" for kind in ("weight", "bias")]
    a, b, base = (part(flux, *names) for flux in (factory.SCHNELL, factory.KREA, DEV))
    da, db = a - base, b - base
    both = (da != 0) & (db != 0)
    products = da * db
    want = {
        "elements": a.size,
        "units": 2,
        "identical_units": 0,
        "cosine": cosine(a, b),
        "norm_ratio": math.sqrt((b @ b) / (a @ a)),
        "norm_a": math.sqrt(a @ a),
        "norm_b": math.sqrt(b @ b),
        "delta_norm": math.sqrt((b - a) @ (b - a)),
        "relative_delta": math.sqrt((b - a) @ (b - a) / (a @ a)),
        "identical": float((a == b).mean()),
        "nonfinite": 0,
        "delta_cosine": cosine(da, db),
        "delta_norm_a": math.sqrt(da @ da),
        "delta_norm_b": math.sqrt(db @ db),
        "sign_conflict": float((products[both] < 0).mean()),
        "sign_conflict_weighted": float(
            np.abs(products[products < 0]).sum() / np.abs(products).sum()
        ),
    }
    assert {name: row[name] for name in want} == pytest.approx(want, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("layout", ["bfl.safetensors", "sharded"])
@pytest.mark.parametrize(
    "run", [{"threads": 1}, {"chunk": "128KiB", "threads": 3}, {"isa": "scalar"}, {"io": "pread"}]
)
def test_neither_layout_nor_run_changes_a_figure(
    paths: dict[str, Path], layout: str, run: dict[str, Any]
) -> None:
    def of(name: str, **options: Any) -> list[dict[str, Any]]:
        models = [paths[model] / name for model in ("schnell", "krea", "dev")]
        return blocks(analyze(*models, **options))

    assert of(layout, **run) == of("diffusers.safetensors")


def test_rows_follow_execution_and_add_up(paths: dict[str, Path]) -> None:
    found = analyze(*(paths[name] / "sharded" for name in ("schnell", "krea")))
    names = [row.block for row in found.grouped("block")]
    assert names == ["embed", "double.0", "double.1", "single.0", "single.1", "final"]
    for by in ("part", "block"):
        grouped = found.grouped(by)
        assert sum(row.sums.elements for row in grouped) == found.total().elements
    assert any("only `b` has: 4 units" in note for note in found.notes)
    total = found.total()
    held = {n: factory.tensors(f) for n, f in (("a", factory.SCHNELL), ("b", factory.KREA))}
    a, b = (np.concatenate([wide(m[n]).ravel() for n in held["a"]]) for m in held.values())
    assert total.elements == a.size
    assert total.cosine == pytest.approx(cosine(a, b), abs=1e-7)


@pytest.mark.parametrize(("dtype", "kept"), [("BF16", 8), ("F16", 11), ("F8_E4M3", 4)])
@pytest.mark.parametrize("alpha", [0.5, 0.1, -1.0])
def test_below_rounding_is_less_than_half_a_step(
    tmp_path: Path, dtype: str, kept: int, alpha: float
) -> None:
    random = np.random.default_rng(3)
    a = random.standard_normal((40, 300)).astype(np.float32)
    a[0, :50] = 0
    a[1] *= 1e-6
    b = (a + a * random.standard_normal(a.shape) * 0.02).astype(np.float32)
    b[2] = a[2]
    paths = [generic(tmp_path / f"{n}.safetensors", w=x) for n, x in (("a", a), ("b", b))]
    found = analyze(*paths, alpha=alpha, dtype=dtype.lower(), layout="generic")
    _, exponent = np.frexp(np.abs(a))
    smallest = {"BF16": -125, "F16": -13, "F8_E4M3": -5}[dtype]
    step = np.ldexp(1.0, np.maximum(np.where(a == 0, smallest, exponent), smallest) - kept)
    lost = (a != b) & (np.abs(np.float32(alpha) * (b - a)) < step / 2)
    assert 0 < lost.sum() < lost.size
    assert only(found).below_rounding == lost.sum()
    assert only(found).identical == (a == b).sum()


def spectrum(rank: int, shape: tuple[int, int], seed: int) -> Array:
    random = np.random.default_rng(seed)
    if rank == 0:
        return random.standard_normal(shape)
    return random.standard_normal((shape[0], rank)) @ random.standard_normal((rank, shape[1]))


@pytest.mark.parametrize("shape", [(384, 512), (512, 1500), (700, 64)])
@pytest.mark.parametrize("rank", [1, 2, 8, 0])
def test_the_effective_rank_is_near_that_of_the_singular_values(
    tmp_path: Path, shape: tuple[int, int], rank: int
) -> None:
    random = np.random.default_rng(11)
    a = random.standard_normal(shape).astype(np.float32)
    delta = spectrum(rank, shape, 5).astype(np.float32)
    b = a + delta * np.float32(0.01)
    paths = [generic(tmp_path / f"{n}.safetensors", w=x) for n, x in (("a", a), ("b", b))]
    found = only(analyze(*paths, layout="generic"))
    values = np.linalg.svd(wide(b) - wide(a), compute_uv=False) ** 2
    exact = values.sum() ** 2 / (values @ values)
    assert found.effective_rank is not None
    assert found.effective_rank == pytest.approx(exact, rel=0.01 if rank == 1 else 0.3)
    assert found.effective_rank >= 1


def test_the_rank_estimate_is_right_on_average(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    shape, ratios = (96, 128), []
    a, b = {}, {}
    for i in range(60):
        a[f"w{i}"] = np.zeros(shape, np.float32)
        b[f"w{i}"] = spectrum(i % 12, shape, i).astype(np.float32)
        # The sketch's signs belong to columns: shuffle what lies in them.
        b[f"w{i}"] = b[f"w{i}"][:, random.permutation(shape[1])]
    for name in a:
        paths = [
            generic(tmp_path / f"{n}.safetensors", **{name: x[name]})
            for n, x in (("a", a), ("b", b))
        ]
        found = only(analyze(*paths, layout="generic"))
        values = np.linalg.svd(wide(b[name]), compute_uv=False) ** 2
        assert found.effective_rank is not None
        ratios.append(found.effective_rank * (values @ values) / values.sum() ** 2)
    assert np.mean(ratios) == pytest.approx(1, abs=0.08)
    assert np.std(ratios) < 0.25


def test_deltas_from_a_base_have_ranks_of_their_own(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    base = random.standard_normal((256, 320)).astype(np.float32)
    a = base + spectrum(0, base.shape, 1).astype(np.float32)
    b = base + spectrum(1, base.shape, 2).astype(np.float32)
    models = {"a": a, "b": b, "base": base}
    paths = [generic(tmp_path / f"{n}.safetensors", w=x) for n, x in models.items()]
    figures = blocks(analyze(*paths, layout="generic"))[0]
    assert figures["effective_rank_b"] == pytest.approx(1, rel=0.01)
    assert figures["effective_rank_a"] == pytest.approx(256 * 320 / 576, rel=0.3)
    values = np.linalg.svd(wide(b) - wide(a), compute_uv=False) ** 2
    exact = values.sum() ** 2 / (values @ values)
    # One direction that outweighs the noise is the hardest case: it meets few of the buckets.
    assert figures["effective_rank"] == pytest.approx(exact, rel=0.6)


def test_non_finite_elements_are_located_and_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    a = random.standard_normal((64, 3000)).astype(np.float32)
    b = a + random.standard_normal(a.shape).astype(np.float32) * np.float32(0.1)
    a[7, 2999], a[9, 5], b[9, 5], b[63, 0] = np.nan, np.inf, np.inf, -np.inf
    paths = [generic(tmp_path / f"{n}.safetensors", w=x) for n, x in (("a", a), ("b", b))]
    found = analyze(*paths, layout="generic")
    places = [(f.model, f.unit, f.elements, f.first, f.row) for f in found.nonfinite]
    assert places == [("a", "w", 2, 7 * 3000 + 2999, 7), ("b", "w", 2, 9 * 3000 + 5, 9)]
    fine = np.isfinite(a) & np.isfinite(b)
    x, y = wide(a[fine]), wide(b[fine])
    sums = only(found)
    assert sums.identical == (a == b).sum()
    assert sums.delta2 == pytest.approx((y - x) @ (y - x), rel=1e-6)
    assert sums.effective_rank == pytest.approx(64 * 3000 / 3064, rel=0.3)
    assert "a: 2 non-finite elements in `w`, the first is element 23,999, row 7" in found.table()


def test_huge_and_tiny_values_do_not_break_it(tmp_path: Path) -> None:
    base = np.full((8, 64), 1e30, np.float32)
    a, b = base * np.float32(2), base * np.float32(-1)
    models = {"a": a, "b": b, "base": base}
    paths = [generic(tmp_path / f"{n}.safetensors", w=x) for n, x in models.items()]
    sums = only(analyze(*paths, layout="generic"))
    assert sums.cosine == pytest.approx(-1)
    assert sums.delta_cosine == pytest.approx(-1)
    assert sums.sign_conflict == 1
    assert sums.effective_rank is None


def test_identical_models_have_no_delta_and_no_rank(paths: dict[str, Path]) -> None:
    found = analyze(
        paths["krea"] / "bfl.safetensors", paths["krea"] / "sharded", paths["dev"] / "sharded"
    )
    total = found.total()
    assert total.identical == total.elements
    assert total.identical_units == total.units
    assert (total.delta2, total.effective_rank, total.below_rounding) == (0, None, 0)
    assert total.sign_conflict == 0
    assert "units are identical in both models" in found.table()


def test_vectors_and_scalars_are_looked_at_without_a_rank(tmp_path: Path) -> None:
    arrays = {"bias": np.arange(5.0), "scale": np.array(2.0), "row": np.ones((1, 4))}
    a = generic(tmp_path / "a.safetensors", **arrays)
    b = generic(tmp_path / "b.safetensors", **{n: x + 1 for n, x in arrays.items()})
    sums = only(analyze(a, b, layout="generic"))
    assert (sums.units, sums.elements, sums.effective_rank) == (3, 10, None)
    assert sums.delta2 == 10


def test_a_saved_analysis_comes_back_the_same(paths: dict[str, Path], tmp_path: Path) -> None:
    found = analyze(*(paths[name] / "sharded" for name in ("schnell", "krea", "dev")))
    saved = found.save(tmp_path / "analysis.json")
    held = json.loads(saved.read_text())
    assert held["format"] == "submerge-analysis/1"
    assert set(held["models"]) == {"a", "b", "base"}
    assert held["totals"]["elements"] == found.total().elements
    again = Analysis.load(saved)
    assert (again.rows, again.notes, again.table()) == (found.rows, found.notes, found.table())
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("text", ["{}", "[1]", "no json", '{"format": "other/1"}'])
def test_a_file_that_is_no_analysis_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"expected|not JSON"):
        Analysis.load(path)


def test_arguments_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="alpha: expected a finite number, got nan"):
        analyze(tmp_path / "none", tmp_path / "none", alpha=math.nan)
    with pytest.raises(RecipeError, match="dtype: expected one of same, bf16"):
        analyze(tmp_path / "none", tmp_path / "none", dtype="int8")


@pytest.mark.parametrize(
    ("models", "alpha", "mode", "message"),
    [
        (2, 0.5, "write", "plan unit `w`: `analyze` makes nothing to write"),
        (2, 0.5, "check", "plan unit `w`: `analyze` makes nothing to write"),
        (4, 0.5, "measure", "plan unit `w`: 4 operands, expected 2 or 3"),
        (1, 0.5, "measure", "plan unit `w`: 1 operands, expected 2 or 3"),
        (2, 1e999, "measure", "plan: not in the expected form"),
    ],
)
def test_the_core_refuses_an_analysis_that_is_none(
    tmp_path: Path, models: int, alpha: float, mode: str, message: str
) -> None:
    path = generic(tmp_path / "a.safetensors", w=np.ones((4, 4), np.float32))
    held = boundary.blended(tmp_path / "out.safetensors", [path] * models, [1.0] * models)
    for unit in held["units"]:
        unit["op"] = {"analyze": {"alpha": alpha}}
    with pytest.raises(PlanError) as refused:
        boundary.execute(held, mode=mode)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_small_budget_is_kept_or_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    a = random.standard_normal((900, 700)).astype(np.float32)
    paths = [generic(tmp_path / f"{n}.safetensors", w=x) for n, x in (("a", a), ("b", a + 1))]
    plain = analyze(*paths, layout="generic")
    small = analyze(*paths, layout="generic", memory_budget="900KiB", threads=4)
    assert small.rows == plain.rows
    assert small.run is not None
    assert small.run.working_bytes <= 900 << 10
    with pytest.raises(PlanError, match=r"memory_budget: .* of working memory"):
        analyze(*paths, layout="generic", memory_budget="100KiB")
