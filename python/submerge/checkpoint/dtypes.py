"""The element types of the safetensors format: the one table of them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DTYPES", "FLOATS", "WORDS", "Dtype"]


class Dtype(NamedTuple):
    """One element type.

    Attributes:
        bits: of one element.
        rank: its place in the format's own order, along which writers sort tensors, so that they
            are aligned.
        torch: what torch calls it, None where arithmetic is not defined on it here.
    """

    bits: int
    rank: int
    torch: str | None

    def size(self, elements: int) -> int:
        """Return the bytes that so many elements take; parts of a byte are left out."""
        return elements * self.bits // 8


_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_TORCH = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}

# Spelled as in the files, in the order of the enum in the safetensors crate.
DTYPES: Mapping[str, Dtype] = MappingProxyType(
    {name: Dtype(bits, rank, _TORCH.get(name)) for rank, (name, bits) in enumerate(_BITS.items())}
)

# The element types arithmetic is defined on; tensors of any other type are copied whole or refused.
FLOATS = frozenset(_TORCH)

# Sums are formed in F32, so nothing but a copy is ever F64.
_WRITTEN = {name: word for name, word in _TORCH.items() if name != "F64"}
# As users write them -> as the files spell them.
WORDS: Mapping[str, str] = MappingProxyType(
    {name.lower(): name for name in _WRITTEN}
    | {word: name for name, word in _WRITTEN.items()}
    | {"fp16": "F16", "fp32": "F32"}
)
