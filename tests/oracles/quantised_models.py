"""Tiny FLUX models as the libraries themselves quantise and name them, with what they decode to.

Every entry of `FORMS` writes the matrices of the blocks in one form and returns, beside the path,
all numbers in f32: what the library decodes, or the array itself where nothing was quantised.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias, NamedTuple

import bitsandbytes as bnb
import numpy as np
import torch
from comfy_kitchen.tensor import QuantizedTensor

import factory
from factory import Flux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from factory import Array

Tensors = dict[str, Any]


class Written(NamedTuple):
    """A quantised model, and its numbers by the names of its layout."""

    path: Path
    numbers: dict[str, Array]
    layout: str


def is_quantised(name: str, array: Array) -> bool:
    """Tell the matrices of the blocks, which every library quantises."""
    return array.ndim == 2 and "blocks." in name


def save(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """Write tensors of torch and arrays of numpy to one file."""
    from safetensors.torch import save_file

    plain = {
        name: found if isinstance(found, torch.Tensor) else _torch(found)
        for name, found in tensors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in plain.items()}, path, metadata or {"format": "pt"})
    return path


def _torch(array: Array) -> torch.Tensor:
    if array.dtype == factory.DTYPES["BF16"][0]:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def text(described: object) -> torch.Tensor:
    """Return a description as the bytes of a tensor."""
    return torch.tensor(list(json.dumps(described).encode()), dtype=torch.uint8)


def _comfy(
    path: Path, flux: Flux, of: Callable[[int], tuple[str, dict[str, Any], dict[str, Any]]]
) -> Written:
    """Quantise by comfy-kitchen; `of` gives each layer its class, its options and its marker."""
    tensors: Tensors = {}
    numbers: dict[str, Array] = {}
    at = -1
    for name, array in factory.tensors(flux, "bfl").items():
        if not is_quantised(name, array):
            tensors[name], numbers[name] = array, array.astype(np.float32)
            continue
        kind, options, marker = of(at := at + 1)
        made = QuantizedTensor.from_float(_torch(array).float(), kind, **options)
        tensors |= made.state_dict(name)
        tensors[f"{name.removesuffix('.weight')}.comfy_quant"] = text(marker)
        numbers[name] = made.dequantize().float().numpy()
    return Written(save(path, tensors), numbers, "bfl")


_Kind: TypeAlias = "tuple[str, dict[str, Any], dict[str, Any]]"
_FP8: _Kind = ("TensorCoreFP8Layout", {"scale": "recalculate"}, {"format": "float8_e4m3fn"})
_INT8: _Kind = ("TensorWiseINT8Layout", {}, {"format": "int8_tensorwise"})
_ROWS: _Kind = ("TensorWiseINT8Layout", {"per_channel": True}, {"format": "int8_tensorwise"})
_ROTATED: _Kind = (
    "TensorWiseINT8Layout",
    {"per_channel": True, "convrot": True, "convrot_groupsize": 64},
    {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64},
)
_MXFP8: _Kind = ("TensorCoreMXFP8Layout", {}, {"format": "mxfp8"})
_NVFP4: _Kind = ("TensorCoreNVFP4Layout", {}, {"format": "nvfp4"})
_ALL = (_FP8, _INT8, _ROWS, _ROTATED, _MXFP8, _NVFP4)


def _one(kind: tuple[str, dict[str, Any], dict[str, Any]]) -> Callable[[Path, Flux], Written]:
    return lambda path, flux: _comfy(path, flux, lambda _: kind)


def mixed(path: Path, flux: Flux) -> Written:
    """Give every layer another form in turn."""
    return _comfy(path, flux, lambda at: _ALL[at % len(_ALL)])


def described(path: Path, flux: Flux) -> Written:
    """Say the forms in the header alone, behind the prefix of an all-in-one file."""
    made = _comfy(path, flux, lambda at: _ALL[at % 3])
    prefix, marker = "model.diffusion_model.", ".comfy_quant"
    tensors = _read(made.path)
    layers = {
        name.removesuffix(marker): json.loads(bytes(tensor.numpy()))
        for name, tensor in tensors.items()
        if name.endswith(marker)
    }
    kept = {prefix + n: t for n, t in tensors.items() if not n.endswith(marker)}
    save(path, kept, {"_quantization_metadata": json.dumps({"layers": layers})})
    return made


def older(path: Path, flux: Flux) -> Written:
    """Name the scales as ComfyUI did at first, with the marker of the whole file."""
    made = _comfy(path, flux, lambda _: _FP8)
    tensors: Tensors = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in _read(made.path).items():
        if name.endswith(".comfy_quant"):
            stem = name.removesuffix(".comfy_quant")
            tensors[f"{stem}.scale_input"] = torch.tensor(1.0)
        else:
            tensors[name.replace(".weight_scale", ".scale_weight")] = tensor
    save(path, tensors)
    return made


def _read(path: Path) -> Tensors:
    from safetensors.torch import load_file

    return dict(load_file(path))


def _diffusers_form(path: Path, flux: Flux, kind: str) -> Written:
    """Quantise and decode by what diffusers has beside its loader; BFL names, as it reads them."""
    from diffusers.quantizers.bfl import utils

    tensors: Tensors = {}
    numbers: dict[str, Array] = {}
    for name, array in factory.tensors(flux, "bfl").items():
        if not is_quantised(name, array):
            tensors[name], numbers[name] = array, array.astype(np.float32)
            continue
        made = getattr(utils, f"quantize_{kind}")(_torch(array).float())
        stem = name.removesuffix(".weight")
        leaves = ["weight", "weight_scale", "weight_scale_2"][: len(made)]
        tensors |= {f"{stem}.{leaf}": t for leaf, t in zip(leaves, made, strict=True)}
        if kind == "nvfp4":
            tensors[f"{stem}.input_scale"] = torch.tensor(1.0)
        numbers[name] = getattr(utils, f"dequantize_{kind}")(*made).float().numpy()
    return Written(save(path, tensors), numbers, "bfl")


def _bitsandbytes(path: Path, flux: Flux, kind: str, *, nested: bool) -> Written:
    """Quantise by its functional API and name what it packs, in diffusers' layout."""
    tensors: Tensors = {}
    numbers: dict[str, Array] = {}
    for name, array in factory.tensors(flux).items():
        if not is_quantised(name, array):
            tensors[name], numbers[name] = array, array.astype(np.float32)
            continue
        codes, state = bnb.functional.quantize_4bit(
            _torch(array).float(), blocksize=64, quant_type=kind, compress_statistics=nested
        )
        tensors[name] = codes
        tensors |= {f"{name}.{leaf}": t for leaf, t in state.as_dict(packed=True).items()}
        numbers[name] = bnb.functional.dequantize_4bit(codes, state).float().numpy()
    return _folder(path, flux, tensors, numbers, {"quant_method": "bitsandbytes"})


