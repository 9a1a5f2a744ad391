"""What a file says of its quantised layers beside their tensors: markers, metadata, config.

Everything here comes from files of the internet: texts are read up to a bound, and whatever is not
in the expected form is an error that says where.
"""

from __future__ import annotations

import json
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from submerge.checkpoint.forms import METHODS, REFUSED_FORMATS
from submerge.checkpoint.reading import Reading
from submerge.errors import CheckpointError, LayoutError, listing, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from submerge.checkpoint import Checkpoint, TensorInfo

__all__ = ["METADATA", "Mark", "description_of", "marks_of", "method_of"]

METADATA = "_quantization_metadata"
# Bytes of the text that describes one layer; real ones have about a hundred.
_LONGEST = 4_096
_DAMAGED = "the file is damaged; download it again"
# Sizes of rotated groups, and of blocks of bitsandbytes.
_GROUPS = frozenset({4, 16, 64, 256, 1024})
_BLOCKS = frozenset({32, 64, 128, 256, 512, 1024, 2048, 4096})


class Mark(NamedTuple):
    """What is said of one layer.

    Attributes:
        word: the form, in the words of `FORMS`.
        where: who says so, for messages.
        parameters: of the number format, as the plan has them.
        shape: of the numbers, where the codes' own does not tell.
    """

    word: str
    where: str
    parameters: Mapping[str, Any] = MappingProxyType({})
    shape: tuple[int, ...] | None = None


def method_of(checkpoint: Checkpoint) -> str | None:
    """Return what the config calls the quantisation of the weights, if they have one that is read.

    Raises:
        LayoutError: one that is not read.
    """
    described = (checkpoint.config or {}).get("quantization_config")
    if not described:
        return None
    method = described.get("quant_method", "?") if isinstance(described, dict) else described
    if method not in METHODS:
        raise LayoutError(
            f"{checkpoint.path}: is a model quantised with {quoted(str(method))} by its "
            "config.json, expected a form that is read",
            hint="merge the unquantised model it was made from",
        )
    for option in ("use_hadamard", "use_codebook", "use_svd"):
        if method == "sdnq" and _says(described, option):
            raise LayoutError(
                f"{checkpoint.path}: its config.json says `{option}`, expected SDNQ without it",
                hint=f"save it again with `{option}=False`",
            )
    return str(method)


def _says(described: Any, option: str) -> bool:
    """Tell whether an option is on anywhere in a config, also for single modules."""
    if not isinstance(described, dict):
        return False
    return bool(described.get(option)) or any(_says(v, option) for v in described.values())


def marks_of(
    checkpoint: Checkpoint, names: Mapping[str, TensorInfo], prefixes: Iterable[str]
) -> dict[str, Mark]:
    """Return what markers and metadata say of layers, by their stems in `names`.

    Args:
        checkpoint: whose files are read.
        names: the tensors that may be meant.
        prefixes: what may stand before a layer's name that the metadata leaves out.

    Raises:
        CheckpointError: a text that is not in the expected form, or of a layer that is not there.
        LayoutError: a format that is not read.
    """
    found = dict(_in_metadata(checkpoint, names, tuple(prefixes)))
    markers = [
        (name.removesuffix(f".{leaf}") if name != leaf else "", info, read)
        for leaf, read in _READERS.items()
        for name, info in names.items()
        if name == leaf or name.endswith(f".{leaf}")
    ]
    if markers:
        with Reading(checkpoint) as reading:
            for stem, info, read in markers:
                where = f"{checkpoint.path}: {quoted(info.name)}"
                if info.dtype != "U8" or info.nbytes > _LONGEST:
                    raise CheckpointError(
                        f"{where}: {info.nbytes:,} bytes of {info.dtype}, expected at most "
                        f"{_LONGEST:,} of U8 that describe a layer",
                        hint=_DAMAGED,
                    )
                mark = read(reading.sample(info, 0, _LONGEST), where)
                if mark is not None:
                    found[stem] = mark
    return found


