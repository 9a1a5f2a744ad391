"""Loading: every layout is the same model, every plan the same image, damage is told in words."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel

import submerge
from factory import KREA, Flux, save_file, save_folder, tensors, write_json
from inference.plans import CANDIDATES, on_a_gpu
from submerge.checkpoint import open_checkpoint
from submerge.inference import load_model, loading, plan_loading, run_inference
from submerge.inference.weights import Weights, diffusers_places
from submerge.layout import identify

if TYPE_CHECKING:
    from pathlib import Path


SMALL: Any = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
TEXT = "a fox in snow"


def transformer_weights(path: Path, dtype: torch.dtype) -> Weights:
    model = identify(open_checkpoint(path))
    places = diffusers_places(model)
    return Weights(model.checkpoint, places, dict.fromkeys(places, dtype))


def painted(model: Any) -> bytes:
    result = run_inference(model, TEXT, SMALL | {"seeds": [0, 1]})
    return b"".join(np.asarray(image.image).tobytes() for image in result)


@pytest.fixture(scope="module")
def expected(pipelines: dict[str, Path]) -> bytes:
    with load_model(pipelines["krea"], device="cpu") as model:
        return painted(model)


@pytest.mark.parametrize("layout", ["diffusers", "bfl", "comfy"])
def test_every_layout_gives_the_tensors_of_the_diffusers_one(tmp_path: Path, layout: str) -> None:
    prefix = {"comfy": "model.diffusion_model."}.get(layout, "")
    path = save_file(tmp_path / "m.safetensors", KREA, "bfl" if prefix else layout, prefix)
    weights = transformer_weights(path, torch.bfloat16)
    truth = tensors(KREA)
    assert set(weights) == set(truth)
    for name, array in truth.items():
        found = weights[name].view(torch.uint8).numpy().tobytes()
        assert found == array.tobytes(), name


def test_shards_are_read_where_they_lie(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "sharded", KREA, shards=3)
    weights = transformer_weights(folder, torch.float32)
    truth = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32).state_dict()
    assert len(weights) == len(truth)
    for name, tensor in truth.items():
        assert torch.equal(weights[name], tensor)


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_a_transformer_alone_paints_with_borrowed_components(
    pipelines: dict[str, Path], tmp_path: Path, expected: bytes, layout: str
) -> None:
    path = save_file(tmp_path / "krea.safetensors", KREA, layout)
    with pytest.raises(submerge.RecipeError, match="transformer alone"):
        load_model(path, device="cpu")
    with load_model(path, device="cpu", components=pipelines["schnell"]) as model:
        # The scheduler of schnell would not suit: it is replaced by that of the guided kind.
        assert "dynamic shifting" in model.notes[0]
        assert painted(model) == expected


def test_a_merged_model_borrows_from_its_parents(
    pipelines: dict[str, Path], tmp_path: Path, expected: bytes
) -> None:
    merged = submerge.merge_flux_models(
        pipelines["schnell"],
        pipelines["krea"],
        {"alpha": 1.0, "output_path": tmp_path / "m.safetensors", "output": {"layout": "bfl"}},
    )
    with load_model(merged, device="cpu") as model:
        assert model.parts.companions == pipelines["krea"]
        assert painted(model) == expected


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_every_plan_paints_the_same_image(
    pipelines: dict[str, Path], expected: bytes, monkeypatch: pytest.MonkeyPatch, candidate: str
) -> None:
    """The CPU takes the way of a GPU: what a plan streams or moves, it streams and moves."""

    monkeypatch.setattr(loading, "plan_load", on_a_gpu(candidate))
    with load_model(pipelines["krea"], device="cpu") as model:
        assert model.plan.chosen.name == candidate
        assert painted(model) == expected
        again = run_inference(model, "another text", SMALL)
        assert len(again) == 1


def test_a_budget_in_words_reaches_the_planner(pipelines: dict[str, Path]) -> None:
    plan = plan_loading(
        pipelines["krea"], device="cuda", memory_budget={"vram": "700MB", "ram": "2GiB"}
    )
    assert (plan.machine.vram, plan.machine.ram) == (700_000_000, 2 << 30)
    one = plan_loading(pipelines["krea"], device="cpu", memory_budget="2GB")
    assert (one.machine.vram, one.machine.ram) == (None, 2_000_000_000)
    with pytest.raises(submerge.PlanError, match="at the least"):
        plan_loading(pipelines["krea"], device="cpu", memory_budget="1MB")
    with pytest.raises(submerge.RecipeError, match=r"memory_budget\.vram"):
        plan_loading(pipelines["krea"], device="cuda", memory_budget={"vram": "much"})


def test_sizes_are_those_of_the_loaded_modules(pipelines: dict[str, Path]) -> None:
    with load_model(pipelines["krea"], device="cpu") as model:
        sizes, pipe = model.plan.sizes, model.pipe
        held = {
            name: sum(p.numel() * p.element_size() for p in getattr(pipe, name).parameters())
            for name in ("text_encoder", "text_encoder_2", "transformer", "vae")
        }
    assert sizes.transformer.total == held["transformer"]
    assert sizes.vae == held["vae"]
    assert sizes.text == held["text_encoder"] + held["text_encoder_2"]


def test_gradient_checkpointing_changes_no_gradient(pipelines: dict[str, Path]) -> None:
    def gradient(*, checkpointing: bool) -> torch.Tensor:
        with load_model(
            pipelines["schnell"], device="cpu", dtype="f32", checkpointing=checkpointing
        ) as model:
            net = model.pipe.transformer.train()
            assert net.is_gradient_checkpointing is checkpointing
            torch.manual_seed(0)
            made = net(
                hidden_states=torch.randn(1, 4, 64),
                encoder_hidden_states=torch.randn(1, 2, 48),
                pooled_projections=torch.randn(1, 32),
                timestep=torch.tensor([0.5]),
                img_ids=torch.zeros(4, 3),
                txt_ids=torch.zeros(2, 3),
            ).sample
            made.sum().backward()
            found: torch.Tensor = net.x_embedder.weight.grad
            return found

    assert torch.allclose(gradient(checkpointing=True), gradient(checkpointing=False))


@pytest.fixture
def broken(pipelines: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a pipeline to break."""
    return shutil.copytree(pipelines["krea"], tmp_path / "broken")


