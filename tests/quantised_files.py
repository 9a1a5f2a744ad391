"""Quantised tiny models written by numpy, each with the numbers that it stands for.

What is written here is small arithmetic and stands beside the real libraries, whose files are in
tests/oracles.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

import factory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from factory import Array, Flux

FP8 = np.dtype(ml_dtypes.float8_e4m3fn)


class Quantised(NamedTuple):
    """A model on disk, quantised and as the numbers that its codes are."""

    path: Path
    plain: Path


class Layer(NamedTuple):
    """Codes and what stands beside them by the ends of names, and the numbers they are."""

    leaves: dict[str, Array]
    numbers: Array


def text(described: dict[str, Any]) -> Array:
    return np.frombuffer(json.dumps(described).encode(), np.uint8)


def _scale(array: Array, largest: float, axis: int | None) -> Array:
    found: Array = np.abs(array).max(axis, keepdims=axis is not None) / largest
    return found.astype(np.float32)


def fp8(array: Array) -> Layer:
    scale = np.asarray(_scale(array, 448, None))
    codes = (array / scale).astype(FP8)
    marker = text({"format": "float8_e4m3fn", "full_precision_matrix_mult": True})
    found = {"weight": codes, "weight_scale": scale, "comfy_quant": marker}
    return Layer(found, codes.astype(np.float32) * scale)


def older_fp8(array: Array) -> Layer:
    scale = np.asarray(_scale(array, 448, None))
    codes = (array / scale).astype(FP8)
    found = {"weight": codes, "scale_weight": scale, "scale_input": np.float32(1)}
    return Layer({n: np.asarray(a) for n, a in found.items()}, codes.astype(np.float32) * scale)


def fp8_row(array: Array) -> Layer:
    scale = _scale(array, 448, 1)
    codes = (array / scale).astype(FP8)
    return Layer({"weight": codes, "weight_scale": scale[:, 0]}, codes.astype(np.float32) * scale)


def _int8(array: Array, axis: int | None) -> tuple[Array, Array]:
    scale = np.asarray(_scale(array, 127, axis))
    return np.rint(array / scale).astype(np.int8), scale


def int8(array: Array) -> Layer:
    codes, scale = _int8(array, None)
    found = {
        "weight": codes,
        "weight_scale": scale,
        "comfy_quant": text({"format": "int8_tensorwise"}),
    }
    return Layer(found, codes.astype(np.float32) * scale)


def int8_row(array: Array) -> Layer:
    codes, scale = _int8(array, 1)
    found = {
        "weight": codes,
        "weight_scale": scale,
        "comfy_quant": text({"format": "int8_tensorwise"}),
    }
    return Layer(found, codes.astype(np.float32) * scale)


def sdnq(array: Array) -> Layer:
    codes, scale = _int8(array, 1)
    return Layer({"weight": codes, "scale": scale}, codes.astype(np.float32) * scale)


LAYERS: dict[str, Callable[[Array], Layer]] = {
    "fp8": fp8,
    "older_fp8": older_fp8,
    "fp8_row": fp8_row,
    "int8": int8,
    "int8_row": int8_row,
    "sdnq": sdnq,
}


def quantised(
    folder: Path, flux: Flux, form: str, layout: str = "bfl", prefix: str = ""
) -> Quantised:
    """Write a model with its blocks' matrices in this form, and the numbers that they are."""
    codes: dict[str, Array] = {}
    numbers: dict[str, Array] = {}
    for name, array in factory.tensors(flux, layout, prefix).items():
        codes[name] = numbers[name] = array
        if array.ndim == 2 and "blocks." in name:
            made = LAYERS[form](array.astype(np.float32))
            stem = name.removesuffix(".weight")
            codes |= {f"{stem}.{leaf}": found for leaf, found in made.leaves.items()}
            numbers[name] = made.numbers
    if form == "older_fp8":
        codes[f"{prefix}scaled_fp8"] = np.zeros(2, FP8)
    name = f"{form}-{layout}-{flux.seed}"
    plain = factory.write(folder / f"{name}.plain.safetensors", numbers)
    if form != "sdnq":
        return Quantised(factory.write(folder / f"{name}.safetensors", codes), plain)
    factory.write(folder / name / f"{factory.WEIGHTS}.safetensors", codes)
    config = {**factory.config(flux), "quantization_config": {"quant_method": "sdnq"}}
    factory.write_json(folder / name / "config.json", config)
    return Quantised(folder / name, plain)
