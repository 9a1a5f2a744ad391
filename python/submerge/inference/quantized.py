"""A transformer's weights in fewer bits: which of them, in what form, in how many bytes.

`fp8` is diffusers' layerwise casting: float8_e4m3fn in memory, the dtype computed in when a layer
is called; the modulation in the norms stays as it is. `int8` and `int4` are ggml's Q8_0 and Q4_0:
each run of 32 numbers of a row is whole numbers of 8 or 4 bits and one half-precision scale,
`w = d q`, with `d = max|w| / 127` and `q = round(w / d)`, or `d = w_m / -8` for the `w_m` of
largest magnitude and `q` from -8 to 7 (ggml-quants.c). The package gguf rounds, and layers turn
them back into numbers when they compute (`submerge.inference.layers`).

Embedders, norms, biases and the final layer stay as they are: little of the size, most of the
error.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from submerge.errors import CheckpointError
from submerge.inference.codes import Packing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = [
    "NOT_CAST",
    "PACKED",
    "QUANTIZATIONS",
    "at_once",
    "casts",
    "packed",
    "packs",
    "scratch",
    "stored_bytes",
    "unpacked_bytes",
]

# The most bits first, as `auto` tries them.
QUANTIZATIONS = ("fp8", "int8", "int4")
_RUN = 32


PACKED = {"int8": Packing("q8_0", "U8"), "int4": Packing("q4_0", "U8")}
# Modules that `fp8` leaves in the dtype they compute in: diffusers' own, and the embedders.
NOT_CAST = ("embed", "norm", "^proj_in$", "^proj_out$")
_BLOCK_MATRIX = re.compile(r"(single_)?transformer_blocks\.[0-9]+\..+\.weight")
# Numbers rounded at a time: rounding takes some forty bytes for each.
_CHUNK = 1 << 18
# Bytes that turning codes into numbers takes for each number that it is done with at a time.
_SCRATCH = 24


def casts(name: str) -> bool:
    """Return whether `fp8` casts the parameter of diffusers' name."""
    module = name.rpartition(".")[0]
    return not any(re.search(pattern, module) for pattern in NOT_CAST)


def packs(name: str, shape: Sequence[int]) -> bool:
    """Return whether `int8` and `int4` pack the parameter of diffusers' name and shape."""
    return len(shape) == 2 and shape[1] % _RUN == 0 and _BLOCK_MATRIX.fullmatch(name) is not None


def stored_bytes(quantization: str | None, name: str, shape: Sequence[int], itemsize: int) -> int:
    """Return the bytes of a parameter in memory, of `itemsize` bytes a number where it stays."""
    numbers = math.prod(shape)
    if quantization == "fp8" and casts(name):
        return numbers
    if quantization in PACKED and packs(name, shape):
        return PACKED[quantization].nbytes(shape)
    return numbers * itemsize


def unpacked_bytes(quantization: str | None, name: str, shape: Sequence[int], itemsize: int) -> int:
    """Return what a weight takes in the dtype computed in, where it is stored in another."""
    changed = casts(name) if quantization == "fp8" else packs(name, shape)
    return math.prod(shape) * itemsize if quantization is not None and changed else 0


def at_once(device: str) -> int:
    """Return how many numbers codes become at a time, on a kind of device.

    A CPU wants them in its caches, others few and large steps.
    """
    return 1 << (20 if device == "cpu" else 22)


def scratch(device: str) -> int:
    """Return the bytes that turning codes into numbers takes beside codes and numbers."""
    return _SCRATCH * at_once(device)


def packed(quantization: str, name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix as ggml's blocks, U8 [rows, bytes of a row], rounded a few rows at a time.

    Args:
        quantization: `int8` or `int4`.
        name: what the matrix is called in an error.
        weight: [rows, columns] in any dtype, on the CPU; columns are a multiple of 32.

    Raises:
        CheckpointError: a number is not finite.
    """
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[PACKED[quantization].codec.upper()]
    rows, columns = weight.shape
    made = np.empty((rows, PACKED[quantization].nbytes((1, columns))), np.uint8)
    step = max(1, _CHUNK // columns)
    for at in range(0, rows, step):
        numbers = weight[at : at + step].float().numpy()
        if not np.isfinite(numbers).all():
            raise CheckpointError(
                f"{name}: cannot be stored in {quantization}, expected finite numbers",
                hint="load it without `quantization`; `submerge.analyze` counts such numbers",
            )
        made[at : at + step] = quants.quantize(numbers, kind)
    return torch.from_numpy(made)
