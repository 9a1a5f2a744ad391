"""GGUF files against the package gguf, and diffusers, which loads what submerge writes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import diffusers.loaders.single_file_model
import gguf
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, GGUFQuantizationConfig
from diffusers.loaders import single_file_utils
from safetensors.numpy import load_file

import submerge
from factory import KREA, config, save_file, tensors, write_json
from oracles.models import answered
from submerge.checkpoint import open_checkpoint, read_header

if TYPE_CHECKING:
    from pathlib import Path

Kind = gguf.GGMLQuantizationType
# What the package can write.
WRITTEN = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def written(path: Path, kind: str, **more: Any) -> Path:
    """A model as the package writes it: block matrices in one type, the rest as ComfyUI-GGUF."""
    writer = gguf.GGUFWriter(path, "flux", **more)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_float32("a.number", 0.5)
    for name, array in tensors(KREA, "bfl").items():
        numbers = array.astype(np.float32)
        chosen = "F32" if numbers.ndim < 2 else kind if "blocks." in name else "BF16"
        data = gguf.quants.quantize(numbers, Kind[chosen])
        writer.add_tensor(name, data, raw_dtype=Kind[chosen])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def decoded(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor of a file in f32, as the package decodes it."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = numbers.reshape(tuple(map(int, reversed(tensor.shape))))
    return found


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_the_package_writes_is_read(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "krea.gguf", kind)
    submerge.convert(path, tmp_path / "out.safetensors", dtype="f32")
    found, expected = load_file(tmp_path / "out.safetensors"), decoded(path)
    assert found.keys() == expected.keys()
    for name, numbers in found.items():
        assert np.array_equal(numbers, expected[name]), name


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_every_header_says_what_the_package_reads(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_custom_alignment(alignment)
    names = {}
    for kind in Kind:
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        if kind.name == "Q8_1":
            continue  # 36 bytes in ggml, 40 in the package; no file holds it
        writer.add_tensor(kind.name, np.zeros((3, 2 * size), np.uint8), raw_dtype=kind)
        names[kind.name] = (3, 2 * elements)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert header["container"] == "gguf"
    assert {t["name"] for t in header["tensors"]} == theirs.keys() == names.keys()
    for tensor in header["tensors"]:
        name = tensor["name"]
        assert tuple(tensor.get("logical", tensor["shape"])) == names[name], name
        assert header["data_start"] + tensor["start"] == theirs[name].data_offset, name
        assert tensor["end"] - tensor["start"] == theirs[name].n_bytes, name
        if "codec" in tensor:
            assert (tensor["dtype"], tensor["codec"]) == ("U8", name.lower())


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32", "q8_0", "q4_0", "q5_1"])
def test_what_is_written_the_package_reads(tmp_path: Path, dtype: str) -> None:
    path = save_file(tmp_path / "krea.safetensors", KREA, "diffusers")
    submerge.convert(path, tmp_path / "out.gguf", dtype=dtype)
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    metadata = open_checkpoint(tmp_path / "out.gguf").files[0].metadata
    assert {k: str(v) for k, v in fields.items() if not k.startswith("GGUF.")} == metadata
    assert fields["general.architecture"] == "flux"
    file_types = {"bf16": "BF16", "f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q5_1": "Q5_1"}
    wanted = f"MOSTLY_{file_types[dtype]}" if dtype in file_types else "ALL_F32"
    assert gguf.LlamaFileType(fields["general.file_type"]).name == wanted
    assert reader.alignment == 32
    expected = tensors(KREA, "bfl")
    for tensor in reader.tensors:
        numbers = expected.pop(tensor.name).astype(np.float32)
        assert tuple(map(int, reversed(tensor.shape))) == numbers.shape
        theirs = gguf.quants.quantize(numbers, tensor.tensor_type)
        assert theirs.tobytes() == tensor.data.tobytes(), tensor.name
    assert expected == {}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' converter of single files, which knows the real width alone, for the tiny one."""
    convert = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    source = inspect.getsource(convert)
    assert source.count("inner_dim = 3072") == 1
    inside = vars(single_file_utils).copy()
    exec(source.replace("inner_dim = 3072", f"inner_dim = {KREA.hidden}"), inside)  # noqa: S102
    classes = diffusers.loaders.single_file_model.SINGLE_FILE_LOADABLE_CLASSES
    monkeypatch.setitem(
        classes["FluxTransformer2DModel"], "checkpoint_mapping_fn", inside[convert.__name__]
    )


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
@pytest.mark.parametrize("dtype", ["bf16", "f32", "q8_0"])
def test_diffusers_computes_from_what_is_written(tmp_path: Path, dtype: str, layout: str) -> None:
    path = save_file(tmp_path / "krea.safetensors", KREA, "bfl")
    submerge.convert(path, tmp_path / "out.gguf", dtype=dtype, layout=layout)
    submerge.convert(path, tmp_path / "whole", layout="diffusers", dtype="f32")
    write_json(tmp_path / "config" / "config.json", config(KREA))
    loaded = FluxTransformer2DModel.from_single_file(
        tmp_path / "out.gguf",
        config=str(tmp_path / "config"),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    ).eval()
    whole = FluxTransformer2DModel.from_pretrained(tmp_path / "whole").eval()
    answer, expected = (answered(model, torch.float32, 3.5) for model in (loaded, whole))
    error = (answer - expected).norm() / expected.norm()
    # BF16 holds the numbers of the file exactly; the rounding of Q8_0 is a 127th at most.
    assert error < (0.02 if dtype == "q8_0" else 1e-5), float(error)
