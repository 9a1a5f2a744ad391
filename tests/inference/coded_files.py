"""Quantised transformers and text encoders as other programs save them, and their numbers.

Codes are drawn or rounded here by the formulas of the forms, in numpy or by the package gguf, so
that what they stand for is known without submerge.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

from factory import Flux, tensors, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from factory import Array

__all__ = ["GGML", "SCALED", "WIDE", "Coded", "ggml_rows", "save_gguf", "save_scaled"]

# Blocks of 256 need rows of as many.
WIDE = Flux(hidden=256, double=1, single=1, guidance=True, seed=1)
GGML = (
    "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl",
    "iq4_xs",
)  # fmt: skip


class Coded(NamedTuple):
    """A matrix in codes: what stands in the file by the ends of names, and its numbers in f32."""

    leaves: dict[str, Array]
    numbers: Array


def is_coded(name: str, array: Array) -> bool:
    """Tell what is in codes: the matrices of the blocks, and as some programs do, the last two.

    Of these, BFL's layout has scale and shift of the norm the other way round.
    """
    last = name.startswith(("final_layer.", "norm_out.", "proj_out."))
    return array.ndim == 2 and ("_blocks." in name or last)


def _eight(array: Array, dtype: Any, scale: Array, leaf: str) -> Coded:
    """Codes of 8 bits, `scale` for all or [rows, 1], under the name `leaf`."""
    whole = array.astype(np.float32) / scale.astype(np.float32)
    codes = (np.rint(whole) if dtype is np.int8 else whole).astype(dtype)
    numbers = codes.astype(np.float32) * scale.astype(np.float32)
    return Coded({"weight": codes, leaf: scale}, numbers)


def _largest(array: Array, most: float) -> Array:
    """The scale of all: [] f32."""
    return np.asarray(np.abs(array.astype(np.float32)).max() / most, np.float32)


def _largest_of_rows(array: Array, most: float) -> Array:
    """The scale of each row: [rows, 1] f32."""
    rows = np.abs(array.astype(np.float32)).max(1, keepdims=True)
    return (rows / most).astype(np.float32)


_E4M3, _E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
_INT8 = np.frombuffer(json.dumps({"format": "int8_tensorwise"}).encode(), np.uint8)
SCALED: Mapping[str, Callable[[Array], Coded]] = {
    "fp8_scaled": lambda a: _eight(a, _E4M3, _largest(a, 448), "scale_weight"),
    "fp8_scaled_e5m2": lambda a: _eight(a, _E5M2, _largest(a, 57344), "scale_weight"),
    "fp8_row": lambda a: _eight(a, _E4M3, _largest_of_rows(a, 448), "weight_scale"),
    "fp8_row_bf16": lambda a: _eight(
        a, _E4M3, _largest_of_rows(a, 400).astype(ml_dtypes.bfloat16), "weight_scale"
    ),
    "int8": lambda a: _eight(a, np.int8, _largest(a, 127), "weight_scale"),
    "int8_row": lambda a: _eight(a, np.int8, _largest_of_rows(a, 127), "weight_scale"),
}


def save_scaled(
    path: Path, form: str, flux: Flux, layout: str = "bfl"
) -> tuple[Path, dict[str, Array]]:
    """Write a transformer whose blocks' matrices are codes; returns its numbers too, as f32."""
    arrays, numbers = {}, {}
    for name, array in tensors(flux, layout).items():
        if not is_coded(name, array):
            arrays[name], numbers[name] = array, array.astype(np.float32)
            continue
        coded = SCALED[form](array)
        stem = name.removesuffix("weight")
        arrays |= {stem + leaf: found for leaf, found in coded.leaves.items()}
        numbers[name] = coded.numbers
        if form.startswith("int8"):
            arrays[f"{stem}comfy_quant"] = _INT8
    return write(path, arrays), numbers


def ggml_rows(kind: Any, array: Array, seed: int) -> tuple[Array, Array]:
    """Rows of ggml's blocks, U8 [rows, bytes], and their numbers as gguf reads them, f32.

    What the package cannot round is drawn: bytes of any value, scales of plausible size.
    """
    from gguf import GGML_QUANT_SIZES, quants

    elements, nbytes = GGML_QUANT_SIZES[kind]
    try:
        codes = quants.quantize(array.astype(np.float32), kind)
    except NotImplementedError:
        random = np.random.default_rng(seed)
        rows, columns = array.shape
        drawn = random.integers(0, 256, (rows, columns // elements, nbytes), np.uint8)
        scale = np.asarray([2e-4], np.float16).view(np.uint8)
        # Where the scales of a block stand; all other bytes may be any.
        at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2)}
        for first in at.get(kind.name, (0,)):
            drawn[..., first : first + 2] = scale
        codes = drawn.reshape(rows, -1)
    return codes, quants.dequantize(codes, kind)


def save_gguf(
    path: Path, kind: str, flux: Flux, layout: str = "bfl"
) -> tuple[Path, dict[str, Array]]:
    """Write a GGUF as ComfyUI-GGUF's tools do: vectors in F32, matrices outside blocks in F32."""
    from gguf import GGMLQuantizationType, GGUFWriter

    type_of = GGMLQuantizationType[kind.upper()]
    writer = GGUFWriter(path, "flux")
    numbers = {}
    for seed, (name, array) in enumerate(tensors(flux, layout).items()):
        if is_coded(name, array):
            codes, numbers[name] = ggml_rows(type_of, array, seed)
            writer.add_tensor(name, codes, raw_dtype=type_of)
        else:
            numbers[name] = array.astype(np.float32)
            writer.add_tensor(name, numbers[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, numbers
