"""Every bit pattern of every small float through `convert`, against torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

import submerge
from oracles.models import equal, state_of

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8_e4m3": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2,
}
LARGEST = {"f8_e4m3": 448.0, "f8_e5m2": 57344.0}
# The one NaN for all that were computed: quiet, positive, no payload where there is a choice.
QUIET = {"f32": 0x7FC00000, "f16": 0x7E00, "bf16": 0x7FC0, "f8_e4m3": 0x7F, "f8_e5m2": 0x7F}
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
# Lower halves of float32 around the middle between two bf16 numbers, and around neither.
TAILS = (0x0000, 0x0001, 0x1000, 0x7FFF, 0x8000, 0x8001, 0xFFFF)


def _patterns(dtype: str) -> torch.Tensor:
    """Every bit pattern of a dtype; of float32, every upper half with some lower halves."""
    if dtype == "f32":
        upper = torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16
        return torch.cat([upper | tail for tail in TAILS]).view(torch.float32)
    if dtype in ("f16", "bf16"):
        return torch.arange(-(2**15), 2**15, dtype=torch.int32).short().view(DTYPES[dtype])
    return torch.arange(256, dtype=torch.int32).to(torch.uint8).view(DTYPES[dtype])


def _converted(folder: Path, source: str, target: str, overflow: str) -> torch.Tensor:
    path, out = folder / "in.safetensors", folder / "out.safetensors"
    save_file({"x": _patterns(source)}, path)
    recipe = {
        "models": {"m": {"path": path, "layout": "generic"}},
        "output": {"dtype": target, "overflow": overflow},
    }
    submerge.merge(recipe, out, chunk=4096)
    return state_of(out)["x"]


def _expected(source: str, target: str, overflow: str) -> torch.Tensor:
    """What torch makes of the patterns: exactly to float32, then one rounding."""
    wide = _patterns(source).float()
    if overflow == "saturate" and target in LARGEST:
        wide = wide.clamp(-LARGEST[target], LARGEST[target])
    return wide.to(DTYPES[target])


def _overflows(source: str, target: str) -> torch.Tensor:
    """Where a number is too large for the target."""
    wide = _patterns(source).float()
    return wide.abs() > LARGEST[target]


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_every_pattern(tmp_path: Path, source: str, target: str) -> None:
    made = _converted(tmp_path, source, target, "saturate")
    if source == target:
        assert equal({"x": made}, {"x": _patterns(source)})  # bytes, payloads of NaN included
        return
    expected = _expected(source, target, "saturate")
    nan = expected.float().isnan()
    assert torch.equal(made.float().isnan(), nan)
    assert equal({"x": made[~nan]}, {"x": expected[~nan]})
    # torch's own NaN depends on whether the loop was vectorized.
    bits = made[nan].view(INTEGERS[made.element_size()])
    assert torch.equal(bits, torch.full_like(bits, QUIET[target]))


@pytest.mark.parametrize("target", LARGEST)
@pytest.mark.parametrize("source", ["f32", "f16", "bf16"])
def test_overflow_that_does_not_saturate(tmp_path: Path, source: str, target: str) -> None:
    """Numbers in range round as before; beyond it E4M3 has NaN alone, E5M2 has infinities."""
    made = _converted(tmp_path, source, target, "nan").float()
    wide = _patterns(source).float()
    beyond = _overflows(source, target)
    inside = ~beyond & ~wide.isnan()
    assert torch.equal(made[inside], wide[inside].to(DTYPES[target]).float())
    # Up to halfway to the next step of an unbounded exponent a number still rounds down.
    half = {"f8_e4m3": 464.0, "f8_e5m2": 61440.0}[target]
    over = (wide.abs() > half) | ((wide.abs() == half) & (target == "f8_e5m2"))
    assert over.any()
    assert not made[over].isfinite().any()
    assert torch.equal(
        made[beyond & ~over].abs(), torch.full_like(made[beyond & ~over], LARGEST[target])
    )
    if target == "f8_e5m2":
        assert torch.equal(made[over].isinf(), torch.ones_like(made[over], dtype=torch.bool))
