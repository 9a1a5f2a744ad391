"""The peers bench runs, judges outputs by an oracle of its own, and notices a wrong one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import factory
from benches.make_pair import make_pair
from benches.peers.check import compare, round_once
from benches.peers.measure import resident, run

if TYPE_CHECKING:
    from benches.peers.check import Array

ROOT = Path(__file__).parents[1]


@pytest.mark.serial
def test_quick_bench_runs_and_checks_every_output(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benches.peers", "--quick", "--work", str(tmp_path)]
    done = subprocess.run(
        [*command, "--sections", "warm,memory,import"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in results["warm"]}
    assert rows.keys() >= {"floor", "submerge", "submerge folders", "copy", "convert"}
    for row in rows.values():
        assert row["error"] == ""
        assert row["numerics"]["elements"] > 100_000
        assert row["numerics"]["ulp"] <= 1
        assert row["median"]["rss"] > 1_000_000
    assert rows["floor"]["numerics"]["wrong"] == rows["convert"]["numerics"]["wrong"] == 0
    assert [row["models"] for row in results["memory"]] == [2, 2, 8]
    assert "| promise | measured |" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


def _save(path: Path, numbers: list[float]) -> Path:
    array = np.array(numbers, np.float32).astype(ml_dtypes.bfloat16)
    return factory.write(path, {"x": array})


@pytest.mark.parametrize(
    ("made", "wrong", "ulp"),
    [([2.0, 0.3, 0.0], 0, 0), ([2.015625, 0.3, 0.0], 1, 1), ([2.0, -0.3, 0.0], 1, 308)],
)
def test_comparison_sees_a_wrong_number(
    tmp_path: Path, made: list[float], wrong: int, ulp: float
) -> None:
    first = _save(tmp_path / "a.safetensors", [2.0, 0.3, -7.0])
    second = _save(tmp_path / "b.safetensors", [2.0, 0.3, 3.0])
    found = compare((first, second), _save(tmp_path / "c.safetensors", made), (3, 7))
    assert (found.elements, found.wrong, round(found.ulp), found.problems) == (3, wrong, ulp, ())


def test_comparison_sees_a_missing_tensor(tmp_path: Path) -> None:
    model = _save(tmp_path / "a.safetensors", [1.0])
    other = factory.write(tmp_path / "b.safetensors", {"y": np.zeros(1, np.float32)})
    assert compare((model, model), other, (3, 7)).problems == ("`y` is extra", "`x` is missing")


def test_rounding_is_the_nearest_even_of_the_exact_number() -> None:
    """Rationals decide: every boundary between two bf16 numbers, and a hair on either side."""
    bits = np.concatenate([np.arange(0, 0x7F7F, 7), np.arange(0, 300)]).astype(np.uint16)
    low, high = _wide(bits), _wide(bits + 1)
    middle = (low + high) / 2  # exact: nine significant bits
    for numbers in (middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf), low):
        rounded = _wide(round_once(numbers))
        for x, got, a, b in zip(numbers, rounded, low, high, strict=True):
            below, above = Fraction(x) - Fraction(a), Fraction(b) - Fraction(x)
            even = a if _bits(a) % 2 == 0 else b
            assert got == (a if below < above else b if above < below else even)


def _wide(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _bits(number: float) -> int:
    return int(np.float32(number).view(np.uint32)) >> 16


def test_a_process_is_charged_its_own_memory_only(tmp_path: Path) -> None:
    ballast = np.ones(80_000_000, np.uint8)
    figures = run(["true"], tmp_path / "nothing")
    assert figures.error == ""
    assert 0 < figures.rss < 40_000_000 < ballast.nbytes


def test_failures_and_timeouts_are_recorded(tmp_path: Path) -> None:
    failed = run(["sh", "-c", "echo no such luck; exit 3"], tmp_path / "nothing")
    assert failed.error == "exit code 3: no such luck"
    assert run(["sleep", "9"], tmp_path / "nothing", limit=0.2).error == "stopped after 0 s"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is in its page cache")
def test_pages_in_the_cache_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(1_000_000))
    assert resident(path) == 1_000_000
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert resident(path) < 1_000_000


def test_pair_is_the_same_model_in_both_layouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benches.make_pair.WIDTHS", (64, 16, 48, 32))
    monkeypatch.setattr("benches.make_pair.MODELS", {"schnell": 400_000, "krea": 300_000})
    make_pair(tmp_path, double=1, single=2)
    for name in ("schnell", "krea"):
        shards = sorted((tmp_path / name / "transformer").glob("*.safetensors"))
        assert len(shards) > 1
        fine = {k: v for shard in shards for k, v in factory.read(shard).items()}
        flux = factory.Flux(1, 2, 64, 16, 48, 32, guidance=name == "krea")
        assert fine.keys() == factory.diffusers_shapes(flux).keys()
        fused = factory.read(tmp_path / f"{name}.bfl.safetensors")
        assert fused.keys() == factory.bfl_stacks(flux).keys()
        for stacked, parts in factory.bfl_stacks(flux).items():
            rows = np.concatenate([fine[part] for part in parts])
            if "adaLN" in stacked:
                rows = np.roll(rows, len(rows) // 2, axis=0)
            assert _same(fused[stacked], rows), stacked


def _same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.tobytes() == b.tobytes() and a.shape == b.shape
