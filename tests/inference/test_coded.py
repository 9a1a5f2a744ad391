"""Quantised transformers: the numbers of their files on every plan, in the planned bytes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save_lora

import adapter_files as files
import submerge
from factory import KREA, Flux, read, save_folder, write
from inference.coded_files import GGML, SCALED, WIDE, save_gguf, save_scaled
from inference.plans import CANDIDATES, on_a_gpu
from oracles.pipelines import save_pipeline
from submerge.inference import load_model, loading, plan_loading, run_inference
from submerge.inference.layers import PackedLinear
from submerge.lora import bake

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from factory import Array

SMALL: Any = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
TEXT = "a fox in snow"
FORMS = (*SCALED, *GGML)
# A form of each kind, for what depends on the kind alone.
KINDS = ("fp8_scaled", "int8_row", "q8_0", "q4_k")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def flux_of(form: str) -> Flux:
    return WIDE if form.endswith("_k") or form == "iq4_xs" else KREA


def save(folder: Path, form: str, layout: str = "bfl") -> tuple[Path, dict[str, Array]]:
    if form in SCALED:
        return save_scaled(folder / f"{form}.safetensors", form, flux_of(form), layout)
    return save_gguf(folder / f"{form}.gguf", form, flux_of(form), layout)


@pytest.fixture(scope="module")
def components(
    pipelines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """What lends text encoders and VAE to a model in a form."""
    folder = tmp_path_factory.mktemp("wide")
    wide = save_pipeline(folder / "p", save_folder(folder / "t", WIDE), dynamic=True)
    return lambda form: wide if flux_of(form) == WIDE else pipelines["krea"]


def as_numbers(folder: Path, numbers: dict[str, Array], dtype: str) -> Path:
    """The same model unquantised, in diffusers' names."""
    path = write(folder / "numbers.safetensors", numbers)
    plain = folder / f"{dtype}.safetensors"
    submerge.convert(path, plain, layout="diffusers", dtype=dtype)
    return plain


def painted(model: Any, **more: Any) -> Array:
    return np.asarray(run_inference(model, TEXT, SMALL | more)[0].image).astype(int)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """A transformer's parameters as numbers."""
    net = model.pipe.transformer
    found = {n: p for n, p in net.named_parameters() if not n.endswith("_scale")}
    layers = {n: m for n, m in net.named_modules() if isinstance(m, PackedLinear)}
    return found | {f"{name}.weight": layer.numbers() for name, layer in layers.items()}


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_layers_stay_in_their_codes_and_compute_with_their_numbers(
    components: Callable[[str], Path], tmp_path: Path, form: str, dtype: str, layout: str
) -> None:
    path, numbers = save(tmp_path, form, layout)
    plain = as_numbers(tmp_path, numbers, dtype)
    how: Any = {"components": components(form), "device": "cpu", "dtype": dtype}
    with load_model(path, **how) as model:
        assert model.plan.chosen.words == "everything resident, layers in the file's codes"
        assert model.plan.chosen.quantization is None
        found, truth = weights_of(model), load_file(plain)
        assert found.keys() == truth.keys()
        for name, weight in found.items():
            assert weight.dtype == DTYPES[dtype]
            assert torch.equal(weight, truth[name]), name
        held = sum(p.numel() * p.element_size() for p in model.pipe.transformer.parameters())
        assert held == model.plan.sizes.stored("coded").total < model.plan.sizes.transformer.total
        image = painted(model)
    with load_model(plain, **how) as model:
        assert model.plan.sizes.coded is None
        assert np.array_equal(painted(model), image)


@pytest.mark.parametrize("form", ["int8_convrot", "mxfp8", "nvfp4", "fp8_scaled", "sdnq_int8"])
def test_what_submerge_writes_paints_as_the_same_in_bf16(
    components: Callable[[str], Path], tmp_path: Path, form: str
) -> None:
    """Rotated codes and scales of blocks are read as numbers."""
    folder = save_folder(tmp_path / "wide", WIDE)
    target = tmp_path / ("coded" if form == "sdnq_int8" else "coded.safetensors")
    submerge.convert(folder, target, dtype=form, layout="same" if form == "sdnq_int8" else "bfl")
    submerge.convert(target, tmp_path / "plain.safetensors", dtype="bf16", layout="diffusers")
    how: Any = {"components": components("q4_k"), "device": "cpu"}
    with load_model(target, **how) as model:
        stays = form in ("fp8_scaled", "sdnq_int8")
        assert model.plan.chosen.coded == stays
        image, prints = painted(model), model.fingerprint
    with load_model(tmp_path / "plain.safetensors", **how) as model:
        assert np.array_equal(painted(model), image)
        assert model.fingerprint != prints


