"""A merged pipeline folder loads in diffusers and makes the image it should."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

import submerge
from factory import KREA, SCHNELL, save_file, save_folder
from oracles.models import merged, model_of, state_of
from oracles.pipelines import SHIFTS, image, save_pipeline

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    return {
        name: save_pipeline(
            folder / name, save_folder(folder / f"{name}-transformer", flux), dynamic=flux.guidance
        )
        for name, flux in (("schnell", SCHNELL), ("krea", KREA))
    }


def _scheduler(folder: Path) -> dict[str, Any]:
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    return {name: scheduler.config[name] for name in SHIFTS[True]}


@pytest.mark.parametrize("link", ["auto", "copy"])
def test_merged_pipeline_makes_the_image_of_the_one_merged_in_torch(
    tmp_path: Path, pipelines: dict[str, Path], link: str
) -> None:
    out = tmp_path / "merged"
    output = {"pipeline_from": "krea", "shard_size": "300KB", "link": link}
    submerge.merge({"models": pipelines, "alpha": 0.3, "output": output}, out)
    assert _scheduler(out) == SHIFTS[True]

    a, b = (state_of(pipelines[name] / "transformer") for name in ("schnell", "krea"))
    config = pipelines["krea"] / "transformer" / "config.json"
    state = {name: tensor.float() for name, tensor in merged(a, b, 0.3).items()}
    pixels = image(out)
    assert pixels.shape == (3, 64, 64)
    assert torch.isfinite(pixels).all()
    assert torch.equal(pixels, image(pipelines["krea"], model_of(state, config)))
    assert not torch.equal(pixels, image(pipelines["krea"]))


def test_pipeline_without_guidance_takes_schnells_scheduler(
    tmp_path: Path, pipelines: dict[str, Path]
) -> None:
    """Baked for four steps without guidance: Krea's parts, schnell's static schedule."""
    out = tmp_path / "baked"
    output = {"pipeline_from": "krea", "scheduler_from": "schnell"}
    recipe = {"models": pipelines, "guidance": {"bake": 3.5}, "output": output}
    submerge.merge(recipe, out)
    assert _scheduler(out) == SHIFTS[False]
    assert torch.isfinite(image(out)).all()


def test_transformer_alone_becomes_a_pipeline(tmp_path: Path, pipelines: dict[str, Path]) -> None:
    """Two files from ComfyUI and a pipeline folder for the rest."""
    models = {
        "schnell": save_file(tmp_path / "schnell.safetensors", SCHNELL, "bfl"),
        "krea": pipelines["krea"],
    }
    out = tmp_path / "merged"
    recipe = {"models": models, "alpha": 1.0, "output": {"pipeline_from": "krea"}}
    submerge.merge(recipe, out)
    assert torch.equal(image(out), image(pipelines["krea"]))


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}])
def test_pipeline_of_variant_files_opens_as_any_other(
    tmp_path: Path, pipelines: dict[str, Path], shards: dict[str, str]
) -> None:
    """In one file each and in shards: what is written is loaded without naming the variant."""
    half, plain, out = tmp_path / "half", tmp_path / "plain", tmp_path / "out"
    pipe = FluxPipeline.from_pretrained(pipelines["krea"], torch_dtype=torch.float16)
    pipe.save_pretrained(half, variant="fp16", **shards)
    pipe.save_pretrained(plain)
    assert not list(half.rglob("model.safetensors"))
    output = {"pipeline_from": "krea"}
    submerge.merge({"models": {"krea": half}, "take": "krea", "output": output}, out)
    assert not [path for path in out.rglob("*") if "fp16" in path.name]
    assert torch.equal(image(out), image(plain))
    assert submerge.verify(out).passed


def test_index_names_the_parts_that_are_there(tmp_path: Path, pipelines: dict[str, Path]) -> None:
    out = tmp_path / "merged"
    submerge.merge({"models": pipelines, "output": {"pipeline_from": "krea"}}, out)
    index = json.loads((out / "model_index.json").read_text(encoding="utf-8"))
    theirs = json.loads((pipelines["krea"] / "model_index.json").read_text(encoding="utf-8"))
    parts = {name for name, value in theirs.items() if isinstance(value, list) and value[0]}
    assert parts >= {"scheduler", "text_encoder", "tokenizer_2", "transformer", "vae"}
    assert {name: index[name] for name in parts} == {name: theirs[name] for name in parts}
    for name in parts - {"transformer", "scheduler"}:
        ours = {p.name: p.read_bytes() for p in (out / name).iterdir()}
        assert ours == {p.name: p.read_bytes() for p in (pipelines["krea"] / name).iterdir()}
