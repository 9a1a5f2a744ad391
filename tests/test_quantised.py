"""Which forms of quantised models are read, and as what, by their headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import factory
from factory import KREA
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
from submerge.checkpoint.codecs import CODECS
from submerge.checkpoint.forms import FORMS
from submerge.checkpoint.quantised import numbers_of
from submerge.errors import LayoutError
from submerge.layout import identify

if TYPE_CHECKING:
    from submerge.checkpoint import Checkpoint

# Every form with names, dtypes and shapes as its library writes them: the codec, and its spec.
READ: dict[str, tuple[Checkpoint, str, Any]] = {
    "ComfyUI's older fp8": (
        layer(
            {"weight": ("F8_E4M3", WEIGHT), "scale_weight": ("F32", ()), "scale_input": ("F32", ())}
        ),
        "fp8_scaled",
        "scaled",
    ),
    "its e5m2": (
        layer({"weight": ("F8_E5M2", WEIGHT), "scale_weight": ("F32", (1,))}),
        "fp8_scaled",
        "scaled",
    ),
    "ComfyUI's fp8": (layer(eight("F8_E4M3", ()), FP8), "fp8_scaled", "scaled"),
    "with activations": (
        layer({**eight("F8_E4M3", ()), "input_scale": ("F32", ())}, FP8),
        "fp8_scaled",
        "scaled",
    ),
    "its fp8 e5m2": (
        layer(
            eight("F8_E5M2", (1,)), {"format": "float8_e5m2", "full_precision_matrix_mult": True}
        ),
        "fp8_scaled",
        "scaled",
    ),
    "its fp8 by rows": (layer(eight("F8_E4M3", (ROWS, 1)), FP8), "fp8_row", "scaled_rows"),
    "fp8 with a scale": (layer(eight("F8_E4M3", ())), "fp8_scaled", "scaled"),
    "diffusers' fp8": (layer(eight("F8_E4M3", (ROWS,))), "fp8_row", "scaled_rows"),
    "fp8 by rows in BF16": (layer(eight("F8_E4M3", (ROWS, 1), "BF16")), "fp8_row", "scaled_rows"),
    "int8": (layer(eight("I8", ()), INT8), "int8", "int8"),
    "int8 by rows": (layer(eight("I8", (ROWS, 1)), INT8), "int8_row", "int8_rows"),
    "int8 by rows in a list": (layer(eight("I8", (ROWS,)), INT8), "int8_row", "int8_rows"),
    "int8, not rotated": (
        layer(eight("I8", (ROWS, 1)), {**INT8, "convrot": False}),
        "int8_row",
        "int8_rows",
    ),
    "rotated int8": (
        layer(eight("I8", (ROWS, 1)), {**INT8, "convrot": True, "convrot_groupsize": 64}),
        "int8_convrot",
        {"int8_convrot": {"rotated": 64}},
    ),
    "mxfp8": (layer(eight("F8_E4M3", TILES[32], "F8_E8M0"), {"format": "mxfp8"}), "mxfp8", "mxfp8"),
    "mxfp8 in bytes": (
        layer(eight("F8_E4M3", TILES[32], "U8"), {"format": "mxfp8"}),
        "mxfp8",
        "mxfp8",
    ),
    "ComfyUI's nvfp4": (layer(NVFP4, {"format": "nvfp4"}), "nvfp4", "nvfp4"),
    "nvfp4 by its scales": (layer(NVFP4), "nvfp4", "nvfp4"),
    "diffusers' nvfp4": (
        layer({**BFL_NVFP4, "input_scale": ("F32", ())}),
        "nvfp4_bfl",
        "nvfp4_bfl",
    ),
    "SDNQ's int8": (
        layer({"weight": ("I8", WEIGHT), "scale": ("F32", (ROWS, 1))}, method=SDNQ),
        "int8_row",
        "int8_rows",
    ),
    "SDNQ's fp8": (
        layer({"weight": ("F8_E4M3", WEIGHT), "scale": ("F32", (ROWS, 1))}, method=SDNQ),
        "fp8_row",
        "scaled_rows",
    ),
    "int8 of bitsandbytes": (
        layer({"weight": ("I8", WEIGHT), "SCB": ("F32", (ROWS,))}),
        "llm_int8",
        "bnb8",
    ),
}


@pytest.mark.parametrize("layout", ["auto", "bfl", "generic"])
@pytest.mark.parametrize("name", READ)
def test_every_form_is_read_as_the_numbers_it_stands_for(name: str, layout: str) -> None:
    opened, codec, spec = READ[name]
    model = identify(opened, layout=layout)
    found = model.checkpoint.tensors[f"{LAYER}.weight"]
    assert (found.dtype, found.shape) == (codec, WEIGHT)
    assert found.packed is not None
    assert found.packed.spec == spec
    assert len(found.sides) == CODECS[codec].sides
    units = {unit.dtype for unit in model.units.values() if unit.place.tensor == found.name}
    assert units == {codec}


@pytest.mark.parametrize("name", READ)
def test_every_tensor_is_a_number_or_said_to_be_used_up(name: str) -> None:
    opened = READ[name][0]
    model = identify(opened)
    gone = [tensor for names in model.checkpoint.beside.values() for tensor in names]
    assert sorted([*model.checkpoint.tensors, *gone]) == sorted(opened.tensors)
    assert all("scale" in tensor or tensor.endswith("SCB") for tensor in gone)


def test_the_tables_agree() -> None:
    """Every form names a codec that is there, with as many tensors beside the codes as it wants."""
    by_header = {codec for _, codec, _ in READ.values()}
    assert by_header | {"nf4", "fp4"} == {form.codec for form in FORMS}
    for form in FORMS:
        codec = CODECS[form.codec]
        assert form.dtypes <= codec.payload
        nested = 2 * ("nested" in form.word)
        assert len(form.sides) == codec.sides + nested


# NVFP4 whose scales fit both layouts: rows in whole tiles of 128, columns in four blocks of 16.
BOTH = "double_blocks.0.img_mlp.0"
BOTH_ROWS = BFL[f"{BOTH}.weight"][0]  # 256
EITHER: Tensors = {
    "weight": ("U8", (BOTH_ROWS, COLUMNS // 2)),
    "weight_scale": ("F8_E4M3", (BOTH_ROWS, 4)),
    "weight_scale_2": ("F32", ()),
    "input_scale": ("F32", ()),
}


def test_nvfp4_that_may_be_either_is_asked_about() -> None:
    opened = layer(EITHER, at=BOTH)
    with pytest.raises(LayoutError, match=r"nvfp4 model \(1 layer\) that does not say") as caught:
        identify(opened)
    assert "nvfp4: comfy" in str(caught.value.hint)
    for said, codec in (("comfy", "nvfp4"), ("bfl", "nvfp4_bfl")):
        found = identify(opened, nvfp4=said).checkpoint.tensors[f"{BOTH}.weight"]
        assert (found.dtype, found.shape) == (codec, (BOTH_ROWS, COLUMNS))
    marked = identify(layer(EITHER, {"format": "nvfp4"}, at=BOTH))
    assert marked.checkpoint.tensors[f"{BOTH}.weight"].dtype == "nvfp4"


@pytest.mark.parametrize(("other", "codec"), [(NVFP4, "nvfp4"), (BFL_NVFP4, "nvfp4_bfl")])
def test_a_layer_that_fits_one_layout_decides_for_the_file(other: Tensors, codec: str) -> None:
    one, both = layer(other), layer(EITHER, at=BOTH)
    tensors = {n: t for n, t in both.tensors.items() if n != f"{LAYER}.weight"}
    tensors |= {n: t for n, t in one.tensors.items() if n.startswith(LAYER)}
    found = identify(both._replace(tensors=tensors)).checkpoint.tensors
    assert {found[f"{at}.weight"].dtype for at in (LAYER, BOTH)} == {codec}


def test_a_description_finds_its_layer_behind_a_prefix() -> None:
    prefix = "model.diffusion_model."
    one = layer(eight("I8", (ROWS, 1)), INT8)
    tensors = {prefix + n: t._replace(name=prefix + n) for n, t in one.tensors.items()}
    found = identify(one._replace(tensors=tensors)).checkpoint.tensors
    assert found[f"{prefix}{LAYER}.weight"].dtype == "int8_row"


# What has such names or types and is numbers all the same.
PLAIN = {
    "plain fp8": headers(BFL, dtypes=dict.fromkeys(BFL, "F8_E4M3")),
    "plain fp8 of the blocks": headers(
        BFL, dtypes={name: "F8_E4M3" for name in BFL if name.endswith("weight")}
    ),
    "a tensor called scale": headers({**BFL, "scale": (1,), "img_in.scale": (64,)}),
    "scales of floats": odd(
        weight="BF16",
        scale="F32",
        scales="F32",
        weight_scale="F32",
        SCB="F32",
        scale_weight="F32",
        input_scale="F32",
    ),
    "all of it in fp8": odd(weight="F8_E4M3", scale="F8_E4M3", zero_point="F8_E4M3"),
    "a query matrix": odd(weight="BF16", W_q="BF16", codebooks="BF16", absmax="F32", _data="F32"),
    "a scale of its own": odd(scale="F32", weight_scale="F32", absmax="F32"),
    "no layer in the header": headers(BFL, metadata={"_quantization_metadata": '{"layers": {}}'}),
    "mflux without quantisation": headers(BFL, metadata={"quantization_level": "None"}),
    "a config without": headers(BFL, {**factory.config(KREA), "quantization_config": None}),
    "a config of nothing": layer({"weight": ("BF16", WEIGHT)}, method=SDNQ),
    "integers": odd(weight="BF16", position_ids="I64"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_numbers_raise_no_alarm(name: str) -> None:
    opened = PLAIN[name]
    assert numbers_of(opened, opened.tensors) is opened
    identify(opened, layout="generic")


def test_the_marker_of_a_whole_file_is_used_up() -> None:
    marked = headers({**BFL, "scaled_fp8": (0,)}, dtypes={"scaled_fp8": "F8_E4M3"})
    model = identify(marked)
    assert model.checkpoint.beside == {"markers of number formats": ("scaled_fp8",)}
    assert "scaled_fp8" not in model.checkpoint.tensors
