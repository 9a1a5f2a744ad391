"""Text encoders with adapters on them, as diffusers, peft and transformers mean them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import peft
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
from transformers import CLIPTextModel, T5EncoderModel

import adapter_files as files
import factory
from fusing import WIDE
from oracles.pipelines import save_pipeline
from submerge.lora import bake

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array

CLIP = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "out_proj", "fc1"])
T5 = peft.LoraConfig(r=4, lora_alpha=2, target_modules=["q", "o", "wi", "wo"])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    return save_pipeline(folder, factory.save_folder(folder / "model", WIDE), dynamic=True)


def shaken(model: Any) -> None:
    draw = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.1


def assert_same(ours: Any, theirs: Any) -> None:
    state = theirs.state_dict()
    assert set(ours.state_dict()) == set(state)
    for name, tensor in ours.state_dict().items():
        np.testing.assert_allclose(tensor, state[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("component", "kind", "config"),
    [("text_encoder", CLIPTextModel, CLIP), ("text_encoder_2", T5EncoderModel, T5)],
)
def test_what_peft_merges(
    tmp_path: Path, source: Path, component: str, kind: Any, config: Any
) -> None:
    model = peft.get_peft_model(kind.from_pretrained(source / component), config)
    shaken(model)
    state = peft.get_peft_model_state_dict(model)
    arrays = {k.replace("base_model.model", component): v.numpy() for k, v in state.items()}
    said = {f"{component}.r": config.r, f"{component}.lora_alpha": config.lora_alpha}
    metadata = {"lora_adapter_metadata": json.dumps(said)}
    style = files.save(tmp_path / "style.safetensors", arrays, metadata)
    bake(source, [str(style)], tmp_path / "out")
    assert_same(kind.from_pretrained(tmp_path / "out" / component), model.merge_and_unload())


def test_what_diffusers_saves(tmp_path: Path, source: Path) -> None:
    """Transformers 5.24 puts no adapter onto an encoder with peft 0.21; peft itself does."""
    model = peft.get_peft_model(CLIPTextModel.from_pretrained(source / "text_encoder"), CLIP)
    shaken(model)
    state = peft.get_peft_model_state_dict(model)
    layers = {key.removeprefix("base_model.model."): value for key, value in state.items()}
    more = {"text_encoder_lora_adapter_metadata": CLIP.to_dict()}
    FluxPipeline.save_lora_weights(tmp_path / "saved", text_encoder_lora_layers=layers, **more)
    bake(source, [str(tmp_path / "saved")], tmp_path / "out")
    ours = FluxPipeline.from_pretrained(tmp_path / "out")
    assert_same(ours.text_encoder, model.merge_and_unload())


def test_kohya_files_as_diffusers_converts_them(tmp_path: Path, source: Path) -> None:
    """A transformer and CLIP; the alphas are in the factors that diffusers makes."""
    model = peft.get_peft_model(CLIPTextModel.from_pretrained(source / "text_encoder"), CLIP)
    shaken(model)
    style = files.save(tmp_path / "style.safetensors", kohya(peft.get_peft_model_state_dict(model)))
    part = {k: v for k, v in FluxPipeline.lora_state_dict(style).items() if "encoder." in k}
    theirs = convert_state_dict_to_peft(convert_state_dict_to_diffusers(part))
    bake(source, [{"path": str(style), "scale": 0.7}], tmp_path / "out")
    before = CLIPTextModel.from_pretrained(source / "text_encoder").state_dict()
    ours = CLIPTextModel.from_pretrained(tmp_path / "out/text_encoder").state_dict()
    changed = 0
    for name, tensor in before.items():
        module = f"text_encoder.text_model.{name.removesuffix('.weight')}"
        up, down = (theirs.get(f"{module}.lora_{side}.weight") for side in "BA")
        wanted = tensor if up is None else tensor + 0.7 * (up @ down)
        changed += up is not None
        np.testing.assert_allclose(ours[name], wanted, rtol=0, atol=1e-6, err_msg=name)
    assert changed == 3  # of the one layer: q_proj, out_proj, fc1


def kohya(state: dict[str, torch.Tensor]) -> dict[str, Array]:
    """As sd-scripts names them, with the alpha of the configuration; and a module of FLUX.1."""
    arrays = files.kohya(files.pairs(WIDE, ["double_blocks.0.img_mlp.0"], layout="bfl"), 1.0)
    for key, value in state.items():
        module, _, end = key.removeprefix("base_model.model.").rpartition(".lora_")
        stem = "lora_te1_text_model_" + module.removeprefix("text_model.").replace(".", "_")
        arrays[f"{stem}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = value.numpy()
        arrays[f"{stem}.alpha"] = np.array(CLIP.lora_alpha, dtype=np.float32)
    return arrays
