"""The forms that quantised models come in, as tables: what is read, and what is turned away.

A form says how codes are recognised, what they are called, what must stand beside them, and which
codec reads them. Names follow what the libraries write; sizes are those of the numbers, (rows,
columns), whatever shape the codes have.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "DESCRIBED",
    "FORMS",
    "METHODS",
    "REFUSED_FORMATS",
    "UNNEEDED",
    "WHOLE",
    "WIDE",
    "Beside",
    "Form",
]

Shape: TypeAlias = "tuple[int, ...]"
Shapes: TypeAlias = "Callable[[Shape, Mapping[str, Any]], list[Shape]]"

# What a code is never stored as, fp8 aside.
WIDE = frozenset({"F64", "F32", "F16", "BF16"})
_FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
_SCALE = WIDE - {"F64"}


def _one(*_: object) -> list[Shape]:
    return [(), (1,), (1, 1)]


def _rows(shape: Shape, _: object) -> list[Shape]:
    return [(shape[0], 1), (shape[0],)]


def _column(shape: Shape, _: object) -> list[Shape]:
    return [(shape[0], 1)]


def _blocks(elements: int) -> Shapes:
    return lambda shape, _: [(shape[0], shape[1] // elements)]


def _tiles(elements: int) -> Shapes:
    """Return scales of blocks in whole tiles of 128 rows and 4 blocks, as cuBLAS wants them."""
    return lambda shape, _: [(-(-shape[0] // 128) * 128, -(-(shape[1] // elements) // 4) * 4)]


def _book(entries: int) -> Shapes:
    return lambda *_: [(entries,)]


def _flat(shape: Shape, said: Mapping[str, Any]) -> list[Shape]:
    """Return one for each block of numbers, counted over the ends of rows."""
    return [(-(-math.prod(shape) // said["block"]),)]


def _nested(shape: Shape, said: Mapping[str, Any]) -> list[Shape]:
    return [(-(-_flat(shape, said)[0][0] // said["nested"]["blocks"]),)]


class Beside(NamedTuple):
    """A tensor beside codes.

    Attributes:
        leaf: the end of its name, where that of the codes ends in `weight`.
        dtypes: those it may have.
        shapes: those it may have, given the shape of the numbers and the parameters of the form.
    """

    leaf: str
    dtypes: frozenset[str]
    shapes: Shapes


class Form(NamedTuple):
    """A form that is read.

    Attributes:
        title: what it is called, with its article.
        word: what is said of the layer elsewhere (by a marker, by the config); "" of a form that is
            recognised by names, dtypes and shapes alone.
        codec: its name in `CODECS`.
        dtypes: of the codes.
        sides: what stands beside them, in the order the core wants.
        hint: what to do about one that does not fit.
    """

    title: str
    word: str
    codec: str
    dtypes: frozenset[str]
    sides: tuple[Beside, ...]
    hint: str = "the scales belong to another file, or were changed; download it again"


_SDNQ = "save it again with `use_quantized_matmul=False` and `group_size=-1`"
_COMFY = "ComfyUI's"
_SCALE_OF_ALL = (Beside("weight_scale", _SCALE, _one),)
_SCALE_OF_ROWS = (Beside("weight_scale", _SCALE, _rows),)
# Older ComfyUI wrote the bytes of these scales as U8.
_NVFP4 = frozenset({"F8_E4M3", "U8"})
_SCALE_OF_BOTH = Beside("weight_scale_2", frozenset({"F32"}), _one)
_E4M3, _E5M2, _I8, _U8, _F32 = (
    frozenset({dtype}) for dtype in ("F8_E4M3", "F8_E5M2", "I8", "U8", "F32")
)
_BOOK = Beside("weight.quant_map", _F32, _book(16))

FORMS = (
    # ComfyUI's description of a layer; a scale of rows must be a column, as it is broadcast.
    *(
        form
        for word, dtypes in (("float8_e4m3fn", _E4M3), ("float8_e5m2", _E5M2))
        for form in (
            Form(f"{_COMFY} scaled fp8", word, "fp8_scaled", dtypes, _SCALE_OF_ALL),
            Form(
                f"{_COMFY} scaled fp8",
                word,
                "fp8_row",
                dtypes,
                (Beside("weight_scale", _SCALE, _column),),
            ),
        )
    ),
    Form(
        f"{_COMFY} mxfp8",
        "mxfp8",
        "mxfp8",
        _E4M3,
        (Beside("weight_scale", frozenset({"F8_E8M0", "U8"}), _tiles(32)),),
    ),
    Form(
        f"{_COMFY} nvfp4",
        "nvfp4",
        "nvfp4",
        _U8,
        (Beside("weight_scale", _NVFP4, _tiles(16)), _SCALE_OF_BOTH),
    ),
    Form(f"{_COMFY} int8", "int8_tensorwise", "int8", _I8, _SCALE_OF_ALL),
    Form(f"{_COMFY} int8", "int8_tensorwise", "int8_row", _I8, _SCALE_OF_ROWS),
    Form(f"{_COMFY} rotated int8", "int8_tensorwise+convrot", "int8_convrot", _I8, _SCALE_OF_ROWS),
    # SDNQ, whose config says so.
    Form("SDNQ's int8", "sdnq", "int8_row", _I8, (Beside("scale", _SCALE, _column),), _SDNQ),
    Form("SDNQ's fp8", "sdnq", "fp8_row", _FP8, (Beside("scale", _SCALE, _column),), _SDNQ),
    # bitsandbytes, whose state of the codes says so.
    *(
        form
        for kind in ("nf4", "fp4")
        for form in (
            Form(
                f"bitsandbytes' {kind}",
                kind,
                kind,
                _U8,
                (Beside("weight.absmax", _F32, _flat), _BOOK),
            ),
            Form(
                f"bitsandbytes' nested {kind}",
                f"{kind}+nested",
                kind,
                _U8,
                (
                    Beside("weight.absmax", _U8, _flat),
                    _BOOK,
                    Beside("weight.nested_absmax", _F32, _nested),
                    Beside("weight.nested_quant_map", _F32, _book(256)),
                ),
            ),
        )
    ),
    # Nothing but names, dtypes and shapes.
    Form("bitsandbytes' int8", "", "llm_int8", _I8, (Beside("SCB", _F32, _rows),)),
    Form(
        f"{_COMFY} older scaled fp8",
        "",
        "fp8_scaled",
        _FP8,
        (Beside("scale_weight", _SCALE, _one),),
    ),
    Form("scaled fp8", "", "fp8_scaled", _FP8, _SCALE_OF_ALL),
    Form("diffusers' fp8 by rows", "", "fp8_row", _FP8, _SCALE_OF_ROWS),
    Form(
        f"{_COMFY} nvfp4",
        "",
        "nvfp4",
        _U8,
        (Beside("weight_scale", _NVFP4, _tiles(16)), _SCALE_OF_BOTH),
    ),
    Form(
        "diffusers' nvfp4",
        "",
        "nvfp4_bfl",
        _U8,
        (Beside("weight_scale", _E4M3, _blocks(16)), _SCALE_OF_BOTH),
    ),
)

# What a config.json may call what is read.
METHODS = frozenset({"sdnq", "bfl", "bitsandbytes"})

# Older ComfyUI's marker of a whole file: its layers have scales, or are plain fp8.
WHOLE = "scaled_fp8"
# Tensors of a layer that say nothing of its numbers, by the end of their names.
UNNEEDED = {
    "comfy_quant": "markers of number formats",
    WHOLE: "markers of number formats",
    "weight_format": "markers of number formats",
    "weight.quant_state.bitsandbytes__nf4": "markers of number formats",
    "weight.quant_state.bitsandbytes__fp4": "markers of number formats",
    "input_scale": "scales of activations, which merging does not need",
    "scale_input": "scales of activations, which merging does not need",
}
DESCRIBED = "scales, which are read with the codes beside them"

_ORIGINAL = "merge the unquantised model it was made from"

# Formats of ComfyUI that are not read.
REFUSED_FORMATS = {
    "convrot_w4a4": f"its 4-bit codes are made for 4-bit activations; {_ORIGINAL}",
    "asym_w4a8_int8": f"its codes need a code book of their own; {_ORIGINAL}",
    "awq_w4a16": f"its codes were calibrated against activations; {_ORIGINAL}",
}
