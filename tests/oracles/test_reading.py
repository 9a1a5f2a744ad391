"""The safetensors package reads all that submerge writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

import submerge
from factory import KREA, SCHNELL, save_comfy, save_file, save_folder, save_pipeline, shapes_of
from oracles.models import equal, state_of

if TYPE_CHECKING:
    from pathlib import Path

OUTPUTS: dict[str, dict[str, Any]] = {
    "one.safetensors": {},
    "bfl.safetensors": {"layout": "bfl"},
    "comfy.safetensors": {"layout": "comfy"},
    "single": {},
    "sharded": {"shard_size": "300KB"},
    "pipeline": {"pipeline_from": "krea", "shard_size": "500KB"},
    "f32.safetensors": {"dtype": "f32"},
    "f16.safetensors": {"dtype": "f16"},
    "fp8.safetensors": {"dtype": "f8_e4m3", "layout": "bfl"},
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_form_of_output_is_read(tmp_path: Path, name: str) -> None:
    models = {
        "schnell": save_folder(tmp_path / "in" / "schnell", SCHNELL),
        "krea": save_pipeline(tmp_path / "in" / "krea", KREA),
    }
    output = OUTPUTS[name]
    out = tmp_path / name
    submerge.merge({"models": models, "alpha": 0.3, "output": output}, out)
    folder = out / "transformer" if name == "pipeline" else out
    files = sorted(folder.glob("*.safetensors")) if out.is_dir() else [out]
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        tensors = load_file(file)
        with safe_open(file, framework="pt") as opened:
            assert set(opened.keys()) == tensors.keys()
            metadata = opened.metadata()
            for tensor, whole in tensors.items():
                shapes[tensor] = tuple(opened.get_slice(tensor).get_shape())
                assert torch.equal(opened.get_slice(tensor)[1:2].float(), whole[1:2].float())
        assert metadata["format"] == "pt"
        assert all(isinstance(value, str) for value in metadata.values())
    layout = {"bfl": "bfl", "comfy": "bfl"}.get(output.get("layout", ""), "diffusers")
    prefix = "model.diffusion_model." if output.get("layout") == "comfy" else ""
    assert shapes == shapes_of(KREA, layout, prefix)


def test_written_as_the_package_would(tmp_path: Path) -> None:
    """Same tensors, same metadata: the package writes the very same bytes."""
    path = save_file(tmp_path / "model.safetensors", KREA)
    out = tmp_path / "out.safetensors"
    submerge.convert(path, out, layout="bfl")
    with safe_open(out, framework="pt") as opened:
        metadata = opened.metadata()
    theirs = save(load_file(out), metadata)
    length = int.from_bytes(theirs[:8], "little")
    ours = out.read_bytes()
    # The package's hash map leaves the order of the metadata open; all else is fixed.
    assert json.loads(ours[8 : 8 + length]) == json.loads(theirs[8 : 8 + length])
    assert (ours[:8], ours[8 + length :]) == (theirs[:8], theirs[8 + length :])


def test_all_in_one_file_keeps_its_other_models(tmp_path: Path) -> None:
    schnell = save_file(tmp_path / "schnell.safetensors", SCHNELL, "bfl")
    krea = save_comfy(tmp_path / "krea.safetensors", KREA)
    out = tmp_path / "out.safetensors"
    recipe = {"models": {"krea": krea, "schnell": schnell}, "alpha": 0.3, "extras": "krea"}
    submerge.merge(recipe, out)
    others = {k: v for k, v in state_of(krea).items() if not k.startswith("model.")}
    made = state_of(out)
    assert len(others) == 4
    assert equal({name: made[name] for name in others}, others)
    assert made.keys() == state_of(krea).keys()
