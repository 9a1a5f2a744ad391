"""Planned files against those diffusers and huggingface_hub write themselves."""

from __future__ import annotations

import importlib
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import get_timestep_embedding

import factory
from factory import KREA, SCHNELL, Flux
from planning import planned
from submerge.layout import FAMILIES
from submerge.plan.sizes import split_shards

if TYPE_CHECKING:
    from pathlib import Path


def test_shards_are_cut_as_the_hub_cuts_them() -> None:
    hub = importlib.import_module("huggingface_hub")
    chance = random.Random(0)  # noqa: S311 - no secret
    for _ in range(2000):
        limit = chance.randint(1, 20)
        sizes = {f"t{i}": chance.randint(0, 25) for i in range(chance.randint(1, 12))}
        split: Any = hub.split_state_dict_into_shards_factory(
            dict(sizes.items()),
            get_storage_size=lambda size: size,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=limit,
        )
        found = split_shards(list(sizes.items()), limit)
        assert found == list(split.filename_to_tensors.values())


@pytest.mark.parametrize("flux", [SCHNELL, KREA])
@pytest.mark.parametrize("limit", ["300KB", "10GB"])
def test_files_are_those_save_pretrained_writes(tmp_path: Path, flux: Flux, limit: str) -> None:
    source = factory.save_folder(tmp_path / "m", flux)
    model = FluxTransformer2DModel.from_pretrained(source, torch_dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs", max_shard_size=limit)
    output = {"shard_size": limit, "card": False}
    plan = planned(tmp_path, {"m": source}, {"take": "m", "output": output}, "ours")
    ours = {text.path: json.loads(text.text) for text in plan.texts}
    theirs = {path.name: path for path in (tmp_path / "theirs").iterdir()}
    assert {file.path for file in plan.files} | set(ours) == set(theirs)
    for index, file in enumerate(plan.files):
        names = [output.name for output in plan.outputs if output.file == index]
        header = factory.header(theirs[file.path])
        assert names == [name for name in header if name != "__metadata__"]
    for name, content in ours.items():
        expected = json.loads(theirs[name].read_text())
        volatile = ("_name_or_path", "_diffusers_version")
        assert {k: v for k, v in content.items() if k not in volatile} == {
            k: v for k, v in expected.items() if k not in volatile
        }
        if name.endswith(".index.json"):
            text = next(text.text for text in plan.texts if text.path == name)
            assert text == theirs[name].read_text()


@pytest.mark.parametrize("value", [0.0, 1.0, 3.5, 4.5, 30.0])
def test_the_sinusoid_is_diffusers(value: float) -> None:
    network = FAMILIES["flux1"].guidance
    assert network is not None
    time = torch.tensor([value * 1000], dtype=torch.float64)
    theirs = get_timestep_embedding(time, 256, flip_sin_to_cos=True, downscale_freq_shift=0)[0]
    # Theirs is f32: at 30,000 radians one ulp of the angle is 0.002.
    ulp = max(1.0, value * 1000) * 2**-23
    assert torch.allclose(
        torch.tensor(network.sinusoid(value, 256), dtype=torch.float64),
        theirs.double(),
        rtol=0,
        atol=2 * ulp + 1e-6,
    )
