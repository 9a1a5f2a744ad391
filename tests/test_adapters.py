"""Adapters of every format, fused while models are merged, against numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from factory import KREA, SCHNELL, Array, Flux
from submerge.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BFL = (
    "double_blocks.0.img_attn.qkv",
    "double_blocks.1.txt_attn.qkv",
    "double_blocks.1.img_mlp.0",
    "single_blocks.0.linear1",
    "single_blocks.1.linear2",
    "single_blocks.1.modulation.lin",
    "img_in",
    "txt_in",
    "time_in.in_layer",
    "vector_in.out_layer",
    "guidance_in.in_layer",
    "final_layer.linear",
    "final_layer.adaLN_modulation.1",
)
WIDE = Flux(guidance=True, seed=1, dtype="F32")


def fused(
    folder: Path,
    model: Flux,
    adapters: list[Any],
    layout: str = "diffusers",
    **output: Any,
) -> dict[str, Array]:
    """A model with adapters on it, in diffusers' names and F32."""
    path = folder / f"{layout}.safetensors"
    if not path.exists():
        factory.save_file(path, model, layout)
    recipe = {
        "models": {"model": str(path)},
        "adapters": adapters,
        "output": {"layout": "diffusers", "dtype": "f32", **output},
    }
    submerge.merge(recipe, folder / "out.safetensors", overwrite=True)
    return factory.read(folder / "out.safetensors")


def expected(model: Flux, added: Mapping[str, Array], scale: float = 1.0) -> dict[str, Array]:
    """The model with dense deltas added in F64."""
    tensors = {name: files.wide(array) for name, array in factory.tensors(model).items()}
    return {
        name: array + scale * added[name] if name in added else array
        for name, array in tensors.items()
    }


def assert_close(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    """Equal up to the rounding of F32 sums."""
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=4e-7, err_msg=name)


def weights(deltas: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{module}.weight": delta for module, delta in deltas.items()}


@pytest.mark.parametrize("layout", ["diffusers", "bfl"])
@pytest.mark.parametrize(
    "style", ["transformer.", "", "base_model.model.", "base_model.model.transformer."]
)
def test_peft_and_diffusers_names(tmp_path: Path, layout: str, style: str) -> None:
    found = files.pairs(WIDE, files.MODULES)
    path = files.save(tmp_path / "style.safetensors", files.diffusers(found, style))
    added = weights({module: files.product(pair) for module, pair in found.items()})
    assert_close(fused(tmp_path, WIDE, [str(path)], layout), expected(WIDE, added))


@pytest.mark.parametrize("style", ["_lora", ".lora", ".lora_linear_layer"])
def test_names_of_old_diffusers(tmp_path: Path, style: str) -> None:
    found = files.pairs(WIDE, files.MODULES)
    path = files.save(tmp_path / "style.safetensors", files.old_diffusers(found, style))
    added = weights({module: files.product(pair) for module, pair in found.items()})
    assert_close(fused(tmp_path, WIDE, [str(path)]), expected(WIDE, added))


@pytest.mark.parametrize("layout", ["diffusers", "bfl"])
@pytest.mark.parametrize("alpha", [None, 1.0, 6.0])
def test_kohya_names_split_and_scale_by_module(
    tmp_path: Path, layout: str, alpha: float | None
) -> None:
    found = files.pairs(WIDE, BFL, layout="bfl")
    path = files.save(tmp_path / "style.safetensors", files.kohya(found, alpha))
    scale = 1.0 if alpha is None else alpha / 4
    dense = weights({module: files.product(pair, scale) for module, pair in found.items()})
    added = files.in_diffusers(WIDE, dense)
    assert_close(fused(tmp_path, WIDE, [str(path)], layout), expected(WIDE, added))


@pytest.mark.parametrize("prefix", ["lora_transformer_", "lycoris_", "lora_unet_"])
def test_diffusers_names_with_underscores(tmp_path: Path, prefix: str) -> None:
    """OneTrainer, SimpleTuner's LyCORIS, and kohya's prefix on diffusers' names."""
    found = files.pairs(WIDE, files.MODULES)
    path = files.save(tmp_path / "style.safetensors", files.kohya(found, 2.0, prefix))
    added = weights({module: files.product(pair, 0.5) for module, pair in found.items()})
    assert_close(fused(tmp_path, WIDE, [str(path)]), expected(WIDE, added))


@pytest.mark.parametrize("prefix", ["diffusion_model.", "model.diffusion_model."])
def test_comfyui_names(tmp_path: Path, prefix: str) -> None:
    found = files.pairs(WIDE, BFL, layout="bfl")
    path = files.save(tmp_path / "style.safetensors", files.comfyui(found, prefix))
    dense = weights({module: files.product(pair) for module, pair in found.items()})
    assert_close(
        fused(tmp_path, WIDE, [str(path)], "bfl"),
        expected(WIDE, files.in_diffusers(WIDE, dense)),
    )


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_xlabs_names(tmp_path: Path, prefix: str) -> None:
    arrays, added = files.xlabs(WIDE, prefix)
    path = files.save(tmp_path / "style.safetensors", arrays)
    assert_close(fused(tmp_path, WIDE, [str(path)]), expected(WIDE, added))


def test_fal_keeps_the_prefix_of_peft_and_names_of_bfl(tmp_path: Path) -> None:
    found = files.pairs(WIDE, BFL, layout="bfl")
    path = files.save(tmp_path / "s.safetensors", files.diffusers(found, "base_model.model."))
    dense = weights({module: files.product(pair) for module, pair in found.items()})
    assert_close(
        fused(tmp_path, WIDE, [str(path)]), expected(WIDE, files.in_diffusers(WIDE, dense))
    )