def _in_metadata(
    checkpoint: Checkpoint, names: Mapping[str, TensorInfo], prefixes: tuple[str, ...]
) -> Iterator[tuple[str, Mark]]:
    """Yield what ComfyUI's description in the header says of layers that are looked at."""
    others = {name.rpartition(".")[0] for name in checkpoint.tensors.keys() - names.keys()}
    for file in checkpoint.files:
        if METADATA not in file.metadata:
            continue
        where = f"{file.path}: `{METADATA}`"
        layers = _object(file.metadata[METADATA], where).get("layers", {})
        if not isinstance(layers, dict):
            _malformed(where, "expected `layers` to be an object")
        lost = []
        for layer, described in layers.items():
            stem = next((p + layer for p in prefixes if f"{p}{layer}.weight" in names), None)
            if stem is None:
                lost += [] if layer in others else [layer]
                continue
            here = f"{where}: {quoted(layer)}"
            if not isinstance(described, dict):
                _malformed(here, "expected an object")
            yield stem, _mark(described, here)
        if lost:
            raise CheckpointError(
                f"{where}: describes {listing(lost, noun='layer')} not in the file",
                hint="the description belongs to another file; take it from where this was made",
            )


def description_of(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """Return the header's metadata that describes the layers of these tensors, if it does.

    Tensors that are carried as they are need it where they go: without it their codes are noise.
    """
    stems = {name.rpartition(".")[0] for name in names}
    layers: dict[str, Any] = {}
    for file in checkpoint.files:
        described = _object(file.metadata.get(METADATA, "{}"), f"{file.path}: `{METADATA}`")
        found = described.get("layers")
        if isinstance(found, dict):
            layers |= {layer: found[layer] for layer in found if layer in stems}
    if not layers:
        return {}
    return {METADATA: json.dumps({"format_version": "1.0", "layers": layers}, sort_keys=True)}


def _comfy(text: bytes, where: str) -> Mark:
    return _mark(_object(text, where), where)


def _mark(described: Mapping[str, Any], where: str) -> Mark:
    """Return what a description means; what it says beyond that ComfyUI does not read either."""
    word = described.get("format")
    if not isinstance(word, str):
        _malformed(where, "expected the name of a `format`")
    if word in REFUSED_FORMATS:
        raise LayoutError(
            f"{where}: the format {quoted(word)} is not read", hint=REFUSED_FORMATS[word]
        )
    if word != "int8_tensorwise" or not described.get("convrot"):
        return Mark(word, where)
    group = described.get("convrot_groupsize", 256)
    if type(group) is not int or group not in _GROUPS:
        _malformed(where, f"`convrot_groupsize` {group!r}, expected a power of 4 up to 1,024")
    return Mark(f"{word}+convrot", where, {"rotated": group})


def _bitsandbytes(text: bytes, where: str) -> Mark:
    """Return what the state of NF4 or FP4 codes says."""
    state = _object(text, where)
    kind, shape, block = (state.get(key) for key in ("quant_type", "shape", "blocksize"))
    if kind not in ("nf4", "fp4"):
        _malformed(where, f"`quant_type` {kind!r}, expected `nf4` or `fp4`")
    if not isinstance(shape, list) or len(shape) != 2 or not all(map(_is_size, shape)):
        _malformed(where, f"`shape` {shape!r}, expected that of a matrix")
    if type(block) is not int or block not in _BLOCKS:
        _malformed(where, f"`blocksize` {block!r}, expected a power of 2 from 32 to 4,096")
    parameters: dict[str, Any] = {"shape": shape, "block": block}
    nested = "nested_blocksize" in state
    if nested:
        inner, offset = state["nested_blocksize"], state.get("nested_offset")
        if type(inner) is not int or inner not in _BLOCKS:
            _malformed(where, f"`nested_blocksize` {inner!r}, expected a power of 2 up to 4,096")
        if type(offset) is not float or not math.isfinite(offset):
            _malformed(where, f"`nested_offset` {offset!r}, expected a number")
        parameters["nested"] = {"blocks": inner, "offset": offset}
    return Mark(f"{kind}{'+nested' * nested}", where, parameters, tuple(shape))


def _is_size(number: object) -> bool:
    return type(number) is int and 0 < number < 2**32


def _row_major(text: bytes, where: str) -> None:
    """Refuse 8-bit codes of bitsandbytes that lie as one generation of GPUs wants them."""
    if text != b"\0":
        raise LayoutError(
            f"{where}: codes in another order than row by row",
            hint="load it with bitsandbytes and save it again; new versions save rows",
        )


# What is read of tiny tensors, by the ends of their names.
_READERS: Mapping[str, Callable[[bytes, str], Mark | None]] = {
    "comfy_quant": _comfy,
    "weight.quant_state.bitsandbytes__nf4": _bitsandbytes,
    "weight.quant_state.bitsandbytes__fp4": _bitsandbytes,
    "weight_format": _row_major,
}


def _object(text: bytes | str, where: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        _malformed(where, "expected a JSON object")
    return read


def _malformed(where: str, what: str) -> NoReturn:
    raise CheckpointError(f"{where}: {what}", hint=_DAMAGED)
