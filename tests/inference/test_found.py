"""Pipelines and files as people have them: they paint, or what is wrong is told as our own."""

from __future__ import annotations

import inspect
import json
import shutil
from typing import TYPE_CHECKING, Any

import diffusers
import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from factory import KREA, tensors, write, write_json
from submerge.errors import CheckpointError, SubmergeError
from submerge.inference import load_model, run_inference
from submerge.inference.companions import _NEEDED

if TYPE_CHECKING:
    from pathlib import Path

SMALL: Any = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
TEXT = "a fox in snow"


def painted(folder: Path, **how: Any) -> bytes:
    with load_model(folder, device="cpu", dtype="f32", **how) as model:
        return run_inference(model, TEXT, SMALL)[0].image.tobytes()


def test_schedulers_that_are_taken_are_those_that_take_sigmas() -> None:
    for name in _NEEDED["scheduler"][1]:
        known = inspect.signature(getattr(diffusers, name).set_timesteps).parameters
        assert {"sigmas", "mu"} <= set(known), name
    heun = diffusers.FlowMatchHeunDiscreteScheduler
    assert "sigmas" not in inspect.signature(heun.set_timesteps).parameters


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}])
def test_a_pipeline_saved_as_a_variant_paints(
    pipelines: dict[str, Path], tmp_path: Path, shards: dict[str, str]
) -> None:
    pipe = FluxPipeline.from_pretrained(pipelines["krea"], torch_dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "half", variant="fp16", **shards)
    pipe.save_pretrained(tmp_path / "plain")
    assert painted(tmp_path / "half") == painted(tmp_path / "plain")


@pytest.mark.parametrize("kind", ["FluxKontextPipeline", "FluxImg2ImgPipeline"])
def test_a_pipeline_of_another_task_paints_from_text(
    pipelines: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    folder = shutil.copytree(pipelines["krea"], tmp_path / kind)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    write_json(folder / "model_index.json", index | {"_class_name": kind})
    assert painted(folder) == painted(pipelines["krea"])


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2", "vae"])
def test_a_component_that_lacks_a_weight_is_refused(
    pipelines: dict[str, Path], tmp_path: Path, component: str
) -> None:
    """The libraries would fill in numbers of their own and go on."""
    folder = shutil.copytree(pipelines["krea"], tmp_path / "p")
    (path,) = (folder / component).glob("*.safetensors")
    held = load_file(path)
    lost = next(name for name in held if name.endswith("weight") and held[name].ndim > 1)
    del held[lost]
    save_file(held, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{component}: 1 tensor: .* missing, expected"):
        load_model(folder, device="cpu")


def test_guidance_without_an_embedder_is_noted(pipelines: dict[str, Path]) -> None:
    asked = SMALL | {"guidance": 3.5}
    with load_model(pipelines["schnell"], device="cpu") as model:
        notes = run_inference(model, TEXT, asked).notes
        assert any("guidance 3.5: has no effect" in note for note in notes)
        assert not any("guidance" in note for note in run_inference(model, TEXT, SMALL).notes)
    with load_model(pipelines["krea"], device="cpu") as model:
        assert not any("no effect" in note for note in run_inference(model, TEXT, asked).notes)


def test_pictures_without_numbers_are_noted(pipelines: dict[str, Path], tmp_path: Path) -> None:
    broken = tensors(KREA)
    broken["proj_out.bias"][:] = float("nan")
    path = write(tmp_path / "m.safetensors", broken)
    with load_model(path, device="cpu", components=pipelines["krea"]) as model:
        result = run_inference(model, TEXT, SMALL | {"seed": 7})
        notes = [
            "prompt 0, seed 7: numbers that are not finite were computed",
            "prompt 0, seed 7: one colour all over",
        ]
        assert list(result[0].notes) == notes
        assert set(notes) <= set(result.notes)
    with load_model(pipelines["krea"], device="cpu") as model:
        assert run_inference(model, TEXT, SMALL)[0].notes == ()


@pytest.mark.parametrize(
    ("up", "scale", "why"), [(0.0, 1.0, "all it adds is zero"), (1.0, 0.0, "its scale is 0")]
)
def test_a_lora_without_effect_is_noted(
    pipelines: dict[str, Path], tmp_path: Path, up: float, scale: float, why: str
) -> None:
    layer = "transformer.transformer_blocks.0.attn.to_q"
    pair = {
        f"{layer}.lora_A.weight": torch.ones(4, KREA.hidden),
        f"{layer}.lora_B.weight": torch.full((KREA.hidden, 4), up),
    }
    path = tmp_path / "l.safetensors"
    save_file(pair, path)
    with load_model(pipelines["krea"], device="cpu") as model:
        notes = run_inference(model, TEXT, SMALL | {"loras": {str(path): scale}}).notes
        assert any("l.safetensors`: has no effect" in note and why in note for note in notes)
        if up:
            more = run_inference(model, TEXT, SMALL | {"loras": {str(path): 0.5}}).notes
            assert not any("no effect" in note for note in more)


def test_what_a_library_raises_travels_as_our_own(pipelines: dict[str, Path]) -> None:
    with load_model(pipelines["krea"], device="cpu") as model:
        with pytest.raises(SubmergeError, match=r"cannot be painted with: TypeError: .*nonsense"):
            run_inference(model, TEXT, SMALL | {"more": {"nonsense": 3}})
        with pytest.raises(ZeroDivisionError):
            run_inference(model, TEXT, SMALL, callback=lambda *_: 1 / 0)


def test_a_lack_of_memory_is_said_with_what_helps(
    pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with load_model(pipelines["krea"], device="cpu") as model:

        def full(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        monkeypatch.setattr(model.pipe.vae, "decode", full)
        with pytest.raises(SubmergeError, match="out of memory, 32 x 32 pixels, 1 at") as caught:
            run_inference(model, TEXT, SMALL)
    assert "memory_budget" in str(caught.value.hint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize("budget", [None, "4GB"])
def test_a_device_that_is_not_there_is_refused(
    pipelines: dict[str, Path], budget: str | None
) -> None:
    with pytest.raises(SubmergeError, match="device: `cuda` cannot be used: ") as caught:
        load_model(pipelines["krea"], device="cuda", memory_budget=budget)
    assert "paint with `cpu`" in str(caught.value.hint)
