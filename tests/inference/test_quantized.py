"""Weights in fewer bits: rounded as the formulas say, in as many bytes as planned, on any plan."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file as save_lora

import submerge
from factory import KREA, save_file, tensors, write
from inference.plans import CANDIDATES, on_a_gpu
from submerge.inference import load_model, loading, run_inference
from submerge.inference.quantized import PACKED, QUANTIZATIONS, casts, packs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL: Any = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
TEXT = "a fox in snow"
# Relative error of one forward pass in float32 against the weights as they are.
BOUNDS = {"int8": 0.002, "int4": 0.03}


def painted(model: Any, **more: Any) -> np.ndarray[Any, Any]:
    return np.asarray(run_inference(model, TEXT, SMALL | more)[0].image).astype(int)


def q8_0(runs: torch.Tensor) -> torch.Tensor:
    """Whole numbers to 127 times one scale in half precision."""
    scale = runs.abs().amax(1, keepdim=True) / 127
    whole = torch.where(scale > 0, runs / scale, 0.0)
    half_away = torch.trunc(whole + 0.5 * torch.sign(whole))
    return scale.half().float() * half_away


def q4_0(runs: torch.Tensor) -> torch.Tensor:
    """Whole numbers from -8 to 7 times a scale, by which the largest number is -8."""
    largest = runs.gather(1, runs.abs().argmax(1, keepdim=True))
    scale = largest / -8
    whole = torch.where(scale != 0, runs / scale, 0.0)
    return scale.half().float() * torch.clamp(torch.floor(whole + 8.5), 0, 15).sub(8)


REFERENCES = {"int8": q8_0, "int4": q4_0}


def rounded(net: Any, kind: str) -> Any:
    """Round the matrices of a transformer's blocks in place, by the formula alone."""
    reference: Callable[[torch.Tensor], torch.Tensor] = REFERENCES[kind]
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "transformer_blocks" in name and weight.ndim == 2:
                weight.copy_(reference(weight.reshape(-1, 32)).reshape(weight.shape))
    return net


def forward(net: Any) -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        made: torch.Tensor = net(
            hidden_states=torch.randn(1, 16, 64, generator=draw),
            encoder_hidden_states=torch.randn(1, 8, net.config.joint_attention_dim, generator=draw),
            pooled_projections=torch.randn(1, net.config.pooled_projection_dim, generator=draw),
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([3.5]),
            img_ids=torch.arange(48.0).reshape(16, 3),
            txt_ids=torch.zeros(8, 3),
            return_dict=False,
        )[0]
    return made


def error(made: torch.Tensor, truth: torch.Tensor) -> float:
    return float((made - truth).norm() / truth.norm())


@pytest.mark.parametrize("kind", PACKED)
def test_layers_compute_with_the_numbers_of_the_formula(
    pipelines: dict[str, Path], kind: str
) -> None:
    folder = pipelines["krea"] / "transformer"
    plain = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    truth = forward(plain)
    expected = forward(rounded(plain, kind))
    with load_model(pipelines["krea"], device="cpu", dtype="f32", quantization=kind) as model:
        made = forward(model.pipe.transformer)
        again = forward(model.pipe.transformer)
    # Rounding at a tie may fall to the other side: one step of one number.
    assert error(made, expected) < 1e-3
    assert error(expected, truth) / 2 < error(made, truth) < BOUNDS[kind]
    assert torch.equal(made, again)


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_layers_take_what_the_plan_says(pipelines: dict[str, Path], kind: str) -> None:
    with load_model(pipelines["krea"], device="cpu", quantization=kind) as model:
        held = sum(p.numel() * p.element_size() for p in model.pipe.transformer.parameters())
        sizes = model.plan.sizes
        assert model.plan.chosen.quantization == kind
        assert held == sizes.quantized[kind].total < sizes.transformer.total
        image = run_inference(model, TEXT, SMALL)[0]
    assert image.metadata["model"]["quantization"] == kind


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_embedders_norms_and_the_final_layer_stay(pipelines: dict[str, Path], kind: str) -> None:
    with (
        load_model(pipelines["krea"], device="cpu", quantization=kind) as model,
        load_model(pipelines["krea"], device="cpu") as plain,
    ):
        truth = dict(plain.pipe.transformer.named_parameters())
        stays = {
            name: weight
            for name, weight in model.pipe.transformer.named_parameters()
            if not (casts(name) if kind == "fp8" else packs(name, truth[name].shape))
        }
        for name, weight in stays.items():
            assert torch.equal(weight, truth[name]), name
    outside = {name for name in truth if "transformer_blocks" not in name}
    assert outside <= set(stays)
    assert ("transformer_blocks.0.norm1.linear.weight" in stays) == (kind == "fp8")
    assert "transformer_blocks.0.ff.net.2.weight" not in stays


@pytest.mark.parametrize("candidate", CANDIDATES[:-1])
@pytest.mark.parametrize("kind", PACKED)
def test_every_plan_paints_the_same_image(
    pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, candidate: str
) -> None:
    with load_model(pipelines["krea"], device="cpu", quantization=kind) as model:
        expected = painted(model)

    monkeypatch.setattr(loading, "plan_load", on_a_gpu(candidate, kind))
    with load_model(pipelines["krea"], device="cpu", quantization=kind) as model:
        assert np.array_equal(painted(model), expected)
        assert np.array_equal(painted(model), expected)


@pytest.mark.parametrize("kind", PACKED)
def test_a_lora_acts_on_packed_layers_by_its_scale(
    pipelines: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    draw = torch.Generator().manual_seed(3)
    name = "transformer_blocks.0.attn.to_q"
    down, up = (torch.randn(shape, generator=draw) for shape in ((4, 64), (64, 4)))
    path = tmp_path / "lora.safetensors"
    pairs = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    save_lora(pairs, path)
    with load_model(pipelines["krea"], device="cpu", dtype="f32", quantization=kind) as model:
        plain = painted(model)
        assert np.array_equal(painted(model, loras={str(path): 0.0}), plain)
        strong = painted(model, loras={str(path): 0.7})
        assert np.array_equal(painted(model), plain)
    assert not np.array_equal(strong, plain)
    # The same by arithmetic: the product on top of the rounded weight.
    with load_model(pipelines["krea"], device="cpu", dtype="f32") as other:
        rounded(other.pipe.transformer, kind)
        with torch.no_grad():
            other.pipe.transformer.get_submodule(name).weight += 0.7 * up @ down
        assert np.abs(painted(other) - strong).max() <= 1


def test_gguf_missing_is_told(pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(submerge.SubmergeError, match="gguf: cannot be imported") as told:
        load_model(pipelines["krea"], device="cpu", quantization="int8")
    assert "submerge[gguf]" in (told.value.hint or "")


def test_numbers_that_are_not_finite_are_refused(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    arrays = tensors(KREA, "bfl")
    arrays["double_blocks.0.img_mlp.0.weight"][3, 5] = np.inf
    path = write(tmp_path / "inf.safetensors", arrays)
    with pytest.raises(submerge.CheckpointError, match="cannot be stored in int8"):
        load_model(path, device="cpu", components=pipelines["krea"], quantization="int8")


def test_another_word_is_refused(pipelines: dict[str, Path], tmp_path: Path) -> None:
    path = save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    with pytest.raises(submerge.RecipeError, match="quantization: expected `auto`"):
        load_model(path, device="cpu", components=pipelines["krea"], quantization="nf4")
