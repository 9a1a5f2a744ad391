"""Which files hold codes instead of numbers: the marks that quantisation formats leave.

A code has a meaning only with its scale, zero point or code book, which merging by name would
average on their own. So a file with such marks is refused under every layout, by the name of its
format. Plain fp8 is numbers: `weight` in fp8 without anything beside it passes, and so does a
tensor that is merely called `scale` where what it stands beside is a float.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from submerge.errors import LayoutError, counted, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from submerge.checkpoint import Checkpoint

__all__ = ["refuse_codes"]

# What a code is never stored as, fp8 aside; the types that only quantisation uses.
_WIDE = frozenset({"F64", "F32", "F16", "BF16"})
_SCALED = frozenset({"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"})
_HINT = (
    "codes mean nothing without their scales, so they cannot be merged; merge the unquantised "
    "model they were made from"
)


class _Mark(NamedTuple):
    """A tensor beside a layer's codes.

    Attributes:
        name: the format, with its article.
        leaf: the last part of the tensor's name.
        codes: what the codes are called, after the same stem: they must be no wide float. Empty
            for the stem itself; None where the leaf alone says it all.
    """

    name: str
    leaf: str
    codes: str | None = None


# The first that fits names the file, so the particular ones stand before the general ones.
_MARKS = (
    _Mark("a ComfyUI quantised model", "comfy_quant"),
    _Mark("a bitsandbytes 4-bit model", "bitsandbytes__nf4"),
    _Mark("a bitsandbytes 4-bit model", "bitsandbytes__fp4"),
    _Mark("a bitsandbytes 4-bit model", "absmax", ""),
    _Mark("a bitsandbytes 8-bit model", "SCB", "weight"),
    _Mark("a DFloat11 model", "sign_mantissa", "encoded_exponent"),
    _Mark("a torchao model", "_weight_qdata", "_weight_qdata"),
    _Mark("a quanto model", "_data", "_data"),
    _Mark("an HQQ model", "W_q", "W_q"),
    _Mark("an AQLM model", "codebooks", "codes"),
    _Mark("a compressed-tensors model", "weight_packed", "weight_packed"),
    _Mark("a Nunchaku (SVDQuant) model", "wscales", "qweight"),
    _Mark("a GPTQ or AWQ model", "qweight", "qweight"),
    _Mark("an EETQ model", "weight_scales", "weight"),
    _Mark("an MLX model", "scales", "weight"),
    _Mark("an nvfp4 model", "weight_scale_2", "weight"),
    *(
        _Mark("a scaled {dtype} model", leaf, "weight")
        for leaf in (
            "scale_weight", "weight_scale", "weight_scale_inv", "weight_zero_point", "weight_zeros",
            "weight_s_rel", "weight_s_channel", "scale_input", "input_scale",
        )
    ),
    _Mark("a scaled fp8 model", "scaled_fp8"),
    _Mark("an SDNQ model", "scale", "weight"),
    _Mark("an SDNQ model", "zero_point", "weight"),
)  # fmt: skip


def refuse_codes(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Refuse a model of which any of the tensors named are codes of a quantisation.

    Raises:
        LayoutError: naming the format, and how many layers have it.
    """
    names = list(names)
    found = _by_names(checkpoint, names) or _by_words(checkpoint) or _by_types(checkpoint, names)
    if found is not None:
        raise LayoutError(
            f"{checkpoint.path}: is {found}, expected numbers that are not quantised", hint=_HINT
        )


def _by_names(checkpoint: Checkpoint, names: list[str]) -> str | None:
    """Return the format that stands first in the table and the number of its layers."""
    layers: dict[_Mark, set[str]] = {}
    wanted: dict[str, list[_Mark]] = {}
    for mark in _MARKS:
        wanted.setdefault(mark.leaf, []).append(mark)
    for name in names:
        stem, _, leaf = name.rpartition(".")
        for mark in wanted.get(leaf, ()):
            if _fits(checkpoint, mark, name, stem):
                layers.setdefault(mark, set()).add(stem)
                break
    for mark in _MARKS:
        if mark in layers:
            stem = min(layers[mark])
            number = counted(len(layers[mark]), "layer")
            return f"{mark.name.format(dtype=_dtype(checkpoint, stem))} ({number})"
    return None


def _fits(checkpoint: Checkpoint, mark: _Mark, name: str, stem: str) -> bool:
    if mark.codes is None:
        return True
    codes = checkpoint.tensors.get(".".join(filter(None, (stem, mark.codes))))
    if codes is None or codes.dtype in _WIDE:
        return False
    # A whole model cast to fp8 has its parameters called `scale` in fp8 too; scales are finer.
    is_plain = codes.dtype.startswith("F8") and checkpoint.tensors[name].dtype == codes.dtype
    return codes.name == name or not is_plain


def _dtype(checkpoint: Checkpoint, stem: str) -> str:
    codes, scale = (
        checkpoint.tensors.get(f"{stem}.{leaf}" if stem else leaf)
        for leaf in ("weight", "weight_scale")
    )
    # Block scales are powers of two: the type of their own, or its bytes.
    if scale is not None and scale.dtype in ("F8_E8M0", "U8"):
        return "mxfp8"
    kinds = {"F8": "fp8", "I8": "int8", "U8": "4-bit", "F4": "4-bit", "I3": "4-bit", "U3": "4-bit"}
    return kinds.get(codes.dtype[:2], codes.dtype.lower()) if codes else "fp8"


def _by_words(checkpoint: Checkpoint) -> str | None:
    """Return what the header's metadata or the config says of a quantisation."""
    for file in checkpoint.files:
        described = file.metadata.get("_quantization_metadata")
        if described is not None and (number := _described(described)) != 0:
            layers = "" if number is None else f" ({counted(number, 'layer')})"
            return f"a ComfyUI quantised model{layers} by its metadata"
        if file.metadata.get("quantization_level", "").isdigit():
            return f"an MLX model of {file.metadata['quantization_level']} bits by its metadata"
    config = (checkpoint.config or {}).get("quantization_config")
    if config:
        method = config.get("quant_method", "?") if isinstance(config, dict) else config
        return f"a model quantised with {quoted(str(method))} by its config.json"
    return None


def _described(text: str) -> int | None:
    """Return how many layers ComfyUI's description names, None where it cannot be read."""
    try:
        layers = json.loads(text)["layers"]
        return len(layers)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _by_types(checkpoint: Checkpoint, names: list[str]) -> str | None:
    scaled = [n for n in names if checkpoint.tensors[n].dtype in _SCALED]
    if not scaled:
        return None
    dtypes = sorted({checkpoint.tensors[name].dtype for name in scaled})
    return f"a block-scaled model ({counted(len(scaled), 'tensor')} of {', '.join(dtypes)})"
