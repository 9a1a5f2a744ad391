"""Exports hold what torch's own casts give, and load where they are meant to."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import single_file_model, single_file_utils
from safetensors.torch import load_file

import submerge
from factory import KREA, tensors
from submerge import cli, export_merged_model
from submerge.inference import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TORCH = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f32": torch.float32,
    "f8_e4m3": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2,
}


def as_torch(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )


@pytest.mark.parametrize("name", sorted(TORCH))
def test_a_cast_is_torchs_cast_of_every_tensor(
    pipelines: dict[str, Path], tmp_path: Path, name: str
) -> None:
    export_merged_model(pipelines["krea"], tmp_path / "out.safetensors", name)
    found = load_file(tmp_path / "out.safetensors")
    for tensor, array in tensors(KREA, "bfl").items():
        assert same(found[tensor], as_torch(array).to(TORCH[name])), tensor


def test_fp8_casts_the_matrices_of_the_blocks_and_nothing_else(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    report = export_merged_model(pipelines["krea"], tmp_path / "fp8.safetensors", "fp8")
    assert report.path == tmp_path / "fp8.safetensors"
    found = load_file(tmp_path / "fp8.safetensors")
    cast = 0
    for name, array in tensors(KREA, "bfl").items():
        block = name.startswith(("double_blocks.", "single_blocks.")) and array.ndim == 2
        dtype = torch.float8_e4m3fn if block else torch.bfloat16
        assert same(found[name], as_torch(array).to(dtype)), name
        cast += block
    assert 0 < cast < len(found)


def test_the_kept_tensors_make_fp8_more_exact(pipelines: dict[str, Path], tmp_path: Path) -> None:
    def velocity(path: Path) -> torch.Tensor:
        with (
            load_model(path, device="cpu", dtype="f32", components=pipelines["krea"]) as model,
            torch.no_grad(),
        ):
            torch.manual_seed(0)
            found: torch.Tensor = model.pipe.transformer(
                hidden_states=torch.randn(1, 16, 64),
                encoder_hidden_states=torch.randn(1, 4, 48),
                pooled_projections=torch.randn(1, 32),
                timestep=torch.tensor([0.5]),
                guidance=torch.tensor([3.5]),
                img_ids=torch.zeros(16, 3),
                txt_ids=torch.zeros(4, 3),
            ).sample
        return found

    errors = {}
    truth = velocity(pipelines["krea"])
    for name in ("fp8", "f8_e4m3"):
        export_merged_model(pipelines["krea"], tmp_path / f"{name}.safetensors", name)
        difference = velocity(tmp_path / f"{name}.safetensors") - truth
        errors[name] = float(difference.norm() / truth.norm())
    assert 0 < errors["fp8"] < errors["f8_e4m3"] < 0.2


def test_a_folder_is_a_whole_pipeline_again(pipelines: dict[str, Path], tmp_path: Path) -> None:
    with load_model(pipelines["merged"], device="cpu") as model:
        export_merged_model(model, tmp_path / "f16", "float16")
    pipe = FluxPipeline.from_pretrained(tmp_path / "f16", torch_dtype=torch.float16)
    assert pipe.transformer.config.guidance_embeds is True
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float16}


def test_a_merged_model_is_exported(pipelines: dict[str, Path], tmp_path: Path) -> None:
    merged = submerge.merge_flux_models(
        pipelines["schnell"], pipelines["krea"], {"output_path": tmp_path / "merged"}
    )
    export_merged_model(merged, tmp_path / "out.safetensors")
    export_merged_model(pipelines["merged"], tmp_path / "other.safetensors")
    assert submerge.diff(tmp_path / "out.safetensors", tmp_path / "other.safetensors").equal


def test_diffusers_opens_an_exported_file(
    pipelines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through its own converter of single files, which is written for one width: 3072."""
    name = "convert_flux_transformer_checkpoint_to_diffusers"
    source = inspect.getsource(getattr(single_file_utils, name))
    assert source.count("inner_dim = 3072") == 1
    narrow = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", f"inner_dim = {KREA.hidden}"), narrow)  # noqa: S102
    kinds = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(kinds, "checkpoint_mapping_fn", narrow[name])

    export_merged_model(pipelines["krea"], tmp_path / "fp8.safetensors", "fp8")
    net = FluxTransformer2DModel.from_single_file(
        tmp_path / "fp8.safetensors",
        config=str(pipelines["krea"]),
        subfolder="transformer",
        torch_dtype=torch.bfloat16,
    )
    found = net.state_dict()
    truth = tensors(KREA)
    assert set(found) == set(truth)
    for tensor, array in truth.items():
        block = "transformer_blocks." in tensor and array.ndim == 2
        stored = as_torch(array).to(torch.float8_e4m3fn if block else torch.bfloat16)
        assert same(found[tensor], stored.to(torch.bfloat16)), tensor


@pytest.mark.parametrize("name", ["Q9_0", "nf4", "int8"])
def test_a_format_that_is_not_there_names_those_that_are(
    pipelines: dict[str, Path], tmp_path: Path, name: str
) -> None:
    with pytest.raises(submerge.RecipeError, match="expected one of same, f32"):
        export_merged_model(pipelines["krea"], tmp_path / "out.safetensors", name)
    assert not list(tmp_path.iterdir())


def test_the_command_exports(
    pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(pipelines["krea"]), str(tmp_path / "out.safetensors"), "--json"]
    assert cli._run([*arguments, "--quantization", "fp8"]) == cli.OK
    assert json.loads(capsys.readouterr().out)["run"]["bytes_written"] > 0
    assert cli._run([*arguments, "--quantization", "q4"]) == cli.USAGE
