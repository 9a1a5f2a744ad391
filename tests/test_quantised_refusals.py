"""Quantised models that do not fit their form, or are of one that is not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opened import headers
from quantised_layers import (
    BFL,
    BFL_NVFP4,
    COLUMNS,
    FP8,
    INT8,
    LAYER,
    NVFP4,
    ROWS,
    SDNQ,
    TILES,
    WEIGHT,
    Tensors,
    eight,
    layer,
    odd,
)
from submerge.checkpoint.forms import FORMS, REFUSED_FORMATS
from submerge.checkpoint.refused import REFUSED
from submerge.errors import CheckpointError, LayoutError
from submerge.layout import identify

if TYPE_CHECKING:
    from submerge.checkpoint import Checkpoint

# Every form that is not read, with the names and dtypes that its library writes.
TURNED_AWAY: dict[str, tuple[Checkpoint, str]] = {
    "fp8 by blocks": (
        odd(weight="F8_E4M3", weight_scale_inv="F32"),
        "a scaled fp8 model (1 layer)",
    ),
    "int8 without a word": (layer(eight("I8", (ROWS, 1))), "a scaled int8 model without a"),
    "mxfp8 without a word": (
        layer(eight("F8_E4M3", TILES[32], "F8_E8M0")),
        "a scaled mxfp8 model without a description",
    ),
    "mxfp8 in bytes": (layer(eight("F8_E4M3", TILES[32], "U8")), "a scaled mxfp8 model without"),
    "4-bit groups": (
        odd(weight="I8", weight_s_rel="F8_E4M3", weight_s_channel="F32"),
        "a scaled int8",
    ),
    "scales of columns": (
        layer({**NVFP4, "pre_quant_scale": ("BF16", (COLUMNS,))}),
        "a model with scales of columns",
    ),
    "SDNQ uint4": (
        odd(SDNQ, weight="U8", scale="BF16", zero_point="BF16"),
        "an SDNQ model with zero points (1 layer)",
    ),
    "SDNQ of low rank": (
        odd(SDNQ, weight="I8", scale="F32", svd_up="BF16", svd_down="BF16"),
        "an SDNQ model with a low-rank part (1 layer)",
    ),
    "SDNQ without its config": (
        layer({"weight": ("I8", WEIGHT), "scale": ("F32", (ROWS, 1))}),
        "an SDNQ model without its config (1 layer)",
    ),
    "torchao": (
        odd(_weight_qdata="I8", _weight_scale="F32", _weight_zero_point="I8"),
        "a torchao model (1 layer)",
    ),
    "torchao fp8": (odd(_weight_qdata="F8_E4M3", _weight_scale="F32"), "a torchao model"),
    "quanto": (odd(weight___data="I8", weight___scale="BF16"), "a quanto model (1 layer)"),
    "quanto fp8": (odd(weight___data="F8_E4M3", weight___scale="BF16"), "a quanto model"),
    "quanto int4": (
        odd(weight___data___data="U8", weight___scale="BF16", weight___shift="BF16"),
        "a quanto model (1 layer)",
    ),
    "nf4 without its state": (
        odd(weight="U8", weight__absmax="F32"),
        "a bitsandbytes 4-bit model without",
    ),
    "GPTQ": (
        odd(qweight="I32", qzeros="I32", scales="F16", g_idx="I32"),
        "a GPTQ or AWQ model (1 layer)",
    ),
    "SVDQuant": (
        odd(qweight="I8", wscales="BF16", smooth="BF16"),
        "a Nunchaku (SVDQuant) model (1 layer)",
    ),
    "EETQ": (odd(weight="I8", weight_scales="F16"), "an EETQ model (1 layer)"),
    "MLX": (odd(weight="U32", scales="BF16", biases="BF16"), "an MLX model (1 layer)"),
    "DFloat11": (
        odd(encoded_exponent="U8", sign_mantissa="U8", luts="U8", gaps="U8"),
        "a DFloat11 model (1 layer)",
    ),
    "HQQ": (odd(W_q="U8", scale="F16", zero="F16"), "an HQQ model (1 layer)"),
    "AQLM": (odd(codes="I8", codebooks="F16", scales="F16"), "an AQLM model (1 layer)"),
    "compressed-tensors": (
        odd(weight_packed="I32", weight_scale="BF16", weight_shape="I64"),
        "a compressed-tensors model",
    ),
    "zero points of codes": (
        odd(weight="I8", weight_scale="F32", weight_zero_point="I8"),
        "a scaled int8 model",
    ),
    "zeros of codes": (odd(weight="I8", weight_zeros="F32"), "a scaled int8 model"),
    "a second scale": (odd(weight="U8", weight_scale_2="F32"), "a scaled 4-bit model"),
    "types of block scales": (odd(weight="F4"), "a block-scaled model (1 tensor of F4)"),
    "mflux's header": (
        headers(BFL, metadata={"quantization_level": "4"}),
        "an MLX model of 4 bits by its metadata",
    ),
    "another config": (
        layer({"weight": ("BF16", WEIGHT)}, method={"quant_method": "torchao"}),
        "a model quantised with `torchao` by its config.json",
    ),
}


@pytest.mark.parametrize("layout", ["auto", "bfl", "comfy", "generic"])
@pytest.mark.parametrize("name", TURNED_AWAY)
def test_every_other_form_is_refused_by_name_under_every_layout(name: str, layout: str) -> None:
    opened, message = TURNED_AWAY[name]
    with pytest.raises(LayoutError) as caught:
        identify(opened, layout=layout)
    assert caught.value.message.startswith(f"model.safetensors: is {message}")
    assert caught.value.message.endswith("expected a form that is read")
    assert caught.value.hint


def test_every_row_of_the_table_of_refusals_is_tried() -> None:
    titles = [message for _, message in TURNED_AWAY.values()]
    for row in REFUSED:
        first = row.title.partition("{")[0]
        assert any(first.startswith(title) or title.startswith(first) for title in titles), (
            row.title
        )


LOWER = ("torchao", "quanto", "compressed-tensors", "bitsandbytes")


def test_the_page_names_every_form_and_every_refusal() -> None:
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    for form in FORMS:
        assert form.word.partition("+")[0] in page
    # Of a title what names the form: `a Nunchaku (SVDQuant) model` says Nunchaku.
    for row in REFUSED:
        named = [word for word in row.title.split()[1:] if word[:1].isupper() or word in LOWER]
        assert all(word.strip("()") in page for word in named), row.title
    assert all(f"`{word}`" in page for word in REFUSED_FORMATS)


# What is of a form that is read, and does not fit it: the error, after the path.
METADATA = "`_quantization_metadata`"
SCALE = f"{LAYER}.weight_scale"
KINDS = "BF16 or F16 or F32"
ONE = "[] or [1] or [1, 1]"
NUMBERS = f"beside the [192, 64] numbers of `{LAYER}.weight`"
MISFITS: dict[str, tuple[Checkpoint, str]] = {
    "a scale for each of other rows": (
        layer(eight("F8_E4M3", (ROWS + 1,))),
        f"`{SCALE}` is F32 [193], expected {KINDS} {ONE} or [192, 1] or [192] {NUMBERS}",
    ),
    "a list where a column is broadcast": (
        layer(eight("F8_E4M3", (ROWS,)), FP8),
        f"`{SCALE}` is F32 [192], expected {KINDS} {ONE} or [192, 1] {NUMBERS}",
    ),
    "scales of another type": (
        layer(eight("F8_E4M3", (), "I32"), FP8),
        f"`{LAYER}.weight_scale` is I32 [], expected BF16 or F16 or F32 []",
    ),
    "scales that are no tiles": (
        layer({**BFL_NVFP4}, {"format": "nvfp4"}),
        f"`{LAYER}.weight_scale` is F8_E4M3 [192, 4], expected F8_E4M3 or U8 [256, 4]",
    ),
    "a word for other codes": (
        layer(eight("I8", ()), FP8),
        f"`{LAYER}.weight` is I8, expected F8_E4M3 as ComfyUI's scaled fp8 has it (model",
    ),
    "a word for floats": (
        layer({"weight": ("BF16", WEIGHT)}, FP8),
        f"`{LAYER}.weight` is BF16, expected F8_E4M3 as ComfyUI's scaled fp8 has it",
    ),
    "a word without a scale": (
        layer({"weight": ("F8_E4M3", WEIGHT)}, FP8),
        f"`{LAYER}.weight` has nothing beside it, expected `{SCALE}` as ComfyUI's scaled fp8 has",
    ),
    "one scale of two": (
        layer({k: v for k, v in NVFP4.items() if k != "weight_scale_2"}, {"format": "nvfp4"}),
        f"`{LAYER}.weight` has `{SCALE}` beside it, expected `{SCALE}` and `{SCALE}_2` as",
    ),
    "no whole blocks": (
        layer({**NVFP4, "weight": ("U8", (ROWS, COLUMNS // 2 - 4))}, {"format": "nvfp4"}),
        f"`{LAYER}.weight` has the shape [192, 28], expected a matrix, its rows a multiple of 8 b",
    ),
    "SDNQ's groups": (
        layer({"weight": ("I8", (ROWS, 2, 32)), "scale": ("F32", (ROWS, 2, 1))}, method=SDNQ),
        f"`{LAYER}.weight` has the shape [192, 2, 32], expected a matrix",
    ),
    "SDNQ's transposed": (
        layer({"weight": ("I8", (COLUMNS, ROWS)), "scale": ("F32", (1, ROWS))}, method=SDNQ),
        f"`{LAYER}.scale` is F32 [1, 192], expected BF16 or F16 or F32 [64, 1]",
    ),
    "no description": (
        headers(BFL, metadata={"_quantization_metadata": "{"}),
        f"{METADATA}: expected a JSON object",
    ),
    "nested without end": (
        headers(BFL, metadata={"_quantization_metadata": "[" * 100_000}),
        f"{METADATA}: expected a JSON object",
    ),
    "layers in a list": (
        headers(BFL, metadata={"_quantization_metadata": '{"layers": []}'}),
        f"{METADATA}: expected `layers` to be an object",
    ),
    "a layer in a list": (
        headers(BFL, metadata={"_quantization_metadata": json.dumps({"layers": {LAYER: []}})}),
        f"{METADATA}: `{LAYER}`: expected an object",
    ),
    "no format": (layer(eight("F8_E4M3", ()), {}), f"{METADATA}: `{LAYER}`: expected the name"),
    "a format in a list": (
        layer(eight("F8_E4M3", ()), {"format": []}),
        f"{METADATA}: `{LAYER}`: expected the name",
    ),
    "no group": (
        layer(eight("I8", (ROWS, 1)), {**INT8, "convrot": True, "convrot_groupsize": 32}),
        f"{METADATA}: `{LAYER}`: `convrot_groupsize` 32, expected a power of 4 up to 1,024",
    ),
    "a group that is true": (
        layer(eight("I8", (ROWS, 1)), {**INT8, "convrot": True, "convrot_groupsize": True}),
        f"{METADATA}: `{LAYER}`: `convrot_groupsize` True, expected",
    ),
    "a layer that is nowhere": (
        headers(BFL, metadata={"_quantization_metadata": json.dumps({"layers": {"x": FP8}})}),
        f"{METADATA}: describes 1 layer: `x` not in the file",
    ),
}


@pytest.mark.parametrize("layout", ["auto", "generic"])
@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_its_form_is_an_error_that_says_where(name: str, layout: str) -> None:
    opened, message = MISFITS[name]
    with pytest.raises(CheckpointError) as caught:
        identify(opened, layout=layout)
    assert caught.value.message.startswith(f"model.safetensors: {message}")
    assert caught.value.hint


def test_scales_without_codes_are_an_error_in_a_quantised_file() -> None:
    whole = layer(eight("F8_E4M3", ()), FP8)
    tensors = dict(whole.tensors)
    lost = "double_blocks.0.img_attn.proj"
    tensors[f"{lost}.weight_scale"] = tensors.pop(f"{lost}.weight")._replace(
        name=f"{lost}.weight_scale", dtype="F32", shape=()
    )
    with pytest.raises(CheckpointError, match=rf"has no `{lost}\.weight`, expected"):
        identify(whole._replace(tensors=tensors))


@pytest.mark.parametrize("word", REFUSED_FORMATS)
def test_formats_of_comfyui_that_are_not_read_are_named(word: str) -> None:
    with pytest.raises(LayoutError, match=f"`{LAYER}`: the format `{word}` is not read") as caught:
        identify(layer(eight("I8", (ROWS, 1)), {"format": word}))
    assert caught.value.hint == REFUSED_FORMATS[word]


def test_a_format_that_nobody_knows_is_refused() -> None:
    with pytest.raises(LayoutError, match="the format `float8_e4m3fn_rowwise` is not known"):
        identify(layer(eight("F8_E4M3", (ROWS,)), {"format": "float8_e4m3fn_rowwise"}))


@pytest.mark.parametrize("option", ["use_hadamard", "use_codebook", "use_svd"])
def test_what_only_the_config_of_sdnq_says_is_refused(option: str) -> None:
    leaves: Tensors = {"weight": ("I8", WEIGHT), "scale": ("F32", (ROWS, 1))}
    for method in ({**SDNQ, option: True}, {**SDNQ, "modules_quant_config": {"x": {option: True}}}):
        with pytest.raises(LayoutError, match=f"says `{option}`, expected SDNQ without it"):
            identify(layer(leaves, method=method))
    identify(layer(leaves, method={**SDNQ, option: False}))