def _llm_int8(path: Path, flux: Flux) -> Written:
    tensors: Tensors = {}
    numbers: dict[str, Array] = {}
    for name, array in factory.tensors(flux).items():
        if not is_quantised(name, array):
            tensors[name], numbers[name] = array, array.astype(np.float32)
            continue
        codes, largest, _ = bnb.functional.int8_vectorwise_quant(_torch(array).half())
        stem = name.removesuffix(".weight")
        tensors[name], tensors[f"{stem}.SCB"] = codes, largest.float()
        tensors[f"{stem}.weight_format"] = torch.tensor(0, dtype=torch.uint8)
        numbers[name] = bnb.functional.int8_vectorwise_dequant(codes, largest).float().numpy()
    return _folder(path, flux, tensors, numbers, {"quant_method": "bitsandbytes"})


def _folder(
    path: Path, flux: Flux, tensors: Tensors, numbers: dict[str, Array], method: dict[str, Any]
) -> Written:
    folder = path.with_suffix("")
    save(folder / f"{factory.WEIGHTS}.safetensors", tensors)
    factory.write_json(
        folder / "config.json", {**factory.config(flux), "quantization_config": method}
    )
    return Written(folder, numbers, "diffusers")


def _sdnq(path: Path, flux: Flux, kind: str) -> Written:
    """Let SDNQ quantise the model of diffusers, save it, and decode it again."""
    from diffusers import FluxTransformer2DModel
    from sdnq.loader import save_sdnq_model
    from sdnq.quantizer import sdnq_post_load_quant

    folder = path.with_suffix("")
    model = FluxTransformer2DModel.from_config(factory.config(flux))
    model.load_state_dict(_tensors_of(flux), strict=True, assign=True)
    made = sdnq_post_load_quant(
        model, weights_dtype=kind, group_size=-1, use_quantized_matmul=False
    )
    made = made[0] if isinstance(made, tuple) else made
    save_sdnq_model(made, folder)
    numbers = {n: t.float().numpy() for n, t in _tensors_of(flux).items()}
    for name, module in made.named_modules():
        if hasattr(module, "sdnq_dequantizer"):
            decoded = module.sdnq_dequantizer(module.weight, module.scale, dtype=torch.float32)
            numbers[f"{name}.weight"] = decoded.detach().float().numpy()
    return Written(folder, numbers, "diffusers")


def _tensors_of(flux: Flux) -> dict[str, torch.Tensor]:
    """Return the unquantised tensors of the diffusers layout."""
    return {name: _torch(array) for name, array in factory.tensors(flux).items()}


FORMS: dict[str, Callable[[Path, Flux], Written]] = {
    "fp8": _one(_FP8),
    "int8": _one(_INT8),
    "int8 by rows": _one(_ROWS),
    "rotated int8": _one(_ROTATED),
    "mxfp8": _one(_MXFP8),
    "nvfp4": _one(_NVFP4),
    "mixed": mixed,
    "described": described,
    "older fp8": older,
    "diffusers' fp8": lambda path, flux: _diffusers_form(path, flux, "fp8r"),
    "diffusers' nvfp4": lambda path, flux: _diffusers_form(path, flux, "nvfp4"),
    "nf4": lambda path, flux: _bitsandbytes(path, flux, "nf4", nested=False),
    "nested nf4": lambda path, flux: _bitsandbytes(path, flux, "nf4", nested=True),
    "fp4": lambda path, flux: _bitsandbytes(path, flux, "fp4", nested=False),
    "bitsandbytes' int8": _llm_int8,
    "SDNQ int8": lambda path, flux: _sdnq(path, flux, "int8"),
    "SDNQ fp8": lambda path, flux: _sdnq(path, flux, "float8_e4m3fn"),
}


def plain(path: Path, written: Written, flux: Flux, names: Iterable[str] = ()) -> Path:
    """Write the numbers of a quantised model as an unquantised one."""
    arrays = {n: a for n, a in written.numbers.items() if not names or n in names}
    if written.layout == "bfl":
        return factory.write(path.with_suffix(".safetensors"), arrays)
    return factory.save_folder(path.with_suffix(""), flux, arrays=arrays)
