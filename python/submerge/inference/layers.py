"""Layers whose weights are codes, which become numbers whenever the layer computes.

The numbers are those of the core's decoders bit for bit: products and sums in float32, in the same
order, rounded once to the dtype computed in. Imports torch and diffusers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

from submerge.checkpoint.dtypes import DTYPES
from submerge.inference.quantized import at_once

if TYPE_CHECKING:
    from collections.abc import Mapping

    from submerge.inference.codes import Packing

__all__ = ["PackedLinear", "blocks", "replace_layers"]


class PackedLinear(torch.nn.Linear):  # type: ignore[misc]
    """A linear layer of codes.

    Its `weight` is U8 [rows, bytes of a row], of ggml's blocks a `GGUFParameter`, which diffusers'
    adapters know the shape of; a `weight_scale` f32 [rows, 1] stands beside codes of 8 bits.

    Args:
        plain: the layer that it stands for.
        packing: how its codes lie.
        dtype: what it computes in.
    """

    def __init__(self, plain: torch.nn.Linear, packing: Packing, dtype: torch.dtype) -> None:
        sizes = (plain.in_features, plain.out_features)
        super().__init__(*sizes, bias=plain.bias is not None, device="meta", dtype=dtype)
        self._packing = packing
        self._dtype = dtype
        if packing.scaled:
            scale = torch.empty((plain.out_features, 1), dtype=torch.float32, device="meta")
            self.weight_scale = torch.nn.Parameter(scale, requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `inputs W^T + b`, inputs [..., columns] in the dtype computed in."""
        return linear(inputs, self.numbers(), self.bias)

    def numbers(self) -> torch.Tensor:
        """Return the weight [rows, columns] in the dtype computed in, made a few rows at a time."""
        codes = self.weight.detach().as_subclass(torch.Tensor)
        shape = (self.out_features, self.in_features)
        made = torch.empty(shape, dtype=self._dtype, device=codes.device)
        step = max(1, at_once(codes.device.type) // self.in_features)
        for at in range(0, self.out_features, step):
            rows = slice(at, at + step)
            made[rows] = (
                self._scaled(codes, rows) if self._packing.scaled else self._run(codes[rows])
            )
        return made

    def _scaled(self, codes: torch.Tensor, rows: slice) -> torch.Tensor:
        dtype = {"I8": "int8"}.get(self._packing.dtype, DTYPES[self._packing.dtype].torch)
        numbers = codes[rows].view(getattr(torch, str(dtype))).to(torch.float32)
        return numbers.mul_(self.weight_scale[rows])

    def _run(self, codes: torch.Tensor) -> torch.Tensor:
        from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES, dequantize_functions

        kind = _ggml(self._packing.codec)
        elements, nbytes = GGML_QUANT_SIZES[kind]
        run = dequantize_functions[kind](codes.reshape(-1, nbytes), elements, nbytes, torch.float32)
        return run.reshape(len(codes), self.in_features)


def blocks(codec: str, codes: torch.Tensor) -> Any:
    """Return rows of ggml's blocks, U8 [rows, bytes of a row], as a `GGUFParameter`."""
    from diffusers.quantizers.gguf.utils import GGUFParameter

    return GGUFParameter(codes, quant_type=_ggml(codec))


def _ggml(codec: str) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[codec.upper()]


def replace_layers(module: Any, packings: Mapping[str, Packing], dtype: torch.dtype) -> None:
    """Have layers compute from codes, which are given to them afterwards.

    Args:
        module: its weights on the meta device.
        packings: how the codes of each of these parameters lie.
        dtype: what the layers compute in.
    """
    for name, packing in packings.items():
        path = name.rpartition(".")[0]
        layer = PackedLinear(module.get_submodule(path), packing, dtype)
        module.set_submodule(path, layer.requires_grad_(requires_grad=False))
