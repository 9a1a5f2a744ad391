"""What is read of tiny tensors that describe codes: markers and states, as hostile as any."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
from factory import Flux
from quantised_files import quantised, text
from submerge.checkpoint import open_checkpoint
from submerge.errors import CheckpointError, LayoutError
from submerge.layout import identify

if TYPE_CHECKING:
    from pathlib import Path

    from factory import Array

ONE = Flux(guidance=True, seed=1)


def marked(folder: Path, marker: Array) -> Path:
    made = quantised(folder, ONE, "fp8")
    arrays = factory.read(made.path)
    arrays["double_blocks.0.img_attn.proj.comfy_quant"] = marker
    return factory.write(made.path, arrays)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (np.zeros(4097, np.uint8), "4,097 bytes of U8, expected at most 4,096 of U8"),
        (np.zeros(1, np.float32), "4 bytes of F32, expected at most 4,096 of U8"),
        (np.frombuffer(b"\xff{", np.uint8), "expected a JSON object"),
        (np.frombuffer(b"[" * 4096, np.uint8), "expected a JSON object"),
        (np.zeros(0, np.uint8), "expected a JSON object"),
        (text({"format": 8}), "expected the name of a `format`"),
    ],
)
def test_a_marker_that_says_nothing_is_an_error(
    marker: Array, message: str, tmp_path: Path
) -> None:
    path = marked(tmp_path, marker)
    with pytest.raises(CheckpointError) as caught:
        identify(open_checkpoint(path))
    assert f"`double_blocks.0.img_attn.proj.comfy_quant`: {message}" in caught.value.message
    assert "download it again" in str(caught.value.hint)


def test_a_marker_may_be_as_long_as_that(tmp_path: Path) -> None:
    described = json.dumps({"format": "float8_e4m3fn"}).encode()
    padded = np.frombuffer(described + b" " * (4096 - len(described)), np.uint8)
    identify(open_checkpoint(marked(tmp_path, padded)))


STATE = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [64, 64]}


def packed(folder: Path, state: dict[str, Any], elements: int = 64 * 64) -> Path:
    """A file of one matrix of NF4 codes, all zeros."""
    arrays: dict[str, Array] = {
        "x.weight": np.zeros((elements // 2, 1), np.uint8),
        "x.weight.absmax": np.ones(-(-elements // 64), np.float32),
        "x.weight.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
        "x.weight.quant_state.bitsandbytes__nf4": text(state),
    }
    return factory.write(folder / "nf4.safetensors", arrays)


def test_the_state_of_four_bit_codes_has_their_shape(tmp_path: Path) -> None:
    for shape in ([64, 64], [32, 128]):
        path = packed(tmp_path, {**STATE, "shape": shape})
        (found,) = identify(open_checkpoint(path), layout="generic").checkpoint.tensors.values()
        assert (found.dtype, found.shape) == ("nf4", tuple(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_type": "af4"}, "`quant_type` 'af4', expected `nf4` or `fp4`"),
        ({"shape": [64]}, "`shape` [64], expected that of a matrix"),
        ({"shape": [64, -64]}, "`shape` [64, -64], expected that of a matrix"),
        ({"shape": [64, 2**32]}, "expected that of a matrix"),
        ({"shape": [True, 64]}, "expected that of a matrix"),
        ({"shape": [64, 65]}, "has the shape [2048, 1], expected the codes of [64, 65] numbers"),
        ({"blocksize": 0}, "`blocksize` 0, expected a power of 2 from 32 to 4,096"),
        ({"blocksize": 48}, "`blocksize` 48, expected a power of 2 from 32 to 4,096"),
        ({"blocksize": 128}, "`x.weight.absmax` is F32 [64], expected F32 [32]"),
        ({"nested_blocksize": 3}, "`nested_blocksize` 3, expected a power of 2 up to 4,096"),
        ({"nested_blocksize": 256}, "`nested_offset` None, expected a number"),
        ({"nested_blocksize": 256, "nested_offset": "x"}, "`nested_offset` 'x', expected a number"),
        ({"nested_blocksize": 256, "nested_offset": 0.1}, "beside it, expected `x.weight.absmax`"),
    ],
)
def test_a_state_that_does_not_fit_is_an_error(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = packed(tmp_path, STATE | change)
    with pytest.raises(CheckpointError) as caught:
        identify(open_checkpoint(path), layout="generic")
    assert message in caught.value.message


def test_eight_bit_codes_in_the_order_of_a_gpu_are_refused(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "x.weight": np.zeros((4, 4), np.int8),
        "x.SCB": np.ones(4, np.float32),
        "x.weight_format": np.array(2, np.uint8),
    }
    path = factory.write(tmp_path / "int8.safetensors", arrays)
    with pytest.raises(LayoutError, match=r"`x\.weight_format`: codes in another order"):
        identify(open_checkpoint(path), layout="generic")
    factory.write(path, {**arrays, "x.weight_format": np.array(0, np.uint8)})
    model = identify(open_checkpoint(path), layout="generic")
    assert model.checkpoint.tensors["x.weight"].dtype == "llm_int8"
    assert model.checkpoint.beside["markers of number formats"] == ("x.weight_format",)
