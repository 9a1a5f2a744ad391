"""Biases of adapters that are merged or converted, against numpy: peft scales its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
from factory import Array, Flux
from submerge import AdapterError, PlanError, lora

if TYPE_CHECKING:
    from pathlib import Path

BASE = Flux(dtype="F32")
MODULE, BFL = "transformer_blocks.0.attn.to_out.0", "double_blocks.0.img_attn.proj"
QKV = [f"transformer_blocks.0.attn.to_{letter}" for letter in "qkv"]
NUMBERS = files.draw("bias", 64)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factory.save_file(tmp_path_factory.mktemp("base") / "base.safetensors", BASE)


def biased(folder: Path, alpha: float) -> str:
    """A LoRA of rank 4 with `lora_bias`, which peft multiplies by `alpha / 4`."""
    arrays = files.diffusers(files.pairs(BASE, [MODULE], 4))
    arrays[f"transformer.{MODULE}.lora_B.bias"] = NUMBERS
    metadata = files.peft_metadata(r=4, lora_alpha=alpha, lora_bias=True)
    return str(files.save(folder / f"{alpha}.safetensors", arrays, metadata))


def added(folder: Path, base: Path, adapter: Path) -> Array:
    """What an adapter adds to the bias once it is baked."""
    out = folder / "baked.safetensors"
    lora.bake(base, [str(adapter)], out, overwrite=True)
    name = f"{MODULE}.bias"
    return files.wide(factory.read(out)[name]) - files.wide(factory.tensors(BASE)[name])


@pytest.mark.parametrize("alpha", [4.0, 8.0, 3.0, -1.0])
@pytest.mark.parametrize("form", ["peft", "kohya", "comfy"])
@pytest.mark.parametrize("asked", [{}, {"rank": 2}])
def test_a_bias_adds_what_it_added(
    tmp_path: Path, base: Path, alpha: float, form: Any, asked: Any
) -> None:
    path, out = biased(tmp_path, alpha), tmp_path / "out.safetensors"
    lora.merge([path], out, base=base, form=form, **asked)
    want = alpha / 4 * files.wide(NUMBERS)
    assert np.abs(added(tmp_path, base, out) - want).max() < 1e-7
    found = factory.read(out)
    if form == "peft" and not asked:
        assert found[f"transformer.{MODULE}.lora_B.bias"].tobytes() == NUMBERS.tobytes()
    if form == "comfy":
        np.testing.assert_allclose(found[f"diffusion_model.{BFL}.diff_b"], want, rtol=1e-6)


def test_an_alpha_of_zero_adds_no_bias(tmp_path: Path, base: Path) -> None:
    path, out = biased(tmp_path, 0.0), tmp_path / "out.safetensors"
    with pytest.raises(PlanError, match="every difference is zero"):
        lora.convert(path, out, form="peft", base=base)
    lora.convert(path, out, form="comfy", base=base)
    assert not [name for name in factory.read(out) if name.endswith(".diff_b")]
    assert not added(tmp_path, base, out).any()


def test_biases_of_several_are_added_at_their_scales(tmp_path: Path, base: Path) -> None:
    given: Any = [biased(tmp_path, 8.0), {"path": biased(tmp_path, 3.0), "scale": -0.5}]
    out = tmp_path / "out.safetensors"
    lora.merge(given, out, base=base)
    want = (2.0 - 0.5 * 0.75) * files.wide(NUMBERS)
    assert np.abs(added(tmp_path, base, out) - want).max() < 1e-7


def test_a_bias_alone_needs_a_form_that_has_a_place_for_it(tmp_path: Path, base: Path) -> None:
    arrays = {f"diffusion_model.{BFL}.diff_b": NUMBERS}
    path, out = str(files.save(tmp_path / "b.safetensors", arrays)), tmp_path / "o.safetensors"
    several: Any = ({}, {"rank": 4}, {"energy": 0.9})
    for asked in several:
        with pytest.raises(AdapterError, match="a bias alone, expected factors"):
            lora.merge([path], out, base=base, **asked)
        assert not out.exists()
    for form, key in (
        ("comfy", f"diffusion_model.{BFL}.diff_b"),
        ("kohya", "lora_unet_double_blocks_0_img_attn_proj.diff_b"),
    ):
        kind: Any = form
        lora.convert(path, out, form=kind, base=base, overwrite=True)
        found = factory.read(out)
        assert list(found) == [key]
        assert found[key].tobytes() == NUMBERS.tobytes()


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_what_is_stacked_takes_the_largest_rank_asked_of_its_parts(
    tmp_path: Path, base: Path, part: str
) -> None:
    arrays = files.diffusers(files.pairs(BASE, QKV, 4))
    path, out = str(files.save(tmp_path / "b.safetensors", arrays)), tmp_path / "o.safetensors"
    rank = {f"double.img.attn.{part}": 8, "default": 2}
    (module,) = lora.resize(path, out, rank=rank, form="kohya", base=base).modules
    assert module.ranks == (8,)
    assert (module.block, module.part) == ("double.0", "attn.q, attn.k, attn.v")
    pairs = files.pairs(BASE, QKV, 4)
    dense = np.concatenate([files.product(pairs[module]) for module in QKV])
    squares = np.linalg.svd(dense, compute_uv=False) ** 2
    least = np.sqrt(squares[8:].sum() / squares.sum())
    assert module.residual == pytest.approx(least, rel=1e-3)
