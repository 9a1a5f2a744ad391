"""Quantised text encoders encode as the same encoders do in numbers."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map

from factory import read, write, write_json
from inference.coded_files import SCALED, ggml_rows
from inference.plans import on_a_gpu
from submerge.inference import load_model, loading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from factory import Array

TEXT = "a fox in snow"
T5 = "text_encoder_2"
FORMS = ("scaled fp8", "SDNQ", "GGUF")


def is_matrix(form: str, name: str, array: Array) -> bool:
    """Tell the linear layers from words, positions and norms; ggml's blocks are of whole rows."""
    whole = array.ndim == 2 and (form != "GGUF" or array.shape[1] % 32 == 0)
    return whole and "shared" not in name and "embed" not in name and "bias" not in name


def scaled(folder: Path, arrays: dict[str, Array]) -> None:
    """As ComfyUI has it, under the names that transformers gives."""
    found: dict[str, Array] = {"scaled_fp8": np.zeros(0, ml_dtypes.float8_e4m3fn)}
    for name, array in arrays.items():
        leaves = (
            SCALED["fp8_scaled"](array).leaves if is_matrix("", name, array) else {"weight": array}
        )
        found |= {f"{name.removesuffix('weight')}{leaf}": a for leaf, a in leaves.items()}
    write(folder / "model.safetensors", found)


def sdnq(folder: Path, arrays: dict[str, Array]) -> None:
    """As its own program saves it: int8 with a scale for each row, as the config says."""
    found: dict[str, Array] = {}
    for name, array in arrays.items():
        if not is_matrix("", name, array):
            found[name] = array
            continue
        leaves = SCALED["int8_row"](array).leaves
        stem = name.removesuffix("weight")
        found |= {f"{stem}weight": leaves["weight"], f"{stem}scale": leaves["weight_scale"]}
    write(folder / "model.safetensors", found)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    method = {"quant_method": "sdnq", "weights_dtype": "int8", "group_size": -1}
    write_json(folder / "config.json", {**config, "quantization_config": method})


def gguf(folder: Path, arrays: dict[str, Array]) -> None:
    """By the names of llama.cpp, which the package knows."""
    (folder / "model.safetensors").unlink()
    names = get_tensor_name_map(MODEL_ARCH.T5ENCODER, 4)
    writer = GGUFWriter(folder / "t5.gguf", "t5encoder")
    kind = GGMLQuantizationType.Q8_0
    for name, array in arrays.items():
        short = f"{names.get_name(name.removesuffix('.weight'))}.weight"
        if is_matrix("GGUF", name, array):
            writer.add_tensor(short, ggml_rows(kind, array, 0)[0], raw_dtype=kind)
        else:
            writer.add_tensor(short, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def numbers(form: str, name: str, array: Array) -> Array:
    """What a layer's codes stand for, f32."""
    if not is_matrix(form, name, array):
        return array.astype(np.float32)
    if form == "GGUF":
        return ggml_rows(GGMLQuantizationType.Q8_0, array, 0)[1]
    return SCALED["fp8_scaled" if form == "scaled fp8" else "int8_row"](array).numbers


SAVE: dict[str, Callable[[Path, dict[str, Array]], None]] = {
    "scaled fp8": scaled,
    "SDNQ": sdnq,
    "GGUF": gguf,
}


def encoded(folder: Path, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with load_model(folder, device="cpu", **how) as model:
        found: tuple[torch.Tensor, torch.Tensor] = model.encode(TEXT, 16)
    return found


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("form", FORMS)
def test_a_quantised_t5_encodes_as_its_numbers(
    pipelines: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    dtype: str,
) -> None:
    coded, plain = tmp_path / "coded", tmp_path / "plain"
    for folder in (coded, plain):
        shutil.copytree(pipelines["krea"], folder)
    arrays = read(coded / T5 / "model.safetensors")
    assert sum(is_matrix(form, name, array) for name, array in arrays.items()) >= 1
    SAVE[form](coded / T5, arrays)
    as_numbers = {name: numbers(form, name, array) for name, array in arrays.items()}
    write(plain / T5 / "model.safetensors", as_numbers)
    expected = encoded(plain, dtype=dtype)
    found = encoded(coded, dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    before = encoded(pipelines["krea"], dtype=dtype)
    assert not torch.equal(found[0], before[0])
    for candidate in ("text-first", "disk"):
        monkeypatch.setattr(loading, "plan_load", on_a_gpu(candidate))
        again = encoded(coded, dtype=dtype)
        assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))
