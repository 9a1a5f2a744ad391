"""Headers of quantised models, of which one layer is of interest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import factory
from factory import KREA
from opened import headers

if TYPE_CHECKING:
    from submerge.checkpoint import Checkpoint

BFL = factory.shapes_of(KREA, "bfl")
LAYER = "double_blocks.0.img_attn.qkv"
ROWS, COLUMNS = BFL[f"{LAYER}.weight"]  # 192, 64
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of what a layer has, by the ends of names."""


def layer(
    leaves: Tensors,
    described: dict[str, Any] | None = None,
    method: dict[str, Any] | None = None,
    at: str = LAYER,
) -> Checkpoint:
    """A model of which one layer has these tensors, as a header or a config describes it."""
    named = {f"{at}.{leaf}": what for leaf, what in leaves.items()}
    shapes = {name: shape for name, shape in BFL.items() if name != f"{at}.weight"}
    metadata = {}
    if described is not None:
        metadata["_quantization_metadata"] = json.dumps({"layers": {at: described}})
    config = None
    if method is not None:
        config = {**factory.config(KREA), "quantization_config": method}
    return headers(
        shapes | {name: shape for name, (_, shape) in named.items()},
        config,
        dtypes={name: dtype for name, (dtype, _) in named.items()},
        metadata=metadata,
    )


WEIGHT = (ROWS, COLUMNS)
HALF = (ROWS, COLUMNS // 2)
TILES = {32: (256, 4), 16: (256, 4)}  # of 192 rows and 2 or 4 blocks
FP8: dict[str, Any] = {"format": "float8_e4m3fn"}
INT8: dict[str, Any] = {"format": "int8_tensorwise"}
SDNQ: dict[str, Any] = {"quant_method": "sdnq", "weights_dtype": "int8"}
NVFP4: Tensors = {
    "weight": ("U8", HALF),
    "weight_scale": ("F8_E4M3", TILES[16]),
    "weight_scale_2": ("F32", ()),
}
BFL_NVFP4: Tensors = {**NVFP4, "weight_scale": ("F8_E4M3", (ROWS, 4))}


def eight(dtype: str, scale: tuple[int, ...], kind: str = "F32") -> Tensors:
    """Codes of 8 bits and a `weight_scale` of this shape and dtype."""
    return {"weight": (dtype, WEIGHT), "weight_scale": (kind, scale)}


def odd(method: dict[str, Any] | None = None, /, **dtypes: str) -> Checkpoint:
    """A model of which one layer has these tensors, dots written as __, of two by two."""
    leaves = {leaf.replace("__", "."): (dtype, (2, 2)) for leaf, dtype in dtypes.items()}
    return layer(leaves, method=method)
