"""LoRAs, IP-Adapters and ControlNets are on for one run and off after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import submerge
from inference.plans import CANDIDATES, alone, on_a_gpu
from submerge import RecipeError
from submerge.inference import load_model, loading, run_inference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from submerge.inference import LoadedModel

SMALL: Any = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
TEXT = "a fox in snow"
LAYER = "transformer_blocks.0.attn.to_q"
LORA = (("A", (4, 64)), ("B", (64, 4)))


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

    # Prompts are encoded already: the part for a text encoder changes nothing.
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    sides = {"lora_A": torch.randn(4, 32), "lora_B": torch.randn(32, 4)}
    save_file(pairs | {f"{layer}.{side}.weight": t for side, t in sides.items()}, path)
    assert painted(krea, loras={str(path): 0.7}) == strong

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


@pytest.fixture
def ip_adapter(pipelines: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """An IP-Adapter in the layout FLUX's are published in, and the picture it is given."""
    torch.manual_seed(4)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    flux = FluxTransformer2DModel.load_config(pipelines["krea"] / "transformer")
    text, width = flux["joint_attention_dim"], 64
    weights = {
        "ip_adapter_proj_model.proj.weight": torch.randn(4 * text, 16),
        "ip_adapter_proj_model.proj.bias": torch.randn(4 * text),
        "ip_adapter_proj_model.norm.weight": torch.ones(text),
        "ip_adapter_proj_model.norm.bias": torch.zeros(text),
    }
    for block in range(flux["num_layers"]):
        for part in ("k", "v"):
            name = f"double_blocks.{block}.processor.ip_adapter_double_stream_{part}_proj"
            weights[f"{name}.weight"] = torch.randn(width, text)
            weights[f"{name}.bias"] = torch.randn(width)
    save_file(weights, tmp_path / "ip_adapter.safetensors")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(picture)
    return {
        "pretrained_model_name_or_path_or_dict": str(tmp_path),
        "weight_name": "ip_adapter.safetensors",
        "image_encoder_pretrained_model_name_or_path": str(tmp_path / "clip"),
        "image": str(picture),
    }


def test_an_ip_adapter_acts_by_its_scale_and_only_for_its_run(
    krea: LoadedModel, ip_adapter: dict[str, Any], tmp_path: Path
) -> None:
    plain = painted(krea)
    assert painted(krea, ip_adapter={**ip_adapter, "scale": 0.0}) == plain
    strong = painted(krea, ip_adapter={**ip_adapter, "scale": 1.0})
    assert strong != plain
    assert painted(krea, ip_adapter=ip_adapter) == strong
    assert painted(krea) == plain
    other = tmp_path / "other.png"
    Image.new("RGB", (32, 32), "red").save(other)
    assert painted(krea, ip_adapter={**ip_adapter, "image": str(other)}) not in (plain, strong)
    with pytest.raises(submerge.RecipeError, match="no `image`"):
        painted(krea, ip_adapter={k: v for k, v in ip_adapter.items() if k != "image"})


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_adapters_paint_the_same_image_on_every_plan(
    krea: LoadedModel,
    pipelines: dict[str, Path],
    ip_adapter: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    candidate: str,
) -> None:
    draw = torch.Generator().manual_seed(3)
    name = "transformer.transformer_blocks.0.attn.to_q.lora"
    pairs = {
        f"{name}_{side}.weight": torch.randn(shape, generator=draw)
        for side, shape in (("A", (4, 64)), ("B", (64, 4)))
    }
    save_file(pairs, tmp_path / "lora.safetensors")
    each: list[dict[str, Any]] = [
        {"ip_adapter": ip_adapter},
        {"loras": {str(tmp_path / "lora.safetensors"): 0.7}},
        {},
    ]
    expected = [painted(krea, **more) for more in each]
    monkeypatch.setattr(loading, "plan_load", on_a_gpu(candidate))
    with load_model(pipelines["krea"], device="cpu", dtype="f32") as model:
        assert model.plan.chosen.name == candidate
        assert [painted(model, **more) for more in each] == expected


def test_adapters_whose_files_are_cut_short_once_they_are_loaded(
    pipelines: dict[str, Path], ip_adapter: dict[str, Any], tmp_path: Path
) -> None:
    """In a process of its own: one mapped into memory would end it with a signal."""
    program = """
        import json, os, sys
        from submerge.inference import load_model, run_inference

        folder, options, files = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
        options |= {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}

        def truncate(*_):
            for file in files:
                os.truncate(file, 0)

        with load_model(folder, device="cpu", dtype="f32") as model:
            plain = run_inference(model, "a fox", options)[0].image.tobytes()
            cut = run_inference(model, "a fox", options, callback=truncate)[0].image.tobytes()
            print(plain == cut)
    """
    wide = {f"transformer.{LAYER}.lora_{side}.weight": torch.randn(shape) for side, shape in LORA}
    save_file(wide, tmp_path / "lora.safetensors")
    transformer = FluxTransformer2DModel.from_pretrained(pipelines["krea"] / "transformer")
    net = FluxControlNetModel.from_transformer(
        transformer, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=4
    )
    net.save_pretrained(tmp_path / "net")
    control = {"model": str(tmp_path / "net"), "image": ip_adapter["image"]}
    for options in (
        {"loras": {str(tmp_path / "lora.safetensors"): 1.0}},
        {"controlnet": control},
        {"ip_adapter": ip_adapter},
    ):
        files = [str(file) for file in tmp_path.rglob("*.safetensors")]
        kept = {file: Path(file).read_bytes() for file in files}
        assert alone(program, pipelines["krea"], json.dumps(options), json.dumps(files)) == "True\n"
        for file, data in kept.items():
            Path(file).write_bytes(data)
