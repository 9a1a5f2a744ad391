"""Numbers that an export cannot carry are refused before anything is written, or told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import submerge
from submerge import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PART = "single_transformer_blocks.0.proj_mlp.weight"
UNIT = "single.0.mlp.in.weight"


def model(path: Path, change: Callable[[Any], Any], dtype: str = "F32") -> Path:
    """A model of which one tensor is changed."""
    held = {
        name: array.astype(factory.DTYPES[dtype][0])
        for name, array in factory.tensors(factory.SCHNELL).items()
    }
    held[PART] = np.asarray(change(held[PART].astype(np.float32))).astype(held[PART].dtype)
    return factory.write(path, held)


def first_is(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[0, 0] = value
        return array

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("quantization", [None, "bf16", "fp8", "f8_e5m2"])
def test_a_model_that_is_not_finite_is_refused_before_writing(
    tmp_path: Path, value: float, quantization: str | None
) -> None:
    path = model(tmp_path / "m.safetensors", first_is(value))
    with pytest.raises(CheckpointError) as caught:
        submerge.export_merged_model(path, tmp_path / "out.safetensors", quantization)
    assert f"1 infinite or NaN in `{UNIT}`" in str(caught.value)
    assert "disk" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("largest", "fits"), [(65504.0, True), (65519.0, True), (65520.0, False)])
def test_what_overflows_is_refused_before_writing(
    tmp_path: Path, largest: float, *, fits: bool
) -> None:
    path = model(tmp_path / "m.safetensors", first_is(largest))
    out = tmp_path / "out.safetensors"
    if fits:
        submerge.export_merged_model(path, out, "f16")
        assert out.exists()
        return
    with pytest.raises(CheckpointError) as caught:
        submerge.export_merged_model(path, out, "f16")
    assert "1 element too large for F16" in str(caught.value)
    assert f"of them in `{UNIT}`" in str(caught.value)
    assert "bf16 and f32 have the range" in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [path]


def test_what_saturates_in_fp8_is_written_and_told(tmp_path: Path) -> None:
    path = model(tmp_path / "m.safetensors", first_is(1000.0))
    report = submerge.export_merged_model(path, tmp_path / "out.safetensors", "fp8")
    assert any("1 elements overflow" in line for line in report.remarks)


# E4M3's smallest number is 2^-9; half of it rounds to zero, anything above does not.
@pytest.mark.parametrize(("size", "told"), [(2.0**-10, True), (2.0**-9, False)])
def test_what_fp8_makes_zeros_of_is_told(tmp_path: Path, size: float, *, told: bool) -> None:
    path = model(tmp_path / "m.safetensors", lambda array: np.full_like(array, size))
    report = submerge.export_merged_model(path, tmp_path / "out.safetensors", "fp8")
    assert report.findings.vanished == ((UNIT,) if told else ())
    lines = [line for line in report.remarks if "anything but zeros is left of 1 unit" in line]
    assert bool(lines) == told


def test_a_merge_tells_it_too(tmp_path: Path) -> None:
    tiny = model(tmp_path / "m.safetensors", lambda array: array * 1e-6)
    models = {"a": str(tiny), "b": str(tiny)}
    recipe = {"models": models, "alpha": 0.5, "output": {"dtype": "f8_e4m3"}}
    report = submerge.merge(recipe, tmp_path / "out.safetensors")
    assert UNIT in report.findings.vanished
    same = submerge.merge(recipe | {"output": {"dtype": "bf16"}}, tmp_path / "b.safetensors")
    assert same.findings.vanished == ()