@pytest.mark.parametrize("candidate", CANDIDATES)
@pytest.mark.parametrize("form", KINDS)
def test_every_plan_paints_the_same_image(
    components: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    candidate: str,
) -> None:
    path, _ = save(tmp_path, form)
    how: Any = {"components": components(form), "device": "cpu"}
    with load_model(path, **how) as model:
        expected = painted(model)
    monkeypatch.setattr(loading, "plan_load", on_a_gpu(candidate))
    with load_model(path, **how) as model:
        # What is streamed from the file becomes numbers when it is read.
        assert model.plan.chosen.coded == (candidate != "disk")
        assert np.array_equal(painted(model), expected)
        assert np.array_equal(painted(model), expected)


@pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("form", KINDS)
def test_quantization_rounds_the_numbers(
    components: Callable[[str], Path], tmp_path: Path, form: str, quantization: str
) -> None:
    path, numbers = save(tmp_path, form)
    plain = as_numbers(tmp_path, numbers, "bf16")
    how: Any = {"components": components(form), "device": "cpu", "quantization": quantization}
    with load_model(path, **how) as model, load_model(plain, **how) as other:
        assert model.plan.chosen.quantization == quantization
        found, truth = weights_of(model), weights_of(other)
        assert all(torch.equal(found[name], truth[name]) for name in truth)


@pytest.mark.parametrize("form", KINDS)
def test_a_layer_with_an_adapter_becomes_numbers(
    components: Callable[[str], Path], tmp_path: Path, form: str
) -> None:
    path, _ = save(tmp_path, form)
    found = files.pairs(flux_of(form), ["double_blocks.0.img_attn.qkv"], layout="bfl")
    style = str(files.save(tmp_path / "style.safetensors", files.kohya(found, None)))
    bake(path, [style], tmp_path / "baked.safetensors", layout="diffusers", dtype="bf16")
    how: Any = {"components": components(form), "device": "cpu"}
    with load_model(path, adapters=[style], **how) as model:
        kept = {n for n, m in model.pipe.transformer.named_modules() if isinstance(m, PackedLinear)}
        assert "transformer_blocks.0.attn.to_q" not in kept
        assert "transformer_blocks.0.attn.to_out.0" in kept
        image = painted(model)
    with load_model(tmp_path / "baked.safetensors", **how) as model:
        assert np.array_equal(painted(model), image)


@pytest.mark.parametrize("form", KINDS)
def test_a_lora_acts_on_layers_in_codes(
    components: Callable[[str], Path], tmp_path: Path, form: str
) -> None:
    path, numbers = save(tmp_path, form)
    plain = as_numbers(tmp_path, numbers, "f32")
    width = flux_of(form).hidden
    draw = torch.Generator().manual_seed(3)
    name = "transformer_blocks.0.attn.to_q"
    down, up = (torch.randn(shape, generator=draw) for shape in ((4, width), (width, 4)))
    lora = tmp_path / "lora.safetensors"
    pairs = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    save_lora(pairs, lora)
    how: Any = {"components": components(form), "device": "cpu", "dtype": "f32"}
    with load_model(path, **how) as model:
        before = painted(model)
        strong = painted(model, loras={str(lora): 0.7})
        assert np.array_equal(painted(model), before)
    assert not np.array_equal(strong, before)
    with load_model(plain, **how) as other:
        assert np.array_equal(painted(other, loras={str(lora): 0.7}), strong)


def test_without_gguf_blocks_become_numbers(
    components: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = save(tmp_path, "q8_0")
    how: Any = {"components": components("q8_0"), "device": "cpu"}
    with load_model(path, **how) as model:
        expected = painted(model)
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with load_model(path, **how) as model:
        assert model.plan.chosen.words == "everything resident"
        assert model.plan.rejected
        for rejected, why in model.plan.rejected:
            assert rejected.coded
            assert "gguf is not installed" in why
        assert np.array_equal(painted(model), expected)


def test_scales_tell_models_apart(components: Callable[[str], Path], tmp_path: Path) -> None:
    path, _ = save(tmp_path, "fp8_row")
    arrays = read(path)
    name = next(n for n in arrays if n.endswith(".weight_scale"))
    other = {**arrays, name: arrays[name] * np.float32(2)}
    how: Any = {"components": components("fp8_row"), "device": "cpu"}
    prints = []
    for at, found in enumerate((arrays, other)):
        with load_model(write(tmp_path / f"{at}.safetensors", found), **how) as model:
            prints.append(model.fingerprint)
    assert prints[0] != prints[1]


def test_the_plan_says_what_codes_take(components: Callable[[str], Path], tmp_path: Path) -> None:
    path, _ = save(tmp_path, "q4_k")
    plan = plan_loading(path, components=components("q4_k"), device="cpu")
    assert "layers in the file's codes" in plan.describe()
    sizes = plan.to_dict()["sizes"]
    assert sizes["coded"]["total"] < sizes["quantized"]["int8"]["total"]
    assert sizes["coded"]["package"] == "gguf"
    tight = plan.chosen.peak["ram"] - 1
    streamed = plan_loading(
        path, components=components("q4_k"), device="cpu", memory_budget={"ram": tight}
    )
    assert streamed.chosen.name != "resident"
