"""Which of a transformer's layers stay in the codes of their files, and in how many bytes.

A layer stays where torch can make its numbers out of its codes, exactly those that the core makes:
blocks of ggml, and codes of 8 bits with a scale for the tensor or the row. What an adapter is added
to becomes numbers first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from submerge.checkpoint.codecs import CODECS
from submerge.layout import tensors_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from submerge.layout import Model, OutTensor

__all__ = ["BLOCKS", "Packing", "packings_of"]

# Blocks of ggml that diffusers turns into numbers.
BLOCKS = frozenset(
    {
        "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl",
        "iq4_xs",
    }
)  # fmt: skip
_SCALED = frozenset({"fp8_scaled", "fp8_row", "int8", "int8_row"})
_SCALE = 4  # bytes of one, for each row


class Packing(NamedTuple):
    """How the codes of a layer lie in memory: rows of bytes, and perhaps a scale for each row.

    Attributes:
        codec: its name in `CODECS`.
        dtype: of the codes, as files spell it.
    """

    codec: str
    dtype: str

    @property
    def scaled(self) -> bool:
        """Whether each row has a scale beside it."""
        return self.codec in _SCALED

    def nbytes(self, shape: Sequence[int]) -> int:
        """Return the bytes that numbers of this shape take, scales included."""
        codec = CODECS[self.codec]
        codes = math.prod(shape) // codec.elements * codec.nbytes
        return codes + (shape[0] * _SCALE if self.scaled else 0)


def packings_of(model: Model, changed: AbstractSet[str]) -> dict[str, Packing]:
    """Return the parameters that stay in their codes, by diffusers' names.

    Args:
        model: a transformer of any layout.
        changed: the units that adapters are added to.
    """
    found = {}
    for tensor in tensors_of(model.arch, "diffusers"):
        packing = _packing(model, tensor)
        if packing is not None and not changed & set(tensor.units):
            found[tensor.name] = packing
    return found


def _packing(model: Model, tensor: OutTensor) -> Packing | None:
    """Return how a parameter lies in its file, where it can stay so."""
    (name, *more) = {model.units[unit].place.tensor for unit in tensor.units}
    info = model.checkpoint.tensors[name]
    if more or info.packed is None or info.dtype not in BLOCKS | _SCALED:
        return None
    return Packing(info.dtype, info.packed.dtype)
