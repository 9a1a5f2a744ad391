"""Adapters added while weights are read: the model painted with is the one `lora bake` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import peft
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from PIL import Image
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


def saved_by_diffusers(transformer: Path, folder: Path) -> Path:
    """A LoRA of two ranks and alphas, written by diffusers with its configuration."""
    model = FluxTransformer2DModel.from_pretrained(transformer, torch_dtype=torch.float32)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_v", "to_out.0", "net.2", "proj_out"],
        rank_pattern={"to_v": 2},
        alpha_pattern={"net.2": 1},
    )
    model.add_adapter(config)
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=draw) * 0.1
    FluxPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=peft.get_peft_model_state_dict(model),
        transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )
    return folder / "pytorch_lora_weights.safetensors"


def by_diffusers(folder: Path, lora: Path | None = None, scale: float = 1.0) -> Array:
    """The picture, 0 to 1, that diffusers' own pipeline paints in f32, submerge not asked."""
    pipe = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="style")
        pipe.set_adapters(["style"], [scale])
    found = pipe(
        "a fox in snow",
        height=64,
        width=64,
        num_inference_steps=4,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    return np.asarray(found, dtype=np.float64)


def test_diffusers_paints_with_the_lora_what_it_paints_with_the_baked_model(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    """Products summed in another order: pixels, 0 to 1, are within a hundred thousandth."""
    lora = saved_by_diffusers(pipelines["krea"] / "transformer", tmp_path / "lora")
    theirs = by_diffusers(pipelines["krea"], lora, 0.7)
    for name, scale in (("right", 0.7), ("wrong", 0.69)):
        source = {"path": str(lora), "scale": scale}
        bake(pipelines["krea"], [source], tmp_path / name, dtype="f32")
    assert np.abs(by_diffusers(tmp_path / "right") - theirs).max() < 1e-5
    # The bound would tell a strength that is a hundredth off, and the LoRA is seen.
    assert np.abs(by_diffusers(tmp_path / "wrong") - theirs).max() > 1e-4
    assert np.abs(by_diffusers(pipelines["krea"]) - theirs).max() > 1e-2


def test_fused_and_put_on_by_diffusers_the_pictures_are_one(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    lora = saved_by_diffusers(pipelines["krea"] / "transformer", tmp_path / "lora")
    common = ["-p", "a fox", "--steps", "2", "--size", "64x64", "--device", "cpu", "-q"]
    for folder, more in (
        ("plain", []),
        ("lora", ["--lora", f"{lora}=0.7"]),
        ("fused", ["--fuse", f"{lora}=0.7"]),
    ):
        arguments = ["generate", str(pipelines["krea"]), *common, "--dtype", "f32", *more]
        app.main(args=[*arguments, "-o", str(tmp_path / folder)], standalone_mode=False)
    plain, theirs, ours = (
        np.asarray(Image.open(next((tmp_path / name).glob("*.png")))).astype(np.int16)
        for name in ("plain", "lora", "fused")
    )
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(plain - theirs).max() > 2


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
    sick = files.diffusers(files.pairs(KREA, ["x_embedder"]))
    sick["transformer.x_embedder.lora_A.weight"][0, 0] = np.nan
    path = files.save(tmp_path / "sick.safetensors", sick)
    with pytest.raises(AdapterError, match=r"x_embedder\.lora_A\.weight`: 1 of 256 elements inf"):
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
