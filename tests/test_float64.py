"""F64 is a float like others: rounded once wherever it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import factory
import submerge

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array

# Just beyond halfway between 1 and its upper neighbour in each type, by less than F32 can show: who
# rounds to F32 first rounds down.
HALVES = {"bf16": 2**-8, "f16": 2**-11, "f8_e4m3": 2**-4, "f8_e5m2": 2**-3}


def model(path: Path, seed: int, **more: Array) -> Path:
    values = np.random.default_rng(seed).normal(size=(300, 40))
    return factory.write(path, {"w": values, **more})


@pytest.mark.parametrize("dtype", HALVES)
def test_a_conversion_rounds_once(tmp_path: Path, dtype: str) -> None:
    half = HALVES[dtype]
    values = np.array([[1 + half + 2**-40, -1 - half - 2**-40, 1 + half, 1 + half - 2**-40, 0.0]])
    path = factory.write(tmp_path / "m.safetensors", {"w": values})
    source = {"path": str(path), "layout": "generic"}
    recipe = {"models": {"m": source}, "take": "m", "output": {"dtype": dtype}}
    out = tmp_path / "out.safetensors"
    submerge.merge(recipe, out)
    written = factory.read(out)["w"].astype(np.float64)
    assert written.tolist() == [[1 + 2 * half, -1 - 2 * half, 1.0, 1.0, 0.0]]


def test_a_merge_decodes_to_f32_and_says_what_is_written(tmp_path: Path) -> None:
    paths = [model(tmp_path / f"{seed}.safetensors", seed) for seed in range(2)]
    models = {f"m{i}": {"path": str(p), "layout": "generic"} for i, p in enumerate(paths)}
    out = tmp_path / "out.safetensors"
    report = submerge.merge({"models": models, "alpha": 0.25}, out)
    a, b = (factory.read(path)["w"].astype(np.float32) for path in paths)
    assert (factory.read(out)["w"] == a * np.float32(0.75) + b * np.float32(0.25)).all()
    assert any("1 tensor of F64 written in F32" in note for note in report.summary["notes"])


def test_a_nan_in_it_is_seen(tmp_path: Path) -> None:
    path = model(tmp_path / "m.safetensors", 0, bad=np.array([1.0, np.nan, np.inf]))
    checks = {check.name: check for check in submerge.verify(path, layout="generic").checks}
    assert [check.name for check in checks.values() if not check.passed] == ["finite"]


def test_a_copy_keeps_it(tmp_path: Path) -> None:
    path = model(tmp_path / "m.safetensors", 0)
    source = {"path": str(path), "layout": "generic"}
    out = tmp_path / "out.safetensors"
    submerge.merge({"models": {"m": source}, "take": "m"}, out)
    kept = factory.read(out)["w"]
    assert kept.dtype == np.float64
    assert (kept == factory.read(path)["w"]).all()


@pytest.mark.parametrize("other", ["F64", "F32"])
def test_an_analysis_sees_the_nearest_f32_and_says_so(tmp_path: Path, other: str) -> None:
    random = np.random.default_rng(5)
    a = random.normal(size=(60, 40))
    b = a * (1 + 2e-7 * random.normal(size=a.shape))  # about a step of F32
    b[0], b[1] = a[0], a[1] * (1 + 1e-12)  # equal, and equal in F32 alone
    b = b.astype(factory.DTYPES[other][0])
    paths = [
        factory.write(tmp_path / f"{n}.safetensors", {"w": x})
        for n, x in zip("ab", (a, b), strict=True)
    ]
    found = submerge.analyze(*paths, alpha=0.25, layout="generic")
    x, y = (m.astype(np.float32).astype(np.float64).ravel() for m in (a, b))
    sums = found.total()
    assert sums.elements == a.size
    assert sums.identical == (x == y).sum() > (a == b).sum()
    assert sums.cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), abs=1e-12)
    exact = np.linalg.norm(y - x) / np.linalg.norm(x)
    assert sums.relative_delta == pytest.approx(exact, rel=1e-6)
    # Half a step of the F32 that a merge would be written in.
    step = np.spacing(np.abs(x).astype(np.float32)).astype(np.float64)
    lost = (x != y) & (np.abs(y - x) / 4 < step / 2)
    assert sums.below_rounding == lost.sum() > 0
    expected = tuple(
        f"`{name}`: 1 unit in F64 compared as the nearest F32"
        for name in ("a", "b")[: 2 if other == "F64" else 1]
    )
    assert found.notes == expected
    compared = submerge.diff(*paths, layout="generic")
    assert compared.notes[: len(expected)] == expected
    assert compared.total().changed == (x != y).sum()


def test_nothing_is_said_of_f64_that_is_not_compared(tmp_path: Path) -> None:
    whole = {"w": np.ones((3, 2), np.float32)}
    one = factory.write(tmp_path / "a.safetensors", whole | {"x": np.ones(3)})
    two = factory.write(tmp_path / "b.safetensors", whole)
    assert not any("F64" in note for note in submerge.diff(one, two, layout="generic").notes)
