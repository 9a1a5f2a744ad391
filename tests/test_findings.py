"""What a merge says of its numbers, against plain numpy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

import factory
from submerge import merge
from submerge.cli import app

if TYPE_CHECKING:
    from pathlib import Path

    from submerge import Report

Array = np.ndarray[Any, np.dtype[Any]]
ROWS, COLUMNS = 50, 1700


def pair(tmp_path: Path, **changes: Array) -> tuple[Path, Path, Array, Array]:
    """Two generic models of one matrix `w` and one vector `v`, in f32."""
    random = np.random.default_rng(8)
    a = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    b = a + random.standard_normal(a.shape).astype(np.float32) * np.float32(0.05)
    b = changes.get("b", b)
    a = changes.get("a", a)
    vector = np.arange(6, dtype=np.float32)
    paths = [
        factory.write(tmp_path / f"{name}.safetensors", {"w": x, "v": vector})
        for name, x in (("one", a), ("two", b))
    ]
    return paths[0], paths[1], a, b


def merged(tmp_path: Path, a: Path, b: Path, **fields: Any) -> Report:
    models = {path.stem: {"path": str(path), "layout": "generic"} for path in (a, b)}
    output = {"dtype": fields.pop("dtype", "same")} | fields.pop("output", {})
    recipe = {"models": models, "output": output} | fields
    return merge(recipe, tmp_path / "out.safetensors", overwrite=True)


def test_non_finite_inputs_are_located_wherever_they_go(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    a = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    b = a * np.float32(1.5)
    a[3, 4], a[40, 0], b[49, 1699] = np.nan, np.inf, np.inf
    one, two, *_ = pair(tmp_path, a=a, b=b)
    want = [("one", "w", 2, 3 * COLUMNS + 4, 3), ("two", "w", 1, ROWS * COLUMNS - 1, 49)]
    report = merged(tmp_path, one, two, alpha=0.3)
    assert [tuple(spot) for spot in report.findings.nonfinite] == want
    copied = merged(tmp_path, one, two, take="two")
    assert [tuple(spot) for spot in copied.findings.nonfinite] == want[1:]
    line = f"one: 2 non-finite elements in `w`, the first is element {3 * COLUMNS + 4:,}, row 3"
    assert line in report.table()
    assert line in report.to_dict()["notes"]
    assert report.to_dict()["findings"]["nonfinite"][0]["row"] == 3


@pytest.mark.parametrize(
    ("dtype", "limit", "output"),
    [
        ("f16", 65520.0, {}),
        ("f8_e4m3", 464.0, {"overflow": "saturate"}),
        ("f8_e4m3", 464.0, {"overflow": "nan"}),
        ("f8_e5m2", 61440.0, {"overflow": "saturate"}),
    ],
)
def test_overflow_is_counted_in_the_unit(
    tmp_path: Path, dtype: str, limit: float, output: dict[str, str]
) -> None:
    random = np.random.default_rng(2)
    a = (random.standard_normal((ROWS, COLUMNS)) * limit / 3).astype(np.float32)
    b = (random.standard_normal((ROWS, COLUMNS)) * limit / 3).astype(np.float32)
    a[7, 7] = np.inf  # not an overflow: it was there before
    one, two, *_ = pair(tmp_path, a=a, b=b)
    report = merged(tmp_path, one, two, alpha=0.25, dtype=dtype, output=output)
    value = np.float32(0.75) * a + np.float32(0.25) * b
    over = (np.abs(value) > limit) & np.isfinite(a)
    (spot,) = report.findings.overflow
    first = int(np.flatnonzero(over)[0])
    assert tuple(spot) == ("", "w", int(over.sum()), first, first // COLUMNS)
    assert any("elements overflow in `w`" in line for line in report.remarks)


def test_the_energy_of_rounding_is_that_of_the_sampled_blocks(tmp_path: Path) -> None:
    one, two, a, b = pair(tmp_path)
    report = merged(tmp_path, one, two, alpha=0.25, dtype="bf16")
    value = np.float32(0.75) * a + np.float32(0.25) * b
    written = value.astype(factory.DTYPES["BF16"][0]).astype(np.float64)
    block = np.arange(a.size) % 65536 // 1024
    sampled = (block % 16 == 0).reshape(a.shape)
    lost = ((written - value)[sampled] ** 2).sum() * a.size / sampled.sum()
    change = ((value.astype(np.float64) - a)[sampled] ** 2).sum() * a.size / sampled.sum()
    found = report.findings.rounding
    assert found is not None
    assert (found.lost, found.change) == pytest.approx((lost, change), rel=1e-5)
    assert found.worst == "w"
    assert found.share == pytest.approx(lost / change, rel=1e-5)
    everything = ((written - value) ** 2).sum() / ((value.astype(np.float64) - a) ** 2).sum()
    assert found.share == pytest.approx(everything, rel=0.05)


def test_nothing_is_lost_where_nothing_is_rounded(tmp_path: Path) -> None:
    one, two, *_ = pair(tmp_path)
    report = merged(tmp_path, one, two, alpha=0.25)
    assert report.findings.rounding is None
    assert not any("rounding lost" in line for line in report.remarks)


def test_units_equal_to_a_parent_are_named(tmp_path: Path) -> None:
    one, two, *_ = pair(tmp_path)
    report = merged(tmp_path, one, two, alpha=0.25)
    # `v` is the same in both; `w` is not.
    assert report.findings.equal == {"all": ("v",)}
    assert report.findings.whole == ()
    assert "merged, and equal to every model: 1 unit: `v`" in report.table()


def test_a_whole_result_equal_to_a_parent_is_said(tmp_path: Path) -> None:
    one, two, a, _ = pair(tmp_path)
    # So small a share of so small a difference is lost in bf16, every time.
    near, *_ = pair(tmp_path / "near", a=a.astype(factory.DTYPES["BF16"][0]))
    close = factory.write(
        tmp_path / "close.safetensors",
        {"w": a.astype(factory.DTYPES["BF16"][0]).astype(np.float32) * np.float32(1.0001)}
        | {"v": np.arange(6, dtype=np.float32)},
    )
    report = merged(tmp_path, near, close, alpha=0.1, dtype="bf16")
    assert report.findings.whole == ("one",)
    assert "the whole result is equal to `one`" in report.remarks
    assert merged(tmp_path, one, two, take="one").findings.whole == ()


@pytest.mark.parametrize("run", [{"threads": 1}, {"chunk": "128KiB"}, {"isa": "scalar"}])
def test_no_way_of_running_changes_a_finding(tmp_path: Path, run: dict[str, Any]) -> None:
    krea = factory.save_file(tmp_path / "krea.safetensors", factory.KREA)
    schnell = factory.save_file(tmp_path / "schnell.safetensors", factory.SCHNELL, "bfl")
    recipe = {"models": {"schnell": str(schnell), "krea": str(krea)}, "alpha": 0.3}
    plain = merge(recipe, tmp_path / "a.safetensors")
    other = merge(recipe, tmp_path / "b.safetensors", **run)
    assert plain.findings == other.findings
    assert plain.findings.rounding is not None


def test_without_statistics_nothing_is_claimed(tmp_path: Path) -> None:
    one, two, *_ = pair(tmp_path)
    models = {path.stem: {"path": str(path), "layout": "generic"} for path in (one, two)}
    report = merge({"models": models}, tmp_path / "out.safetensors", stats=False)
    found = report.findings
    assert (found.nonfinite, found.overflow, found.rounding) == ((), (), None)
    assert (found.equal, found.whole) == ({}, ())


def test_the_command_prints_what_was_found(tmp_path: Path) -> None:
    schnell = factory.save_file(tmp_path / "schnell.safetensors", factory.SCHNELL)
    krea = factory.save_file(tmp_path / "krea.safetensors", factory.KREA)
    out = str(tmp_path / "out.safetensors")
    done = CliRunner().invoke(app, ["merge", str(schnell), str(krea), "-o", out])
    assert done.exit_code == 0, done.output
    assert re.search(r"rounding lost \S+ of the energy of the change, most in `\S+`", done.stdout)


def test_a_remark_stays_with_the_unit_it_is_about(tmp_path: Path) -> None:
    """A worker ahead of its turn makes a unit while another one is still being looked at."""
    random = np.random.default_rng(1)
    tensors = {"a": random.standard_normal((1024, 1024)).astype(np.float32)}
    tensors |= {f"b{i:02}": tensors["a"][:64] for i in range(40)}
    near = {name: x * np.float32(1.0001) for name, x in tensors.items()}
    models = {
        name: {
            "path": str(factory.write(tmp_path / f"{name}.safetensors", made)),
            "layout": "generic",
        }
        for name, made in (("one", tensors), ("two", near))
    }
    made = {"models": models, "method": "linear", "rules": [{"where": "a", "method": "slerp"}]}
    out = tmp_path / "out.safetensors"
    for _ in range(20):
        report = merge(made, out, overwrite=True, threads=6, chunk="64KiB")
        (note,) = [note for note in report.summary["notes"] if "parallel" in note]
        assert note == "nearly parallel (cosine above 0.9995): linear, in 1 unit: `a`"
