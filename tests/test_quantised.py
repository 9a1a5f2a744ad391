"""Codes are not numbers: what a quantisation has marked is refused, and nothing else is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

import factory
import submerge
from factory import KREA
from opened import headers
from submerge.errors import LayoutError
from submerge.layout import identify
from submerge.layout.quantised import refuse_codes

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.checkpoint import Checkpoint

BFL = factory.shapes_of(KREA, "bfl")
LAYER = "double_blocks.0.img_attn.qkv"


def layer(stem: str = LAYER, /, **leaves: str) -> Checkpoint:
    """A model of which one layer has these tensors (dots written as __) in these dtypes."""
    named = {f"{stem}.{leaf.replace('__', '.')}": dtype for leaf, dtype in leaves.items()}
    shapes = {name: shape for name, shape in BFL.items() if name != f"{stem}.weight"}
    return headers({**shapes, **dict.fromkeys(named, (2, 2))}, dtypes=named)


def told(
    metadata: dict[str, str] | None = None, config: dict[str, object] | None = None
) -> Checkpoint:
    return headers(BFL, config, metadata=metadata)


# Every format with the names and dtypes that its library writes.
QUANTISED = {
    "ComfyUI's older fp8": (
        layer(weight="F8_E4M3", scale_weight="F32", scale_input="F32"),
        "a scaled fp8 model (1 layer)",
    ),
    "its marker": (
        headers({**BFL, "scaled_fp8": (0,)}, dtypes={"scaled_fp8": "F8_E4M3"}),
        "a scaled fp8 model",
    ),
    "ComfyUI's fp8": (
        layer(weight="F8_E4M3", weight_scale="F32", comfy_quant="U8"),
        "a ComfyUI quantised model (1 layer)",
    ),
    "fp8 by rows": (layer(weight="F8_E4M3", weight_scale="F32"), "a scaled fp8 model (1 layer)"),
    "fp8 e5m2": (layer(weight="F8_E5M2", weight_scale="F32"), "a scaled fp8 model (1 layer)"),
    "fp8 by blocks": (
        layer(weight="F8_E4M3", weight_scale_inv="F32"),
        "a scaled fp8 model (1 layer)",
    ),
    "int8": (layer(weight="I8", weight_scale="F32"), "a scaled int8 model (1 layer)"),
    "nvfp4": (
        layer(weight="U8", weight_scale="F8_E4M3", weight_scale_2="F32", input_scale="F32"),
        "an nvfp4 model (1 layer)",
    ),
    "mxfp8": (layer(weight="F8_E4M3", weight_scale="F8_E8M0"), "a scaled mxfp8 model (1 layer)"),
    "mxfp8 in bytes": (
        layer(weight="F8_E4M3", weight_scale="U8"),
        "a scaled mxfp8 model (1 layer)",
    ),
    "4-bit groups": (
        layer(weight="I8", weight_s_rel="F8_E4M3", weight_s_channel="F32"),
        "a scaled int8",
    ),
    "SDNQ int8": (layer(weight="I8", scale="F32"), "an SDNQ model (1 layer)"),
    "SDNQ uint4": (layer(weight="U8", scale="BF16", zero_point="BF16"), "an SDNQ model (1 layer)"),
    "SDNQ fp8": (layer(weight="F8_E4M3", scale="F32"), "an SDNQ model (1 layer)"),
    "torchao": (
        layer(_weight_qdata="I8", _weight_scale="F32", _weight_zero_point="I8"),
        "a torchao model (1 layer)",
    ),
    "torchao fp8": (
        layer(_weight_qdata="F8_E4M3", _weight_scale="F32"),
        "a torchao model (1 layer)",
    ),
    "quanto": (layer(weight___data="I8", weight___scale="BF16"), "a quanto model (1 layer)"),
    "quanto fp8": (
        layer(weight___data="F8_E4M3", weight___scale="BF16"),
        "a quanto model (1 layer)",
    ),
    "quanto int4": (
        layer(weight___data___data="U8", weight___scale="BF16", weight___shift="BF16"),
        "a quanto model (1 layer)",
    ),
    "nf4": (
        layer(weight="U8", weight__absmax="F32", weight__quant_state__bitsandbytes__nf4="U8"),
        "a bitsandbytes 4-bit model (1 layer)",
    ),
    "nf4 without its state": (
        layer(weight="U8", weight__absmax="F32"),
        "a bitsandbytes 4-bit model",
    ),
    "int8 of bitsandbytes": (
        layer(weight="I8", SCB="F32", weight_format="U8"),
        "a bitsandbytes 8-bit model (1 layer)",
    ),
    "GPTQ": (
        layer(qweight="I32", qzeros="I32", scales="F16", g_idx="I32"),
        "a GPTQ or AWQ model (1 layer)",
    ),
    "SVDQuant": (
        layer(qweight="I8", wscales="BF16", smooth="BF16"),
        "a Nunchaku (SVDQuant) model (1 layer)",
    ),
    "MLX": (layer(weight="U32", scales="BF16", biases="BF16"), "an MLX model (1 layer)"),
    "DFloat11": (
        layer(encoded_exponent="U8", sign_mantissa="U8", luts="U8", gaps="U8"),
        "a DFloat11 model (1 layer)",
    ),
    "HQQ": (layer(W_q="U8", scale="F16", zero="F16"), "an HQQ model (1 layer)"),
    "compressed-tensors": (
        layer(weight_packed="I32", weight_scale="BF16", weight_shape="I64"),
        "a compressed-tensors model",
    ),
    "types of block scales": (layer(weight="F4"), "a block-scaled model (1 tensor of F4)"),
    "ComfyUI's header": (
        told(
            {
                "_quantization_metadata": json.dumps(
                    {"layers": {LAYER: {"format": "int8_tensorwise"}}}
                )
            }
        ),
        "a ComfyUI quantised model (1 layer) by its metadata",
    ),
    "a header that cannot be read": (
        told({"_quantization_metadata": "{"}),
        "a ComfyUI quantised model by",
    ),
    "mflux's header": (told({"quantization_level": "4"}), "an MLX model of 4 bits by its metadata"),
    "a config": (
        told(config={**factory.config(KREA), "quantization_config": {"quant_method": "sdnq"}}),
        "a model quantised with `sdnq` by its config.json",
    ),
}


@pytest.mark.parametrize("layout", ["auto", "bfl", "comfy", "generic"])
@pytest.mark.parametrize("name", QUANTISED)
def test_every_format_is_refused_by_name_under_every_layout(name: str, layout: str) -> None:
    opened, message = QUANTISED[name]
    with pytest.raises(LayoutError) as caught:
        identify(opened, layout=layout)
    assert caught.value.message.startswith(f"model.safetensors: is {message}")
    assert caught.value.message.endswith("expected numbers that are not quantised")
    assert "merge the unquantised model" in str(caught.value.hint)


# What has such names or types and is numbers all the same.
PLAIN = {
    "plain fp8": headers(BFL, dtypes=dict.fromkeys(BFL, "F8_E4M3")),
    "plain fp8 of the blocks": headers(
        BFL, dtypes={name: "F8_E4M3" for name in BFL if name.endswith("weight")}
    ),
    "a tensor called scale": headers({**BFL, "scale": (1,), "img_in.scale": (64,)}),
    "scales of floats": layer(
        weight="BF16", scale="F32", scales="F32", weight_scale="F32", scale_weight="F32", SCB="F32"
    ),
    "all of it in fp8": layer(weight="F8_E4M3", scale="F8_E4M3", zero_point="F8_E4M3"),
    "a query matrix": layer(weight="BF16", W_q="BF16", codebooks="BF16", absmax="F32", _data="F32"),
    "a scale of its own": layer(scale="F32", weight_scale="F32", absmax="F32"),
    "no layer in the header": told({"_quantization_metadata": '{"layers": {}}'}),
    "mflux without quantisation": told({"quantization_level": "None"}),
    "a config without": told(config={**factory.config(KREA), "quantization_config": None}),
    "integers": layer(weight="BF16", position_ids="I64"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_numbers_raise_no_alarm(name: str) -> None:
    refuse_codes(PLAIN[name], PLAIN[name].tensors)
    identify(PLAIN[name], layout="generic")


def test_a_quantised_text_encoder_is_carried_and_not_merged(tmp_path: Path) -> None:
    stem = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"
    codes = np.arange(24, dtype=np.uint8).reshape(6, 4).view(factory.DTYPES["F8_E4M3"][0])
    extras = {f"{stem}.weight": codes, f"{stem}.scale_weight": np.array([0.5], np.float32)}
    arrays = factory.tensors(KREA, "bfl", "model.diffusion_model.") | extras
    path = factory.write(tmp_path / "all.safetensors", arrays)
    submerge.convert(path, tmp_path / "out.safetensors", dtype="f32")
    written = factory.read(tmp_path / "out.safetensors")
    assert all(written[n].tobytes() == a.tobytes() for n, a in extras.items())
    with pytest.raises(LayoutError, match="is a scaled fp8 model"):
        submerge.verify(path, layout="generic")


def test_two_scaled_files_are_not_merged_by_name(tmp_path: Path) -> None:
    models = {}
    for seed, name in enumerate("ab"):
        random = np.random.default_rng(seed)
        codes = random.integers(0, 120, (4, 4), np.uint8).view(factory.DTYPES["F8_E4M3"][0])
        arrays = {"x.weight": codes, "x.scale_weight": random.random(1, np.float32)}
        path = factory.write(tmp_path / f"{name}.safetensors", arrays)
        models[name] = {"path": str(path), "layout": "generic"}
    with pytest.raises(LayoutError, match=r"is a scaled fp8 model \(1 layer\)"):
        submerge.merge({"models": models, "alpha": 0.5}, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
