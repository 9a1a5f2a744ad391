"""The forms of quantised models that are turned away by their names, as a table.

A code has a meaning only with its scale, zero point or code book, which merging by name would
average on their own. So a file with such marks is refused under every layout. Plain fp8 is numbers:
`weight` in fp8 without anything beside it passes, and so does a tensor that is merely called
`scale` where what it stands beside is a float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from submerge.checkpoint.forms import WIDE
from submerge.errors import LayoutError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from submerge.checkpoint import Checkpoint

__all__ = ["REFUSED", "Refused", "refuse"]

# The types that only quantisation uses, fp8 aside.
_SCALED = frozenset({"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"})
_ORIGINAL = "merge the unquantised model it was made from"


def _with(library: str) -> str:
    return f"dequantise it with {library} and save that as safetensors, or {_ORIGINAL}"


class Refused(NamedTuple):
    """A form that is turned away by its name.

    Attributes:
        title: what it is called, with its article.
        hint: what to do about it.
        leaf: the last part of a tensor's name beside the codes.
        codes: what the codes are called, after the same stem: they must be no wide float. Empty
            for the stem itself.
    """

    title: str
    hint: str
    leaf: str
    codes: str = "weight"


_UNKNOWN = f"its scales are in a form that is not known; {_ORIGINAL}"

# The first that fits names the file, so the particular ones stand before the general ones.
REFUSED = (
    Refused("a DFloat11 model", _with("dfloat11"), "sign_mantissa", "encoded_exponent"),
    Refused("a torchao model", _with("torchao"), "_weight_qdata", "_weight_qdata"),
    Refused("a quanto model", _with("optimum-quanto"), "_data", "_data"),
    Refused("an HQQ model", _with("hqq"), "W_q", "W_q"),
    Refused("an AQLM model", _with("aqlm"), "codebooks", "codes"),
    Refused(
        "a compressed-tensors model",
        _with("compressed-tensors"),
        "weight_packed",
        "weight_packed",
    ),
    Refused(
        "a Nunchaku (SVDQuant) model",
        f"its codes are laid out for one kernel, beside a low-rank part; {_ORIGINAL}",
        "wscales",
        "qweight",
    ),
    Refused("a GPTQ or AWQ model", _with("what made it"), "qweight", "qweight"),
    Refused("an EETQ model", _with("eetq"), "weight_scales"),
    Refused("an MLX model", _with("mlx"), "scales"),
    Refused("an SDNQ model with a low-rank part", "save it again with `use_svd=False`", "svd_up"),
    Refused(
        "an SDNQ model with zero points",
        "save it again with `weights_dtype='int8'`, or dequantise it with sdnq",
        "zero_point",
    ),
    Refused(
        "an SDNQ model without its config",
        "put the config.json that belongs to it beside the weights",
        "scale",
    ),
    Refused(
        "a model with scales of columns",
        f"what was multiplied before quantising is not undone; {_ORIGINAL}",
        "pre_quant_scale",
    ),
    *(
        Refused("a scaled {dtype} model", _UNKNOWN, leaf)
        for leaf in (
            "weight_scale_inv",
            "weight_zero_point",
            "weight_zeros",
            "weight_s_rel",
            "weight_s_channel",
            "weight_scale_2",
        )
    ),
    Refused(
        "a scaled {dtype} model without a description",
        "whether its numbers were rotated, and how its scales lie, only ComfyUI's marker "
        "`comfy_quant` or `_quantization_metadata` in the header says; take a file that has one",
        "weight_scale",
    ),
    Refused("a bitsandbytes 4-bit model without its state", _with("bitsandbytes"), "absmax", ""),
)


def refuse(checkpoint: Checkpoint, names: Sequence[str]) -> None:
    """Refuse a model of which any of the tensors named are codes of a form that is not read.

    Raises:
        LayoutError: naming the form, and how many layers have it.
    """
    found = _by_names(checkpoint, names) or _by_words(checkpoint) or _by_types(checkpoint, names)
    if found is not None:
        what, hint = found
        raise LayoutError(f"{checkpoint.path}: is {what}, expected a form that is read", hint=hint)


def _by_names(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[str, str] | None:
    """Return the form that stands first in the table, with the number of its layers."""
    layers: dict[Refused, set[str]] = {}
    wanted: dict[str, list[Refused]] = {}
    for refused in REFUSED:
        wanted.setdefault(refused.leaf, []).append(refused)
    for name in names:
        stem, _, leaf = name.rpartition(".")
        for refused in wanted.get(leaf, ()):
            if _marks(checkpoint, refused, name, stem):
                layers.setdefault(refused, set()).add(stem)
                break
    for refused in REFUSED:
        if refused in layers:
            stem = min(layers[refused])
            title = refused.title.format(dtype=_dtype(checkpoint, stem))
            return f"{title} ({counted(len(layers[refused]), 'layer')})", refused.hint
    return None


def _marks(checkpoint: Checkpoint, refused: Refused, name: str, stem: str) -> bool:
    codes = checkpoint.tensors.get(".".join(filter(None, (stem, refused.codes))))
    if codes is None or codes.dtype in WIDE or codes.packed is not None:
        return False
    # A whole model cast to fp8 has its parameters called `scale` in fp8 too; scales are finer.
    is_plain = codes.dtype.startswith("F8") and checkpoint.tensors[name].dtype == codes.dtype
    return codes.name == name or not is_plain


def _dtype(checkpoint: Checkpoint, stem: str) -> str:
    codes, scale = (
        checkpoint.tensors.get(".".join(filter(None, (stem, leaf))))
        for leaf in ("weight", "weight_scale")
    )
    # Block scales are powers of two: the type of their own, or its bytes.
    blocks = scale is not None and scale.dtype in ("F8_E8M0", "U8")
    if codes is not None and codes.dtype == "F8_E4M3" and blocks:
        return "mxfp8"
    kinds = {"F8": "fp8", "I8": "int8", "U8": "4-bit", "F4": "4-bit", "I3": "4-bit", "U3": "4-bit"}
    return kinds.get(codes.dtype[:2], codes.dtype.lower()) if codes else "fp8"


def _by_words(checkpoint: Checkpoint) -> tuple[str, str] | None:
    """Return what the header's metadata says of a quantisation without tensors that show it."""
    for file in checkpoint.files:
        if file.metadata.get("quantization_level", "").isdigit():
            bits = file.metadata["quantization_level"]
            hint = next(refused.hint for refused in REFUSED if "MLX" in refused.title)
            return f"an MLX model of {bits} bits by its metadata", hint
    return None


def _by_types(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[str, str] | None:
    scaled = [n for n in names if checkpoint.tensors[n].dtype in _SCALED]
    if not scaled:
        return None
    dtypes = sorted({checkpoint.tensors[name].dtype for name in scaled})
    what = f"a block-scaled model ({counted(len(scaled), 'tensor')} of {', '.join(dtypes)})"
    return what, "merge the unquantised model it was made from"
