"""LoRAs and ControlNets are on for one run and off after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import save_file

import submerge
from submerge import RecipeError
from submerge.inference import load_model, run_inference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from submerge.inference import LoadedModel

SMALL: dict[str, Any] = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
TEXT = "a fox in snow"


def painted(model: LoadedModel, **more: Any) -> bytes:
    return np.asarray(run_inference(model, TEXT, SMALL | more)[0].image).tobytes()


@pytest.fixture(scope="module")
def krea(pipelines: dict[str, Path]) -> Iterator[LoadedModel]:
    with load_model(pipelines["krea"], device="cpu", dtype="f32") as model:
        yield model


def test_a_lora_acts_by_its_scale_and_only_for_its_run(
    krea: LoadedModel, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    draw = torch.Generator().manual_seed(3)
    name = "transformer_blocks.0.attn.to_q"
    down, up = (torch.randn(shape, generator=draw) for shape in ((4, 64), (64, 4)))
    pairs = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    path = tmp_path / "lora.safetensors"
    save_file(pairs, path)
    plain = painted(krea)
    assert painted(krea, loras={str(path): 0.0}) == plain
    strong = painted(krea, loras={str(path): 0.7})
    assert strong != plain
    assert painted(krea) == plain

    # The same by arithmetic: the product on top of the weight.
    with load_model(pipelines["krea"], device="cpu", dtype="f32") as other:
        with torch.no_grad():
            other.pipe.transformer.get_submodule(name).weight += 0.7 * up @ down
        fused = np.frombuffer(painted(other), np.uint8).astype(int)
    assert np.abs(fused - np.frombuffer(strong, np.uint8)).max() <= 1


def test_a_lora_that_does_not_fit_is_told(krea: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"something": torch.zeros(1)}, path)
    with pytest.raises(submerge.AdapterError, match="loras: cannot be applied"):
        painted(krea, loras={str(path): 1.0})


def test_a_controlnet_acts_by_its_scale(
    krea: LoadedModel, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    transformer = FluxTransformer2DModel.from_pretrained(pipelines["krea"] / "transformer")
    net = FluxControlNetModel.from_transformer(
        transformer, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=4
    )
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    net.save_pretrained(tmp_path / "net")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(picture)
    control = {"model": str(tmp_path / "net"), "image": str(picture)}
    plain = painted(krea)
    assert painted(krea, controlnet={**control, "scale": 0.0}) == plain
    assert painted(krea, controlnet={**control, "scale": 1.0}) != plain
    with pytest.raises(submerge.RecipeError, match="no `image`"):
        painted(krea, controlnet={"model": str(tmp_path / "net")})


def test_a_picture_for_the_adapter_is_needed(krea: LoadedModel) -> None:
    given = {"pretrained_model_name_or_path_or_dict": "x"}
    with pytest.raises(RecipeError, match=r"options\.ip_adapter: has no `image`, expected a path"):
        run_inference(krea, TEXT, SMALL | {"ip_adapter": given})
