"""The block formats of ggml through the core, against the package `gguf` and ggml itself.

ggml is the prebuilt library of `libggml-python`: x86-64 without fused multiply-add. A build that
fuses may choose another code where two fit almost alike.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import libggml
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

import factory
from boundary import execute, source
from submerge.checkpoint.codecs import CODECS

if TYPE_CHECKING:
    from factory import Array

READ = [
    *("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
    *("iq4_nl", "iq4_xs", "mxfp4"),
]
WRITTEN = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"]
# Where the F16 of a block stand.
HALVES = {
    **dict.fromkeys(("q8_0", "q4_0", "q5_0", "iq4_nl", "iq4_xs"), (0,)),
    **dict.fromkeys(("q4_1", "q5_1", "q4_k", "q5_k"), (0, 2)),
    "q2_k": (80, 82),
    "q3_k": (108,),
    "q6_k": (208,),
    "mxfp4": (),
}


def kind(name: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[name.upper()]


def copied(tmp: Path, array: Array, rows: dict[str, Any], output: dict[str, Any]) -> Array:
    """The one tensor of a file, copied into that of another."""
    given, out = tmp / "given.safetensors", tmp / "out.safetensors"
    factory.write(given, {"w": array})
    place = {"source": 0, "tensor": "w", "start": 0, "end": array.shape[0]}
    unit = {"name": "w", "output": 0, "start": 0, "end": array.shape[0], "op": {"copy": {}}}
    plan = {
        "version": 1,
        "overflow": "saturate",
        "target": {"file": {"path": str(out)}},
        "sources": [source(given)],
        "files": [{"path": "", "metadata": {}}],
        "texts": [],
        "copies": [],
        "outputs": [{"file": 0, "name": "w"} | output],
        "units": [unit | {"operands": [[{"rows": place | rows}]]}],
    }
    execute(plan, overwrite=True)
    found: Array = factory.read(out)["w"]
    return found


def decoded(tmp: Path, name: str, blocks: Array) -> Array:
    elements, _ = GGML_QUANT_SIZES[kind(name)]
    output = {"dtype": "F32", "shape": [blocks.shape[0], elements]}
    return copied(tmp, blocks, {"codec": CODECS[name].spec}, output)


def encoded(tmp: Path, name: str, values: Array) -> Array:
    elements, size = GGML_QUANT_SIZES[kind(name)]
    shape = [values.shape[0], values.shape[1] // elements * size]
    return copied(tmp, values, {}, {"dtype": "U8", "shape": shape, "codec": CODECS[name].spec})


def same_numbers(found: Array, expected: Array) -> None:
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), nan)
    bits = (found.view(np.uint32), expected.astype(np.float32).view(np.uint32))
    assert np.array_equal(bits[0][~nan], bits[1][~nan])


@pytest.mark.parametrize("name", READ)
def test_sizes_are_those_of_gguf(name: str) -> None:
    assert (CODECS[name].elements, CODECS[name].nbytes) == GGML_QUANT_SIZES[kind(name)]


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("name", READ)
def test_numbers_are_those_of_gguf(tmp_path: Path, name: str) -> None:
    """Every byte at every place of a block, random blocks, zeros; infinite and NaN scales."""
    _, size = GGML_QUANT_SIZES[kind(name)]
    random = np.random.default_rng(7)
    each = np.tile(random.integers(0, 256, size, np.uint8), (256 * size, 1))
    for place in range(size):
        each[256 * place : 256 * (place + 1), place] = np.arange(256)
    some = random.integers(0, 256, (2000, size), np.uint8)
    special = random.integers(0, 256, (6 * len(HALVES[name]), size), np.uint8)
    for at, place in enumerate(HALVES[name]):
        scales = np.array([0, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0x0001], np.uint16)
        special[6 * at : 6 * at + 6, place : place + 2] = scales.view(np.uint8).reshape(6, 2)
    blocks = np.concatenate([each, some, special, np.zeros((3, size), np.uint8)])
    same_numbers(decoded(tmp_path, name, blocks), quants.dequantize(blocks, kind(name)))


LIBRARY = ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))


def quantized(name: str, values: Array) -> Array:
    """By ggml, without an importance matrix."""
    elements, size = GGML_QUANT_SIZES[kind(name)]
    rows, columns = values.shape
    out = np.zeros((rows, columns // elements * size), np.uint8)
    call = LIBRARY.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (values, out)]
    counts = [ctypes.c_int64(n) for n in (0, rows, columns)]
    assert call(ctypes.c_int(kind(name).value), *pointers, *counts, None) == out.size
    return out


ROWS, COLUMNS = 500, 512


def inputs() -> dict[str, Array]:
    random = np.random.default_rng(3)
    shape = (ROWS, COLUMNS)
    bell = random.standard_normal(shape)
    blocks = np.exp2(random.integers(-30, 12, (ROWS * COLUMNS // 32, 1)))
    outliers = bell * 0.02
    outliers[random.random(shape) < 0.003] *= 50
    made = {
        "weights": bell * 0.02,
        "bf16": (bell.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32),
        "outliers": outliers,
        "uniform": random.random(shape) - 0.5,
        "positive": np.abs(bell),
        "negative": -np.abs(bell),
        "ties": random.integers(-8, 8, shape),
        "few": random.choice([-1.0, 0.0, 1.0, -0.0], shape),
        "zeros": np.zeros(shape),
        "zeros of both signs": random.choice([0.0, -0.0], shape),
        "constant groups": np.repeat(bell.ravel()[: bell.size // 32], 32).reshape(shape),
        "constant blocks": np.repeat(bell.ravel()[: bell.size // 256], 256).reshape(shape),
        "every size": (bell.reshape(-1, 32) * blocks).reshape(shape),
        "mixed sizes": bell * np.exp2(random.integers(-120, 12, shape).astype(np.float64)),
        "sparse": bell * (random.random(shape) < 0.05),
        "almost nothing": bell * (random.random(shape) < 0.004),
        "far from zero": bell * 1e-3 + 5,
        "far below zero": bell * 1e-3 - 5,
        "large": bell * 1e4,
    }
    for size in (1e-6, 1e-10, 1e-14, 1e-15, 1e-20, 1e-30, 1e-36):
        made[f"{size}"] = bell * size
    return {name: np.ascontiguousarray(array, np.float32) for name, array in made.items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_bytes_are_those_of_ggml(tmp_path: Path, name: str) -> None:
    for label, values in inputs().items():
        found, expected = encoded(tmp_path, name, values), quantized(name, values)
        assert np.array_equal(found, expected), label


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_too_small_for_a_scale_is_zero_as_in_ggml(tmp_path: Path, name: str) -> None:
    """The codes under a scale of 0 are not compared: in C some of them are undefined."""
    bell = np.random.default_rng(5).standard_normal((64, 256))
    for size in (1e-39, 1e-42, 1e-45):
        values = (bell * size).astype(np.float32)
        for blocks in (encoded(tmp_path, name, values), quantized(name, values)):
            assert not quants.dequantize(blocks, kind(name)).any()


def test_the_packages_are_those_that_were_compared() -> None:
    LIBRARY.ggml_version.restype = ctypes.c_char_p
    assert LIBRARY.ggml_version() == b"0.20.2"
    assert gguf.GGML_QUANT_VERSION == 2
