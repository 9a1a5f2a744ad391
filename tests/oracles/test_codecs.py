"""Number formats with scales beside them, against those whose formats they are.

`comfy_kitchen` is the code that ComfyUI quantises with, here by its kernels for CPUs;
`bitsandbytes` runs on CPUs too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import bitsandbytes.functional as bnb
import comfy_kitchen
import pytest
import torch
from comfy_kitchen.tensor.int8 import TensorWiseINT8Layout
from diffusers.quantizers.bfl import utils as bfl
from safetensors.torch import load_file, save_file

from boundary import execute, place, source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Spec = str | Mapping[str, Any]

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
SHAPES = ((64, 256), (130, 3072), (128, 1024), (16, 15360))


def weights(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Bell-shaped with outliers; rows of other sizes, some of nearly nothing, blocks of zeros."""
    chance = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=chance) * 0.05
    values[torch.rand(rows, columns, generator=chance) < 0.001] *= 40
    values *= torch.exp2(torch.randint(-6, 7, (rows, 1), generator=chance).float())
    values[1] *= 1e-5
    values[2, : columns // 2] = 0
    return values


class Output(NamedTuple):
    """A tensor to write: dtype and shape of the payload, its codec, and what stands beside it."""

    dtype: str
    shape: Sequence[int]
    codec: Spec
    sides: Sequence[tuple[str, Sequence[int]]] = ()


def run(tmp: Path, file: Path, rows: Mapping[str, Any], output: Output) -> dict[str, torch.Tensor]:
    """Copy rows of a file into a tensor of another."""
    out = tmp / "out.safetensors"
    names = ["w", *(f"s{i}" for i in range(len(output.sides)))]
    tensors = [(output.dtype, output.shape), *output.sides]
    outputs = [
        {"file": 0, "name": name, "dtype": dtype, "shape": list(shape)}
        for name, (dtype, shape) in zip(names, tensors, strict=True)
    ]
    outputs[0]["codec"] = output.codec
    unit = {"name": "w", "output": 0, "start": 0, "end": output.shape[0]}
    units = [unit | {"operands": [[{"rows": rows}]], "op": {"copy": {}}}]
    for at, (_, shape) in enumerate(output.sides):
        unit = {"name": f"s{at}", "output": at + 1, "start": 0, "end": shape[0] if shape else 1}
        units.append(unit | {"operands": [], "op": {"beside": {"output": 0, "side": at}}})
    plan = {
        "version": 1,
        "overflow": "saturate",
        "target": {"file": {"path": str(out)}},
        "sources": [source(file)],
        "files": [{"path": "", "metadata": {"format": "pt"}}],
        "texts": [],
        "copies": [],
        "outputs": outputs,
        "units": units,
    }
    execute(plan, overwrite=True, chunk=1 << 16)
    return load_file(out)


def write(tmp: Path, values: torch.Tensor, output: Output) -> list[torch.Tensor]:
    """Encode numbers; payload and sides."""
    file = tmp / "in.safetensors"
    save_file({"w": values}, file)
    found = run(tmp, file, place(0, "w", 0, len(values)), output)
    return [found[name] for name in sorted(found, key=lambda name: (name != "w", name))]


def read(
    tmp: Path, tensors: Sequence[torch.Tensor], codec: Spec, shape: Sequence[int]
) -> torch.Tensor:
    """Decode a payload with the tensors beside it."""
    file = tmp / "in.safetensors"
    named = {f"t{i}": tensor.contiguous() for i, tensor in enumerate(tensors)}
    save_file(named, file)
    sides = [{"source": 0, "tensor": name} for name in named if name != "t0"]
    rows = {
        "source": 0,
        "tensor": "t0",
        "start": 0,
        "end": shape[0],
        "codec": codec,
        "sides": sides,
    }
    return run(tmp, file, rows, Output("F32", shape, "plain"))["w"]


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    size = {1: torch.uint8, 4: torch.int32}[got.element_size()]
    got, expected = got.contiguous().view(size), expected.contiguous().view(size)
    assert int((got != expected).sum()) == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "name"), [(E4M3, "F8_E4M3"), (E5M2, "F8_E5M2")])
