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
