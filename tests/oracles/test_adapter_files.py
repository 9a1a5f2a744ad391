"""diffusers and peft load adapters that submerge writes, and fuse them to the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import FluxPipeline

import adapter_files as files
from factory import Flux, save_folder
from oracles.models import loaded, state_of
from submerge import lora

if TYPE_CHECKING:
    from pathlib import Path

BASE = Flux(dtype="F32")


def fused(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights of a model after diffusers has loaded an adapter and fused it in."""
    parts = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    pipeline = FluxPipeline(**dict.fromkeys(parts), transformer=loaded(base))
    pipeline.load_lora_weights(str(adapter))
    assert pipeline.get_list_adapters()
    pipeline.fuse_lora()
    pipeline.transformer.unload_lora()  # the pipeline's would put the norms back too
    return dict(pipeline.transformer.state_dict())


def expect_close(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.allclose(got[name], tensor, rtol=0, atol=2e-6), name


@pytest.mark.parametrize("asked", [{"rank": 64}, {"rank": 5}, {"energy": 0.7}])
def test_what_is_extracted_is_loaded_and_fused(tmp_path: Path, asked: Any) -> None:
    base = save_folder(tmp_path / "base", BASE)
    tuned = save_folder(tmp_path / "tuned", replace(BASE, seed=1))
    adapter, baked = tmp_path / "adapter.safetensors", tmp_path / "baked.safetensors"
    lora.extract(tuned, base, adapter, dtype="f32", **asked)
    lora.bake(base, [str(adapter)], baked)
    got = fused(base, adapter)
    expect_close(got, state_of(baked))
    if asked == {"rank": 64}:
        expect_close(got, state_of(tuned))


def test_what_is_merged_and_converted_is_loaded_and_fused(tmp_path: Path) -> None:
    base = save_folder(tmp_path / "base", BASE)
    one = files.pairs(BASE, files.MODULES, 4, seed=1)
    two = files.pairs(BASE, files.MODULES[:6], 7, seed=2)
    first = files.save(tmp_path / "one.safetensors", files.kohya(one, alpha=3.0))
    second = files.save(tmp_path / "two.safetensors", files.diffusers(two))
    given: list[Any] = [{"path": str(first), "scale": 0.5}, {"path": str(second), "scale": -1.0}]
    baked = tmp_path / "baked.safetensors"
    lora.bake(base, given, baked)
    lora.merge(given, tmp_path / "sum.safetensors", base=base)
    expect_close(fused(base, tmp_path / "sum.safetensors"), state_of(baked))
    lora.convert(str(first), tmp_path / "peft.safetensors", form="peft", base=base)
    lora.bake(base, [str(first)], baked, overwrite=True)
    expect_close(fused(base, tmp_path / "peft.safetensors"), state_of(baked))


@pytest.mark.parametrize("form", ["kohya", "comfy"])
def test_blocks_in_other_forms_are_read_by_diffusers(tmp_path: Path, form: Any) -> None:
    base = save_folder(tmp_path / "base", replace(BASE, double=19, single=38))
    modules = [m for m in files.MODULES if "blocks" in m and "norm" not in m and "single" not in m]
    pairs = files.pairs(BASE, modules, 4)
    first = files.save(tmp_path / "one.safetensors", files.diffusers(pairs))
    other, baked = tmp_path / "other.safetensors", tmp_path / "baked.safetensors"
    lora.convert(str(first), other, form=form, base=base)
    lora.bake(base, [str(first)], baked)
    expect_close(fused(base, other), state_of(baked))