def test_scaled_fp8(tmp_path: Path, shape: tuple[int, int], dtype: torch.dtype, name: str) -> None:
    values = weights(*shape)
    scale = values.abs().amax() / torch.finfo(dtype).max
    expected = comfy_kitchen.quantize_per_tensor_fp8(values, scale, dtype)
    payload, side = write(tmp_path, values, Output(name, shape, "scaled", [("F32", [])]))
    same(payload, expected)
    same(side, scale)
    back = comfy_kitchen.dequantize_per_tensor_fp8(payload, side, torch.float32)
    same(read(tmp_path, [payload, side], "scaled", shape), back)


@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_by_rows(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = weights(*shape)
    expected, scales = bfl.quantize_fp8r(values)
    output = Output("F8_E4M3", shape, "scaled_rows", [("F32", [shape[0]])])
    payload, side = write(tmp_path, values, output)
    same(payload, expected)
    same(side, scales)
    back = bfl.dequantize_fp8r(payload, side)
    same(read(tmp_path, [payload, side], "scaled_rows", shape), back)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("by_rows", [False, True])
def test_int8(tmp_path: Path, shape: tuple[int, int], *, by_rows: bool) -> None:
    values = weights(*shape)
    expected, made = TensorWiseINT8Layout.quantize(values, per_channel=by_rows)
    codec, side_shape = ("int8_rows", [shape[0], 1]) if by_rows else ("int8", [])
    payload, side = write(tmp_path, values, Output("I8", shape, codec, [("F32", side_shape)]))
    same(payload, expected)
    same(side, made.scale)
    back = TensorWiseINT8Layout.dequantize(expected, made)
    same(read(tmp_path, [payload, side], codec, shape), back)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [4, 16, 64, 256, 1024])
def test_rotated_int8(tmp_path: Path, shape: tuple[int, int], size: int) -> None:
    if shape[1] % size:
        pytest.skip("no whole groups")
    values = weights(*shape)
    expected, made = TensorWiseINT8Layout.quantize(
        values, per_channel=True, convrot=True, convrot_groupsize=size
    )
    codec = "int8_convrot" if size == 256 else {"int8_convrot": {"rotated": size}}
    output = Output("I8", shape, codec, [("F32", [shape[0], 1])])
    payload, side = write(tmp_path, values, output)
    # Sums of many are added in another order.
    torch.testing.assert_close(side, made.scale, rtol=1e-5, atol=0)
    apart = (payload.int() - expected.int()).abs()
    assert int(apart.max()) <= 1
    assert int(apart.sum()) <= 2 + values.numel() // 20_000
    back = TensorWiseINT8Layout.dequantize(expected, made)
    largest = back.abs().amax(dim=1, keepdim=True) + 1e-30
    got = read(tmp_path, [expected, made.scale], codec, shape)
    # Sums of 256 in another order, and in an order that depends on the threads of the library.
    assert float(((got - back).abs() / largest).max()) < 4e-6


