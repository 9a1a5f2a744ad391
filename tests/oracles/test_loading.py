"""diffusers loads what submerge writes, and the loaded model computes what it should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

import submerge
from factory import KREA, SCHNELL, save_file, save_folder
from oracles.models import equal, forward, loaded, merged, model_of, state_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """schnell in two diffusers shards with its config, krea as one BFL file without."""
    return {
        "schnell": save_folder(tmp_path / "schnell", SCHNELL, shards=2),
        "krea": save_file(tmp_path / "krea.safetensors", KREA, "bfl"),
    }


def _reference(tmp_path: Path) -> FluxTransformer2DModel:
    """The same merge in torch, under a config written by hand."""
    a = state_of(save_folder(tmp_path / "reference-a", SCHNELL))
    b = state_of(save_folder(tmp_path / "reference-b", KREA))
    return model_of(merged(a, b, 0.3), tmp_path / "reference-b" / "config.json")


@pytest.mark.parametrize("shard_size", [None, "250KB", "500KB"])
def test_merged_model_runs_as_the_one_merged_in_torch(
    tmp_path: Path, models: dict[str, Path], shard_size: str | None
) -> None:
    out = tmp_path / "merged"
    output: dict[str, Any] = {"layout": "diffusers"}
    output |= {} if shard_size is None else {"shard_size": shard_size}
    submerge.merge({"models": models, "alpha": 0.3, "output": output}, out)
    assert len(list(out.glob("*.index.json"))) == (shard_size is not None)

    model, reference = loaded(out), _reference(tmp_path)
    assert equal(model.state_dict(), reference.state_dict())
    answer = forward(model, guidance=3.5)
    assert torch.isfinite(answer).all()
    assert torch.equal(answer, forward(reference, guidance=3.5))
    krea = model_of(state_of(tmp_path / "reference-b"), tmp_path / "reference-b" / "config.json")
    assert not torch.equal(answer, forward(krea, guidance=3.5))


def test_nothing_is_missing_or_unexpected(tmp_path: Path, models: dict[str, Path]) -> None:
    out = tmp_path / "merged"
    submerge.merge({"models": models, "output": {"layout": "diffusers"}}, out)
    model, found = FluxTransformer2DModel.from_pretrained(out, output_loading_info=True)
    assert not any(found.values()), found
    assert model.config.guidance_embeds is True


def test_config_is_the_one_diffusers_writes(tmp_path: Path, models: dict[str, Path]) -> None:
    out = tmp_path / "merged"
    submerge.merge({"models": models, "output": {"layout": "diffusers"}}, out)
    model = loaded(out)
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        {
            key: value
            for key, value in FluxTransformer2DModel.load_config(folder).items()
            if key not in ("_diffusers_version", "_name_or_path")
        }
        for folder in (out, tmp_path / "theirs")
    )
    assert ours == theirs


def test_schnell_and_its_merges_without_guidance_load(tmp_path: Path) -> None:
    schnell = save_folder(tmp_path / "schnell", SCHNELL)
    out = tmp_path / "copied"
    submerge.convert(schnell, out)
    model = loaded(out)
    assert model.config.guidance_embeds is False
    assert torch.equal(forward(model), forward(loaded(schnell)))
