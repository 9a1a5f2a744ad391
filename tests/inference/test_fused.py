"""Adapters added while weights are read: the model painted with is the one `lora bake` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import adapter_files as files
import factory
from factory import KREA, Array
from submerge import AdapterError, RecipeError
from submerge.cli import app
from submerge.inference import load_model, run_inference
from submerge.inference.modules import transformer_weights
from submerge.inference.parts import Parts, find_parts
from submerge.inference.weights import Weights, diffusers_places
from submerge.lora import bake

if TYPE_CHECKING:
    from pathlib import Path

SMALL: Any = {"width": 32, "height": 32, "steps": 2, "max_sequence_length": 16}
QKV, OUT, MLP = "double_blocks.0.img_attn.qkv", "single_blocks.1.linear2", "single_blocks.0.linear1"


def every_kind(folder: Path) -> Path:
    """LoRA, LoHa, LoKr, GLoRA, DoRA, a difference, a bias and a replaced norm in one file."""
    names = ("double_blocks.0.img_mlp.0", "double_blocks.1.txt_attn.proj", OUT)
    pair = files.pairs(KREA, [QKV, *names], layout="bfl")
    arrays = files.kohya({QKV: pair[QKV], OUT: pair[OUT]}, 2.0)
    stem = "lora_unet_single_blocks_1_linear2"
    arrays[f"{stem}.dora_scale"] = 1 + files.draw("m", 64, 1)
    stem = "lora_unet_single_blocks_0_linear1"
    arrays |= {
        f"{stem}.lokr_w1": files.draw("1", 7, 4),
        f"{stem}.lokr_w2_a": files.draw("2", 64, 2),
    }
    arrays |= {f"{stem}.lokr_w2_b": files.draw("3", 2, 16)}
    stem = "lora_unet_double_blocks_0_img_mlp_0"
    shapes = {"hada_w1_a": (256, 2), "hada_w1_b": (2, 64), "hada_w2_a": (256, 3)}
    for part, shape in {**shapes, "hada_w2_b": (3, 64)}.items():
        arrays[f"{stem}.{part}"] = files.draw(part, *shape)
    stem = "lora_unet_double_blocks_1_img_mlp_2"
    for part, shape in {"a1": (256, 2), "a2": (2, 256), "b1": (64, 2), "b2": (2, 256)}.items():
        arrays[f"{stem}.{part}.weight"] = files.draw(part, *shape)
    stem = "lora_unet_double_blocks_1_txt_attn_qkv"
    arrays |= {f"{stem}.diff": files.draw("d", 192, 64), f"{stem}.diff_b": files.draw("b", 192)}
    arrays["lora_unet_single_blocks_0_norm_key_norm.scale"] = files.draw("n", 16)
    return files.save(folder / "style.safetensors", arrays)


def made(parts: Parts, dtype: torch.dtype) -> Weights:
    names = diffusers_places(parts.model)
    return transformer_weights(parts, dict.fromkeys(names, dtype), dtype)


@pytest.mark.parametrize("layout", ["diffusers", "bfl"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("scale", [1, 0.5, {"single": 0, "default": -0.25}])
def test_weights_are_those_of_the_baked_model(
    pipelines: dict[str, Path], tmp_path: Path, layout: str, dtype: str, scale: Any
) -> None:
    path = factory.save_file(tmp_path / "krea.safetensors", KREA, layout)
    source = {"path": str(every_kind(tmp_path)), "scale": scale}
    bake(path, [source], tmp_path / "baked.safetensors", layout="diffusers", dtype=dtype)
    plain = load_file(factory.save_file(tmp_path / "plain.safetensors", KREA, "diffusers"))
    weights = made(
        find_parts(path, pipelines["krea"], [source]),
        {"f32": torch.float32, "bf16": torch.bfloat16}[dtype],
    )
    baked = load_file(tmp_path / "baked.safetensors")
    assert set(weights) == set(baked)
    changed = 0
    for name, tensor in weights.items():
        assert torch.equal(tensor, baked[name]), name
        changed += int(not torch.equal(baked[name], plain[name].to(tensor.dtype)))
    # q, k, v; 2 MLPs; text q, k, v with biases; of single blocks linear1's four, an output, a norm.
    assert changed == (17 if isinstance(scale, int | float) else 11)
    weights.close()


def painted(pipelines: dict[str, Path], source: Path, **more: Any) -> tuple[Array, str]:
    with load_model(
        source, components=pipelines["krea"], device="cpu", dtype="f32", **more
    ) as model:
        image = run_inference(model, "a fox in snow", SMALL)[0].image
        return np.asarray(image).astype(np.int16), model.fingerprint


def test_it_paints_what_the_baked_model_paints(pipelines: dict[str, Path], tmp_path: Path) -> None:
    found = files.pairs(KREA, [QKV, OUT, MLP], layout="bfl")
    path = files.save(tmp_path / "style.safetensors", files.kohya(found, None))
    transformer = pipelines["krea"] / "transformer"
    bake(transformer, [str(path)], tmp_path / "baked.safetensors", dtype="f32")
    plain, before = painted(pipelines, transformer)
    fused, after = painted(pipelines, transformer, adapters=[str(path)])
    baked, _ = painted(pipelines, tmp_path / "baked.safetensors")
    assert np.abs(fused - baked).max() <= 1
    assert np.abs(fused - plain).max() > 1
    assert before != after
    with load_model(
        transformer, components=pipelines["krea"], device="cpu", adapters=[str(path)]
    ) as m:
        assert m.notes[0] == "adapter `style`: LoRA, kohya names, 3 modules, rank 4"


def test_an_adapter_in_the_metadata_is_no_parent(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    """A baked krea is as guided as krea, and no merge with a model of few steps."""
    found = files.pairs(KREA, [QKV], layout="bfl")
    path = files.save(tmp_path / "style.safetensors", files.kohya(found, None))
    bake(pipelines["krea"], [str(path)], tmp_path / "baked")
    assert not find_parts(tmp_path / "baked", pipelines["krea"]).few_step_parent


def test_adapters_that_do_not_fit_are_refused_before_torch_is_asked(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    found = files.pairs(factory.Flux(hidden=32), ["x_embedder"])
    path = files.save(tmp_path / "s.safetensors", files.diffusers(found))
    with pytest.raises(AdapterError, match=r"expected \[64, 4\], got \[32, 4\]"):
        load_model(pipelines["krea"], device="cpu", adapters=[str(path)])
    with pytest.raises(RecipeError, match=r"adapters\[0\].onto: got `krea`, expected nothing"):
        load_model(pipelines["krea"], adapters=[{"path": str(path), "onto": "krea"}])


def test_generate_fuses(pipelines: dict[str, Path], tmp_path: Path) -> None:
    found = files.pairs(KREA, [QKV], layout="bfl")
    path = files.save(tmp_path / "s.safetensors", files.kohya(found, None))
    common = ["-p", "a fox", "--steps", "1", "--size", "32x32", "--device", "cpu", "-q"]
    for folder, more in (("plain", []), ("fused", ["--fuse", f"{path}=0.5"])):
        arguments = ["generate", str(pipelines["krea"]), *common, *more]
        app.main(args=[*arguments, "-o", str(tmp_path / folder)], standalone_mode=False)
    (one,), (other,) = (sorted((tmp_path / n).glob("*.png")) for n in ("plain", "fused"))
    assert one.read_bytes() != other.read_bytes()