@pytest.mark.parametrize("shape", [(64, 256), (160, 3072), (128, 1024), (32, 15360), (96, 96)])
def test_mxfp8(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = weights(*shape)
    expected, scales = comfy_kitchen.quantize_mxfp8(values)
    sizes = [-(-shape[0] // 128) * 128, -(-shape[1] // 128) * 4]
    assert list(scales.shape) == sizes
    output = Output("F8_E4M3", shape, "mxfp8", [("F8_E8M0", sizes)])
    payload, side = write(tmp_path, values, output)
    same(payload, expected)
    same(side, scales)
    back = comfy_kitchen.dequantize_mxfp8(payload, side, torch.float32)
    for stored in (side, side.view(torch.uint8)):
        same(read(tmp_path, [payload, stored], "mxfp8", shape), back)


@pytest.mark.parametrize("shape", [(64, 256), (144, 3072), (128, 1024), (16, 15360), (48, 80)])
def test_nvfp4(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = weights(*shape)
    of_all = values.abs().amax() / (448 * 6)
    sizes = [-(-shape[0] // 128) * 128, -(-shape[1] // 64) * 4]
    packed = [shape[0], shape[1] // 2]
    expected, scales = comfy_kitchen.quantize_nvfp4(values, of_all)
    output = Output("U8", packed, "nvfp4", [("F8_E4M3", sizes), ("F32", [])])
    payload, side, other = write(tmp_path, values, output)
    same(payload, expected)
    same(side, scales)
    same(other, of_all)
    back = comfy_kitchen.dequantize_nvfp4(payload, other, side, torch.float32)
    same(read(tmp_path, [payload, side, other], "nvfp4", shape), back)


@pytest.mark.parametrize("shape", [(64, 256), (144, 3072), (128, 1024), (17, 15360), (48, 80)])
def test_nvfp4_of_the_others(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = weights(*shape)
    expected = bfl.quantize_nvfp4(values)
    sides = [("F8_E4M3", [shape[0], shape[1] // 16]), ("F32", [])]
    output = Output("U8", [shape[0], shape[1] // 2], "nvfp4_bfl", sides)
    got = write(tmp_path, values, output)
    for one, other in zip(got, expected, strict=True):
        same(one, other)
    same(read(tmp_path, got, "nvfp4_bfl", shape), bfl.dequantize_nvfp4(*expected))


@pytest.mark.parametrize(
    "output",
    [
        Output("F8_E4M3", (128, 256), "scaled", [("F32", [])]),
        Output("I8", (128, 256), "int8", [("F32", [])]),
        Output("I8", (128, 256), "int8_convrot", [("F32", [128, 1])]),
        Output("F8_E4M3", (128, 256), "mxfp8", [("F8_E8M0", [128, 8])]),
        Output("U8", (128, 128), "nvfp4", [("F8_E4M3", [128, 16]), ("F32", [])]),
    ],
    ids=lambda output: str(output.codec),
)
def test_zeros_are_zeros(tmp_path: Path, output: Output) -> None:
    """Where comfy-kitchen 0.2.40 makes NaN of them."""
    tensors = write(tmp_path, torch.zeros(128, 256), output)
    got = read(tmp_path, tensors, output.codec, (128, 256))
    assert int((got != 0).sum()) == 0


@pytest.mark.parametrize("shape", [(64, 256), (50, 70), (33, 6), (3, 2)])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("size", [32, 64, 4096])
def test_bitsandbytes_of_4_bits(
    tmp_path: Path, shape: tuple[int, int], kind: str, size: int, *, nested: bool
) -> None:
    values = weights(64, 256).reshape(-1)[: shape[0] * shape[1]].reshape(shape)
    packed, state = bnb.quantize_4bit(
        values, blocksize=size, quant_type=kind, compress_statistics=nested
    )
    expected = bnb.dequantize_4bit(packed, state)
    sides = [state.absmax, state.code]
    parameters: dict[str, Any] = {"shape": list(shape), "block": size}
    if nested:
        sides += [state.state2.absmax, state.state2.code]
        inner = {"blocks": state.state2.blocksize, "offset": state.offset.item()}
        parameters["nested"] = inner
    got = read(tmp_path, [packed, *sides], {"bnb4": parameters}, shape)
    # The kernel has -0 for one code of FP4, the book 0; a nested largest may be below 0.
    same(got + 0, expected + 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_bitsandbytes_of_8_bits(tmp_path: Path, shape: tuple[int, int]) -> None:
    codes, largest, _ = bnb.int8_vectorwise_quant(weights(*shape).half())
    expected = bnb.int8_vectorwise_dequant(codes, largest)
    same(read(tmp_path, [codes, largest], "llm_int8", shape), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_scales_of_any_float_and_shape(
    tmp_path: Path, dtype: torch.dtype, kind: str, *, by_rows: bool
) -> None:
    values = weights(40, 96)
    codes = values.to(E4M3) if kind == "fp8" else (values * 20).round().clamp(-128, 127).char()
    scales = torch.rand(40, generator=torch.Generator().manual_seed(1)).to(dtype)
    word = {"fp8": "scaled", "int8": "int8"}[kind] + ("_rows" if by_rows else "")
    shapes = [(40,), (40, 1)] if by_rows else [(), (1,)]
    side = scales if by_rows else scales[0]
    expected = codes.float() * side.float().reshape(-1, 1)
    for shape in shapes:
        same(read(tmp_path, [codes, side.reshape(shape)], word, (40, 96)), expected)