def test_a_missing_component_is_named(broken: Path) -> None:
    shutil.rmtree(broken / "vae")
    with pytest.raises(submerge.CheckpointError, match="1 component: `vae` missing"):
        load_model(broken, device="cpu")


def test_a_component_cut_off_is_told(broken: Path) -> None:
    path = broken / "text_encoder_2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(submerge.CheckpointError, match="text_encoder_2"):
        load_model(broken, device="cpu")


def test_a_component_that_does_not_load_is_told(broken: Path) -> None:
    path = broken / "vae" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, config | {"down_block_types": ["NoSuchBlock", "DownEncoderBlock2D"]})
    with pytest.raises(submerge.CheckpointError, match="vae: cannot be loaded"):
        load_model(broken, device="cpu", dtype="bf16")
    assert torch.get_default_dtype() == torch.float32  # the host's, as it was


def test_a_config_that_contradicts_the_tensors_is_refused(broken: Path) -> None:
    path = broken / "transformer" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, config | {"guidance_embeds": False})
    with pytest.raises(submerge.LayoutError, match="guidance_embeds"):
        load_model(broken, device="cpu")


def test_a_transformer_of_another_kind_is_refused(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    path = save_file(tmp_path / "fill.safetensors", Flux(channels=384, guidance=True), "bfl")
    with pytest.raises(submerge.LayoutError, match="text-to-image"):
        load_model(path, device="cpu", components=pipelines["krea"])


def test_plain_fp8_is_computed_in_bf16(pipelines: dict[str, Path], tmp_path: Path) -> None:
    submerge.convert(pipelines["krea"], tmp_path / "f8.safetensors", dtype="f8_e4m3")
    with load_model(
        tmp_path / "f8.safetensors", device="cpu", components=pipelines["krea"]
    ) as model:
        assert model.plan.dtype == "bfloat16"
        assert len(painted(model)) == 2 * 32 * 32 * 3


def test_a_closed_model_says_so(pipelines: dict[str, Path]) -> None:
    model = load_model(pipelines["schnell"], device="cpu")
    model.close()
    with pytest.raises(submerge.RecipeError, match="closed"):
        run_inference(model, TEXT, SMALL)


def test_a_model_that_the_hub_does_not_give_is_told() -> None:
    with pytest.raises(submerge.SubmergeError) as caught:
        plan_loading("nobody/no-such-model", device="cpu")
    message = "nobody/no-such-model: no such file or folder, and not fetched from the hub: "
    assert caught.value.message.startswith(message)
    assert caught.value.hint is not None
    assert "hf auth login" in caught.value.hint


def test_closing_gives_the_memory_back_though_modules_are_held(pipelines: dict[str, Path]) -> None:
    model = load_model(pipelines["schnell"], device="cpu")
    held = [model.pipe.transformer, model.pipe.text_encoder_2, model.pipe.vae]
    model.close()
    for module in held:
        assert sum(p.untyped_storage().nbytes() for p in module.parameters()) == 0
