"""The number formats that need more than a dtype: the one table of them, as the core names them.

A tensor in one of them is a payload, which the file's header describes by dtype and shape, and
perhaps tensors beside it. Its shape and its name here are those of the numbers it stands for: a
`q8_0` of 3072 rows of 3072 numbers is in the file 3072 rows of 3264 bytes.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from submerge.checkpoint.dtypes import FLOATS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CODECS", "NUMBERS", "Codec", "Spec"]

Spec: TypeAlias = "str | Mapping[str, Any]"
"""A number format as the plan has it: a word, or `{word: {parameter: value}}`."""


class Codec(NamedTuple):
    """One number format.

    Attributes:
        name: as users write it, and as `TensorInfo.dtype` says it.
        spec: what the plan calls it.
        payload: the dtypes its payload has in a safetensors header.
        elements: of a block, the fewest neighbours in a row that can be read without others.
        nbytes: of a block of the payload.
        sides: how many tensors stand beside the payload, in the order the core wants them.
    """

    name: str
    spec: str
    payload: frozenset[str]
    elements: int
    nbytes: int
    sides: int = 0


_FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
_U8, _I8 = frozenset({"U8"}), frozenset({"I8"})

_ALL = (
    # Blocks of ggml: nothing beside them.
    Codec("q8_0", "q8_0", _U8, 32, 34),
    Codec("q4_0", "q4_0", _U8, 32, 18),
    Codec("q4_1", "q4_1", _U8, 32, 20),
    Codec("q5_0", "q5_0", _U8, 32, 22),
    Codec("q5_1", "q5_1", _U8, 32, 24),
    Codec("q2_k", "q2_k", _U8, 256, 84),
    Codec("q3_k", "q3_k", _U8, 256, 110),
    Codec("q4_k", "q4_k", _U8, 256, 144),
    Codec("q5_k", "q5_k", _U8, 256, 176),
    Codec("q6_k", "q6_k", _U8, 256, 210),
    Codec("iq4_nl", "iq4_nl", _U8, 32, 18),
    Codec("iq4_xs", "iq4_xs", _U8, 256, 136),
    Codec("mxfp4", "mxfp4", _U8, 32, 17),
    # Codes of 8 bits, and their scales.
    Codec("fp8_scaled", "scaled", _FP8, 1, 1, 1),
    Codec("fp8_row", "scaled_rows", _FP8, 1, 1, 1),
    Codec("int8", "int8", _I8, 1, 1, 1),
    Codec("int8_row", "int8_rows", _I8, 1, 1, 1),
    Codec("int8_convrot", "int8_convrot", _I8, 256, 256, 1),
    Codec("mxfp8", "mxfp8", frozenset({"F8_E4M3"}), 32, 32, 1),
    # Codes of 4 bits: scales of blocks, then that of all.
    Codec("nvfp4", "nvfp4", _U8, 16, 8, 2),
    Codec("nvfp4_bfl", "nvfp4_bfl", _U8, 16, 8, 2),
    # bitsandbytes: the largest of blocks and a code book, and both of these, nested.
    Codec("nf4", "bnb4", _U8, 2, 1, 2),
    Codec("fp4", "bnb4", _U8, 2, 1, 2),
    Codec("llm_int8", "llm_int8", _I8, 1, 1, 1),
)

CODECS: Mapping[str, Codec] = MappingProxyType({codec.name: codec for codec in _ALL})

# The dtypes of what can be computed with.
NUMBERS = FLOATS | CODECS.keys()
