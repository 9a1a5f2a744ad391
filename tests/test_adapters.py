"""Adapters of every format, fused while models are merged, against numpy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from fusing import WIDE, assert_close, expected, fused, weights

if TYPE_CHECKING:
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


def test_control_loras_of_bfl_add_biases_and_replace_norms(tmp_path: Path) -> None:
    arrays, added = files.control(WIDE)
    path = files.save(tmp_path / "control.safetensors", arrays)
    for layout in ("bfl", "diffusers"):
        assert_close(fused(tmp_path, WIDE, [str(path)], layout), expected(WIDE, added))


def test_rows_of_a_replaced_tensor_are_its_bytes(tmp_path: Path) -> None:
    arrays, added = files.control(WIDE)
    path = files.save(tmp_path / "control.safetensors", arrays)
    found = fused(tmp_path, WIDE, [str(path)])
    for name, array in added.items():
        if name.startswith("="):
            assert found[name[1:]].tobytes() == array.astype("f4").tobytes()


CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 2}
PATTERNS = {
    "alpha_pattern": {"to_q": 12, "single_transformer_blocks.1.attn.to_k": 1, "to_k": 3},
    "rank_pattern": {},
}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("patterns", [{}, PATTERNS])
@pytest.mark.parametrize("where", ["metadata", "prefixed", "beside"])
def test_strengths_of_pefts_configuration(
    tmp_path: Path, where: str, patterns: dict[str, object], *, rslora: bool
) -> None:
    found = files.pairs(WIDE, files.MODULES)
    config = {**CONFIG, **patterns, "use_rslora": rslora}
    alphas = dict.fromkeys(found, 2.0)
    if patterns:
        # `^` anchors a key, a prefix of a name matches nothing, the first that matches counts.
        config["alpha_pattern"] = {**PATTERNS["alpha_pattern"], "^x_embedder": 5, "context": 9}
        alphas |= {
            "transformer_blocks.0.attn.to_q": 12.0,
            "single_transformer_blocks.1.attn.to_k": 1.0,
            "x_embedder": 5.0,
        }
    folder = tmp_path / "adapter"
    metadata = None
    prefix = "base_model.model."
    if where == "beside":
        factory.write_json(folder / "adapter_config.json", config)
    else:
        named = {f"transformer.{k}" if where == "prefixed" else k: v for k, v in config.items()}
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(named)}
        prefix = "transformer." if where == "prefixed" else ""
    files.save(folder / "adapter_model.safetensors", files.diffusers(found, prefix), metadata)
    divisor = 2.0 if rslora else 4.0
    added = weights(
        {module: files.product(pair, alphas[module] / divisor) for module, pair in found.items()}
    )
    assert_close(fused(tmp_path, WIDE, [str(folder)]), expected(WIDE, added))


def test_a_rank_pattern_divides_by_the_rank_it_names(tmp_path: Path) -> None:
    small = files.pairs(WIDE, ["transformer_blocks.0.attn.to_q"], rank=2)
    large = files.pairs(WIDE, ["transformer_blocks.1.attn.to_k"], rank=8)
    metadata = files.peft_metadata(r=8, lora_alpha=4, rank_pattern={"attn.to_q": 2})
    path = files.save(tmp_path / "s.safetensors", files.diffusers(small | large), metadata)
    scales = {2: 2.0, 8: 0.5}
    added = weights(
        {m: files.product(p, scales[p[0].shape[1]]) for m, p in (small | large).items()}
    )
    assert_close(fused(tmp_path, WIDE, [str(path)]), expected(WIDE, added))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "I64", "I32"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_alphas_of_any_type_are_read_exactly(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    """1 over 6 is no number of BF16; as alpha it must not be rounded to one."""
    found = files.pairs(WIDE, ["single_blocks.0.linear1"], rank=6, layout="bfl")
    arrays = files.kohya(found, None)
    kinds = {"I64": np.dtype("i8"), "I32": np.dtype("i4")}
    kind: Any = kinds[dtype] if dtype in kinds else factory.DTYPES[dtype][0]
    arrays["lora_unet_single_blocks_0_linear1.alpha"] = np.ones(shape, dtype=kind)
    path = files.save(tmp_path / "s.safetensors", arrays)
    dense = weights({m: files.product(p, 1 / 6) for m, p in found.items()})
    assert_close(
        fused(tmp_path, WIDE, [str(path)]), expected(WIDE, files.in_diffusers(WIDE, dense))
    )


def test_parts_for_text_encoders_are_listed_and_not_applied(tmp_path: Path) -> None:
    found = files.pairs(WIDE, ["transformer_blocks.0.attn.to_q"])
    arrays = files.diffusers(found)
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    arrays |= {f"{layer}.lora_{side}.weight": files.draw(side, 4, 4) for side in "AB"}
    path = files.save(tmp_path / "style.safetensors", arrays)
    added = weights({m: files.product(p) for m, p in found.items()})
    assert_close(fused(tmp_path, WIDE, [str(path)]), expected(WIDE, added))
    made = submerge.plan(
        {"models": {"m": str(tmp_path / "diffusers.safetensors")}, "adapters": [str(path)]},
        tmp_path / "x.safetensors",
    )
    assert "`style`: not applied, 2 keys for text encoder (CLIP)" in made.about.notes
    (left,) = [gone for gone in made.about.unused if gone.model == "style"]
    assert left.tensors == tuple(sorted(arrays)[:2])
