"""Linear merges equal torch's, per tensor in float32 and rounded once: every bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import submerge
from factory import KREA, SCHNELL, Flux, save_file, save_folder
from oracles.models import State, equal, merged, state_of

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def _pair(folder: Path, dtype: str, layouts: tuple[str, str]) -> dict[str, Path]:
    models = {}
    for name, flux, layout in zip(("schnell", "krea"), (SCHNELL, KREA), layouts, strict=True):
        typed = _with(flux, dtype)
        if layout == "bfl":
            models[name] = save_file(folder / f"{name}.safetensors", typed, "bfl")
        else:
            models[name] = save_folder(folder / name, typed, shards=3 if name == "krea" else 2)
    return models


def _with(flux: Flux, dtype: str) -> Flux:
    return Flux(guidance=flux.guidance, seed=flux.seed, dtype=dtype)


def _oracle(folder: Path, dtype: str, layout: str, alpha: float) -> State:
    """The merge in torch, of both models written once more in the output's layout."""
    a, b = (
        state_of(save_file(folder / f"oracle-{flux.seed}.safetensors", _with(flux, dtype), layout))
        for flux in (SCHNELL, KREA)
    )
    return merged(a, b, alpha)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", [("bfl", "bfl"), ("diffusers", "bfl"), ("diffusers",) * 2])
@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_linear_is_torch_in_float32_rounded_once(
    tmp_path: Path, dtype: str, inputs: tuple[str, str], layout: str
) -> None:
    models = _pair(tmp_path, dtype, inputs)
    out = tmp_path / "out.safetensors"
    recipe = {"models": models, "alpha": 0.3, "output": {"layout": layout}}
    submerge.merge(recipe, out)
    made, expected = state_of(out), _oracle(tmp_path, dtype, layout, 0.3)
    assert equal(made, expected)
    assert {tensor.dtype for tensor in made.values()} == {DTYPES[dtype]}
    assert not equal(made, _oracle(tmp_path, dtype, layout, 0.7))


def test_bf16_arithmetic_would_not_pass(tmp_path: Path) -> None:
    """The oracle tells one rounding from several: a sum in bf16 throughout is another."""
    a, b = (state_of(save_file(tmp_path / f"{f.seed}", f, "bfl")) for f in (SCHNELL, KREA))
    careless = dict(b) | {name: tensor * 0.7 + b[name] * 0.3 for name, tensor in a.items()}
    assert not equal(careless, merged(a, b, 0.3))


@pytest.mark.parametrize("dtypes", [("F32", "BF16"), ("F16", "BF16"), ("BF16", "F32")])
def test_mixed_dtypes_give_the_first_models(tmp_path: Path, dtypes: tuple[str, str]) -> None:
    flux = Flux(guidance=False, seed=3, dtype=dtypes[0]), Flux(guidance=False, dtype=dtypes[1])
    paths = [save_file(tmp_path / f"{f.dtype}.safetensors", f) for f in flux]
    out = tmp_path / "out.safetensors"
    recipe = {
        "models": dict(zip(("first", "second"), paths, strict=True)),
        "alpha": 0.3,
        "output": {"dtype": dtypes[0].lower()},
    }
    submerge.merge(recipe, out)
    first, second = map(state_of, paths)
    assert equal(state_of(out), merged(first, second, 0.3))
