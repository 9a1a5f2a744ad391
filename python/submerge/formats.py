"""The number formats that an output may have: the one table of them, and of who reads them.

A format says how the matrices of the blocks are written, 99.5 % of the numbers; embedders, the
final layer, norms and biases are little in bytes and most of the error, so they stay as they are.
`f32`, `f16`, `bf16`, `f8_e4m3` and `f8_e5m2` are of every tensor.

Sources: ComfyUI's `comfy/quant_ops.py` and `QUANTIZATION.md`; diffusers' `quantizers/bfl`; SDNQ's
`common.py`; `tools/convert.py` and `lcpp.patch` of ComfyUI-GGUF.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from submerge.checkpoint.codecs import CODECS
from submerge.checkpoint.dtypes import WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ALIASES", "FORMATS", "GGUF_SMALL", "READERS", "Container", "Format", "Reader", "Side"]

Container = Literal["file", "folder", "gguf"]

# Tensors with fewer elements than this are in F32 in a GGUF, as those of one dimension are.
GGUF_SMALL = 1024


class Side(NamedTuple):
    """A tensor beside the codes of a layer.

    Attributes:
        leaf: the last word of its name, where that of the codes is `weight`.
        dtype: as the files spell it.
        per: what of the matrix has an entry: `tensor` (no dimensions), `row` (rows), `rows`
            (rows, 1), or so many neighbours in a row, (rows, columns / n), rows padded to 128 and
            columns to 4 for ComfyUI's order of tiles.
    """

    leaf: str
    dtype: str
    per: Literal["tensor", "row", "rows"] | int

    def shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Return its shape beside a matrix."""
        if isinstance(self.per, int):
            groups = -(-columns // self.per)
            return (-(-rows // 128) * 128, -(-groups // 4) * 4)
        return {"tensor": (), "row": (rows,), "rows": (rows, 1)}[self.per]


class Format(NamedTuple):
    """One number format.

    Attributes:
        name: as users write it.
        words: what it is.
        readers: who reads it, by their names in `READERS`.
        containers: what it can stand in.
        dtype: of the numbers or codes in a header; empty for `same`.
        codec: the name in `CODECS` of what is more than a dtype.
        blocks: whether it is of the blocks' matrices alone, and the rest stays as it is.
        sides: what stands beside the codes, in the codec's order.
        marker: what ComfyUI is told of each layer.
        grain: rows and columns of a matrix must be multiples of these, or it stays as it is.
        fewest: elements of a matrix; a smaller one stays as it is.
        kept: selectors of the blocks' matrices that stay as they are.
        stochastic: whether it can be rounded at random.
    """

    name: str
    words: str
    readers: frozenset[str]
    containers: frozenset[Container]
    dtype: str = ""
    codec: str = ""
    blocks: bool = True
    sides: tuple[Side, ...] = ()
    marker: Mapping[str, Any] | None = None
    grain: tuple[int, int] = (1, 1)
    fewest: int = 0
    kept: tuple[str, ...] = ()
    stochastic: bool = False

    @property
    def spec(self) -> str:
        """What the plan calls its codec; empty if the dtype says all."""
        return CODECS[self.codec].spec if self.codec else ""

    @property
    def layout(self) -> str | None:
        """The only layout that its readers take it in; None if any does."""
        if not self.codec or "gguf" in self.containers:
            return None
        return "bfl" if "file" in self.containers else "diffusers"

    @property
    def bits(self) -> float:
        """Bits of a number with its share of the scales of blocks; those of rows are nothing."""
        if not self.codec:
            return {"F32": 32.0, "BF16": 16.0, "F16": 16.0}.get(self.dtype, 8.0)
        codec = CODECS[self.codec]
        groups = sum(8 / side.per for side in self.sides if isinstance(side.per, int))
        return 8 * codec.nbytes / codec.elements + groups

    def fits(self, rows: int, columns: int) -> bool:
        """Tell whether a matrix can be written so; what cannot stays as it is."""
        of_rows, of_columns = self.grain
        # What stands behind it in a file must stay aligned.
        aligned = rows * columns % 8 == 0
        whole = rows % of_rows == 0 and columns % of_columns == 0
        return aligned and whole and rows * columns >= self.fewest

    def payload(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the shape of the codes of a matrix, as a header has it."""
        codec = CODECS[self.codec]
        return (rows, columns // codec.elements * codec.nbytes)

    def elements(self, stored: int) -> int:
        """Return how many numbers a row of so many elements of `dtype` holds."""
        codec = CODECS[self.codec]
        return stored // codec.nbytes * codec.elements

    def text(self) -> str:
        """Return what ComfyUI is told of a layer, as JSON."""
        return json.dumps(self.marker)


_ALL = frozenset({"comfyui", "diffusers", "sdcpp"})
_COMFY, _DIFFUSERS = frozenset({"comfyui"}), frozenset({"diffusers"})
_ANY: frozenset[Container] = frozenset({"file", "folder", "gguf"})
_SAFETENSORS: frozenset[Container] = frozenset({"file", "folder"})
_FILE: frozenset[Container] = frozenset({"file"})
_FOLDER: frozenset[Container] = frozenset({"folder"})
_GGUF: frozenset[Container] = frozenset({"gguf"})


def _ggml(name: str) -> Format:
    columns = CODECS[name].elements
    words = f"blocks of {columns} in ggml's {name.upper()}"
    return Format(name, words, _ALL, _GGUF, "U8", name, grain=(1, columns))


_SCALE = Side("weight_scale", "F32", "tensor")

_TABLE = (
    Format("same", "the models' types", _ALL, _ANY, blocks=False),
    Format("f32", "every tensor", _ALL, _ANY, "F32", blocks=False),
    Format("f16", "every tensor", _ALL, _ANY, "F16", blocks=False),
    Format("bf16", "every tensor", _ALL, _ANY, "BF16", blocks=False),
    Format("fp8", "`float8_e4m3fn`", _ALL, _SAFETENSORS, "F8_E4M3", stochastic=True),
    Format("f8_e4m3", "every tensor", _ALL, _SAFETENSORS, "F8_E4M3", blocks=False, stochastic=True),
    Format("f8_e5m2", "every tensor", _ALL, _SAFETENSORS, "F8_E5M2", blocks=False, stochastic=True),
    Format(
        "fp8_scaled",
        "`float8_e4m3fn` with a scale for each matrix",
        _COMFY,
        _FILE,
        "F8_E4M3",
        "fp8_scaled",
        sides=(_SCALE,),
        # Without a scale for activations they would be cut off at 448: ComfyUI's issue 11217.
        marker={"format": "float8_e4m3fn", "full_precision_matrix_mult": True},
        stochastic=True,
    ),
    Format(
        "int8_convrot",
        "int8 with a scale for each row, rotated by groups of 256",
        frozenset({"comfyui", "sdcpp"}),
        _FILE,
        "I8",
        "int8_convrot",
        sides=(Side("weight_scale", "F32", "rows"),),
        marker={"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256},
        grain=(1, 256),
        stochastic=True,
    ),
    Format(
        "mxfp8",
        "`float8_e4m3fn` with a power of two for every 32",
        _COMFY,
        _FILE,
        "F8_E4M3",
        "mxfp8",
        # Exponents, as bytes: a loader that converts instead of looking at the bits spoils F8_E8M0.
        sides=(Side("weight_scale", "U8", 32),),
        marker={"format": "mxfp8"},
        grain=(32, 32),
        stochastic=True,
    ),
    Format(
        "nvfp4",
        "4-bit floats with a scale for every 16 and one for each matrix",
        _COMFY,
        _FILE,
        "U8",
        "nvfp4",
        sides=(Side("weight_scale", "F8_E4M3", 16), Side("weight_scale_2", "F32", "tensor")),
        marker={"format": "nvfp4"},
        grain=(16, 16),
    ),
    Format(
        "fp8_row",
        "`float8_e4m3fn` with a scale for each row",
        _DIFFUSERS,
        _FILE,
        "F8_E4M3",
        "fp8_row",
        sides=(Side("weight_scale", "F32", "row"),),
        stochastic=True,
    ),
    Format(
        "sdnq_int8",
        "int8 with a scale for each row",
        _DIFFUSERS,
        _FOLDER,
        "I8",
        "int8_row",
        sides=(Side("scale", "F32", "rows"),),
        grain=(1, 32),
        fewest=16_384,
        # SDNQ calls it the one modulation that does not bear it.
        kept=("single[0].mod",),
        stochastic=True,
    ),
    *map(_ggml, ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k")),
)

FORMATS: Mapping[str, Format] = MappingProxyType({form.name: form for form in _TABLE})

# The other names of the formats that are a dtype.
ALIASES: Mapping[str, str] = MappingProxyType(
    {word: name.lower() for word, name in WORDS.items() if word not in FORMATS}
)


class Reader(NamedTuple):
    """A program that models are written for.

    Attributes:
        name: as users write it.
        title: its name.
        layouts: the names of tensors that it reads, by container; the first is written.
        dtypes: what is written where no number format is asked for, by container.
    """

    name: str
    title: str
    layouts: Mapping[Container, tuple[str, ...]]
    dtypes: Mapping[Container, str]


_IN_GGUF: Mapping[Container, str] = {"gguf": "q8_0"}

READERS: Mapping[str, Reader] = MappingProxyType(
    {
        reader.name: reader
        for reader in (
            Reader(
                "comfyui",
                "ComfyUI",
                {"file": ("bfl", "comfy"), "gguf": ("bfl",)},
                {"file": "bf16", **_IN_GGUF},
            ),
            Reader(
                "diffusers",
                "diffusers",
                {"folder": ("diffusers",), "file": ("bfl",), "gguf": ("bfl", "diffusers")},
                {"folder": "bf16", "file": "bf16", **_IN_GGUF},
            ),
            Reader(
                "sdcpp",
                "stable-diffusion.cpp",
                {"gguf": ("bfl",), "file": ("bfl", "comfy")},
                {"file": "bf16", **_IN_GGUF},
            ),
            Reader("gguf", "readers of GGUF", {"gguf": ("bfl",)}, _IN_GGUF),
        )
    }
)
