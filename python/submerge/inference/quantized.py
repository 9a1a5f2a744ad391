"""A transformer's weights in fewer bits: which of them, in what form, in how many bytes.

`fp8` is diffusers' layerwise casting: float8_e4m3fn in memory, the dtype computed in when a layer
is called; the modulation in the norms stays as it is. `int8` and `int4` are ggml's Q8_0 and Q4_0:
each run of 32 numbers of a row is whole numbers of 8 or 4 bits and one half-precision scale,
`w = d q`, with `d = max|w| / 127` and `q = round(w / d)`, or `d = w_m / -8` for the `w_m` of
largest magnitude and `q` from -8 to 7 (ggml-quants.c). The package gguf rounds, and the
`GGUFLinear` of diffusers computes.

Embedders, norms, biases and the final layer stay as they are: little of the size, most of the
error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = [
    "NOT_CAST",
    "PACKED",
    "QUANTIZATIONS",
    "casts",
    "packed",
    "packs",
    "replace_layers",
    "stored_bytes",
    "unpacked_bytes",
]

# The most bits first, as `auto` tries them.
QUANTIZATIONS = ("fp8", "int8", "int4")
_RUN = 32


class _Packing(NamedTuple):
    """A form of ggml: its name there, and the bytes of a run of 32 numbers."""

    name: str
    bytes: int


PACKED = {"int8": _Packing("Q8_0", 34), "int4": _Packing("Q4_0", 18)}
# Modules that `fp8` leaves in the dtype they compute in: diffusers' own, and the embedders.
NOT_CAST = ("embed", "norm", "^proj_in$", "^proj_out$")
_BLOCK_MATRIX = re.compile(r"(single_)?transformer_blocks\.[0-9]+\..+\.weight")
# Numbers rounded at a time: rounding takes some forty bytes for each.
_CHUNK = 1 << 18


def casts(name: str) -> bool:
    """Return whether `fp8` casts the parameter of diffusers' name."""
    module = name.rpartition(".")[0]
    return not any(re.search(pattern, module) for pattern in NOT_CAST)


def packs(name: str, shape: Sequence[int]) -> bool:
    """Return whether `int8` and `int4` pack the parameter of diffusers' name and shape."""
    return len(shape) == 2 and shape[1] % _RUN == 0 and _BLOCK_MATRIX.fullmatch(name) is not None


def stored_bytes(quantization: str | None, name: str, shape: Sequence[int], itemsize: int) -> int:
    """Return the bytes of a parameter in memory, of `itemsize` bytes a number where it stays."""
    numbers = 1
    for side in shape:
        numbers *= side
    if quantization == "fp8" and casts(name):
        return numbers
    if quantization in PACKED and packs(name, shape):
        return numbers // _RUN * PACKED[quantization].bytes
    return numbers * itemsize


def unpacked_bytes(quantization: str | None, name: str, shape: Sequence[int], itemsize: int) -> int:
    """Return what a layer's weight takes beside its stored form while the layer computes.

    fp8 is cast to the dtype computed in; whole numbers become half precision first.
    """
    as_it_is = stored_bytes(None, name, shape, itemsize)
    if quantization == "fp8" and casts(name):
        return as_it_is
    if quantization in PACKED and packs(name, shape):
        return as_it_is + as_it_is // itemsize * 2
    return 0


def packed(quantization: str, name: str, weight: torch.Tensor) -> Any:
    """Return a matrix as a `GGUFParameter`, rounded a few rows at a time.

    Args:
        quantization: `int8` or `int4`.
        name: what the matrix is called in an error.
        weight: [rows, columns] in any dtype, on the CPU; columns are a multiple of 32.

    Raises:
        CheckpointError: a number is not finite.
    """
    import numpy as np
    import torch
    from diffusers.quantizers.gguf.utils import GGUFParameter
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[PACKED[quantization].name]
    rows, columns = weight.shape
    made = np.empty((rows, columns // _RUN * PACKED[quantization].bytes), np.uint8)
    step = max(1, _CHUNK // columns)
    for at in range(0, rows, step):
        numbers = weight[at : at + step].float().numpy()
        if not np.isfinite(numbers).all():
            raise CheckpointError(
                f"{name}: cannot be stored in {quantization}, expected finite numbers",
                hint="load it without `quantization`; `submerge.analyze` counts such numbers",
            )
        made[at : at + step] = quants.quantize(numbers, kind)
    return GGUFParameter(torch.from_numpy(made), quant_type=kind)


def replace_layers(transformer: Any, names: Sequence[str], dtype: torch.dtype) -> None:
    """Have layers compute from packed weights, which are given to them afterwards.

    Args:
        transformer: the module, its weights on the meta device.
        names: the parameters that will be packed.
        dtype: what the layers compute in.
    """
    from diffusers.quantizers.gguf.utils import GGUFLinear

    for name in names:
        path = name.rpartition(".")[0]
        plain = transformer.get_submodule(path)
        layer = GGUFLinear(
            plain.in_features,
            plain.out_features,
            bias=plain.bias is not None,
            compute_dtype=dtype,
            device="meta",
        )
        transformer.set_submodule(path, layer.requires_grad_(requires_grad=False))
