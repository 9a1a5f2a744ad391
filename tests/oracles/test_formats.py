"""Formats with scales, as the libraries that read them write and read them.

A merge straight into a format has the bits of the library's own quantiser on the merge in f32, and
a model opened from it answers within the error of the format.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import TYPE_CHECKING, Any

import comfy_kitchen as ck
import pytest
import torch
from comfy_kitchen import tensor as kitchen
from diffusers import BFLQuantizationConfig, FluxTransformer2DModel
from diffusers.loaders import single_file_model, single_file_utils
from diffusers.quantizers.bfl.utils import quantize_fp8r
from sdnq import SDNQConfig

import factory
import submerge
from factory import Flux
from oracles.models import forward, loaded, model_of, state_of

if TYPE_CHECKING:
    from pathlib import Path

    from oracles.models import State

# Rows and columns are multiples of every block: 256.
A = Flux(1, 1, 256, 64, 64, 32, dtype="BF16")
B = dataclasses.replace(A, guidance=True, seed=1)
GUIDANCE = 3.5
BLOCKS = ("double_blocks.", "single_blocks.", "transformer_blocks.", "single_transformer_blocks.")


class Merges:
    """One merge in several formats, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = {
            "a": str(factory.save_file(folder / "a.safetensors", A)),
            "b": str(factory.save_file(folder / "b.safetensors", B)),
        }
        self.reference = state_of(self.made("f32", "f32.safetensors", layout="bfl"))
        self.plain = state_of(self.made("same", "same.safetensors", layout="bfl"))
        self.f32 = self.made("f32", "f32")
        self.answer = forward(loaded(self.f32), GUIDANCE)

    def made(self, dtype: str, name: str, **output: Any) -> Path:
        """Return the merge in a format."""
        path = self.folder / name
        if not path.exists():
            recipe = {"models": self.models, "alpha": 0.3, "output": {"dtype": dtype, **output}}
            submerge.merge(recipe, path, threads=2)
        return path

    def error(self, answer: torch.Tensor) -> float:
        """Return how far an answer is from that of the merge in f32."""
        return float((answer - self.answer).norm() / self.answer.norm())

    def of_bfl(self, state: State) -> FluxTransformer2DModel:
        """Return a model in f32 with weights in BFL names."""
        back = self.folder / "decoded.safetensors"
        factory.write(back, {name: tensor.float().numpy() for name, tensor in state.items()})
        folder = self.folder / "decoded"
        submerge.convert(back, folder, layout="diffusers", overwrite=True)
        return model_of(state_of(folder), folder / "config.json")


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Merges:
    return Merges(tmp_path_factory.mktemp("formats"))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' converter of BFL names knows one width alone: here another."""
    name = "convert_flux_transformer_checkpoint_to_diffusers"
    source = inspect.getsource(getattr(single_file_utils, name))
    assert source.count("inner_dim = 3072") == 1
    space = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", f"inner_dim = {A.hidden}"), space)  # noqa: S102
    table = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(table, "checkpoint_mapping_fn", space[name])


def matrices(state: State) -> dict[str, torch.Tensor]:
    """The matrices of the blocks."""
    return {n: t for n, t in state.items() if n.startswith(BLOCKS) and t.dim() == 2}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


# ComfyUI.


def fp8_scaled(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = weight.abs().max() / 448
    return {"weight": ck.quantize_per_tensor_fp8(weight, scale), "weight_scale": scale}


def int8_convrot(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    layout = kitchen.TensorWiseINT8Layout
    codes, said = layout.quantize(weight, per_channel=True, convrot=True)
    return {"weight": codes, "weight_scale": said.scale}


def mxfp8(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    codes, scales = ck.quantize_mxfp8(weight)
    return {"weight": codes, "weight_scale": scales.view(torch.uint8)}


def nvfp4(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = weight.abs().max() / (448 * 6)
    codes, scales = ck.quantize_nvfp4(weight, scale)
    return {"weight": codes, "weight_scale": scales, "weight_scale_2": scale}


def from_fp8_scaled(t: dict[str, torch.Tensor]) -> torch.Tensor:
    return ck.dequantize_per_tensor_fp8(t["weight"], t["weight_scale"], torch.float32)


def from_int8_convrot(t: dict[str, torch.Tensor]) -> torch.Tensor:
    shape = tuple(t["weight"].shape)
    layout = kitchen.TensorWiseINT8Layout
    said = layout.Params(t["weight_scale"], torch.float32, shape, convrot=True)
    return layout.dequantize(t["weight"], said)


def from_mxfp8(t: dict[str, torch.Tensor]) -> torch.Tensor:
    scales = t["weight_scale"].view(torch.float8_e8m0fnu)
    return ck.dequantize_mxfp8(t["weight"], scales, torch.float32)


def from_nvfp4(t: dict[str, torch.Tensor]) -> torch.Tensor:
    scale, scales = t["weight_scale_2"], t["weight_scale"]
    return ck.dequantize_nvfp4(t["weight"], scale, scales, torch.float32)


Codes = "Callable[[torch.Tensor], dict[str, torch.Tensor]]"
COMFY: dict[str, tuple[Any, Any, dict[str, Any], tuple[float, float]]] = {
    "fp8_scaled": (
        fp8_scaled,
        from_fp8_scaled,
        {"format": "float8_e4m3fn", "full_precision_matrix_mult": True},
        (1e-3, 2e-2),
    ),
    "int8_convrot": (
        int8_convrot,
        from_int8_convrot,
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256},
        (1e-4, 1e-2),
    ),
    "mxfp8": (mxfp8, from_mxfp8, {"format": "mxfp8"}, (1e-3, 2e-2)),
    "nvfp4": (nvfp4, from_nvfp4, {"format": "nvfp4"}, (1e-3, 4e-2)),
}


@pytest.mark.parametrize("name", COMFY)
def test_comfyui_formats_have_the_bits_of_its_own_quantiser(merges: Merges, name: str) -> None:
    quantised, _, said, _ = COMFY[name]
    state = state_of(merges.made(name, f"{name}.safetensors"))
    found = dict(state)
    differing = elements = 0
    for weight, values in matrices(merges.reference).items():
        stem = weight.removesuffix(".weight")
        for leaf, expected in quantised(values).items():
            mine = found.pop(f"{stem}.{leaf}")
            assert mine.shape == expected.shape, (weight, leaf)
            assert mine.dtype == expected.dtype, (weight, leaf)
            if name == "int8_convrot" and leaf == "weight":
                # Sums of 256 in another order: a code in the middle goes either way.
                off = (mine.int() - expected.int()).abs()
                assert int(off.max()) <= 1
                differing, elements = differing + int((off > 0).sum()), elements + off.numel()
            elif name == "int8_convrot":
                assert torch.allclose(mine, expected, rtol=4e-6, atol=0)
            else:
                assert same(mine, expected), (weight, leaf)
        marker = found.pop(f"{stem}.comfy_quant")
        assert marker.dtype == torch.uint8
        assert json.loads(bytes(marker.tolist())) == said
    assert differing <= elements * 1e-4
    # All else is as it is without a format.
    rest = {n: t for n, t in merges.plain.items() if n not in matrices(merges.reference)}
    assert found.keys() == rest.keys()
    assert all(same(found[n], rest[n]) for n in rest)


@pytest.mark.parametrize("name", COMFY)
def test_a_model_in_a_comfyui_format_answers_within_its_error(merges: Merges, name: str) -> None:
    _, decoded, _, (least, most) = COMFY[name]
    state = state_of(merges.made(name, f"{name}.safetensors"))
    plain = {}
    for weight in merges.reference:
        stem = weight.removesuffix(".weight")
        beside = {leaf: state.get(f"{stem}.{leaf}") for leaf in ("weight_scale", "weight_scale_2")}
        beside = {leaf: t for leaf, t in beside.items() if t is not None}
        plain[weight] = decoded({"weight": state[weight], **beside}) if beside else state[weight]
    assert least < merges.error(forward(merges.of_bfl(plain), GUIDANCE)) < most


# diffusers.


def test_fp8_by_rows_has_the_bits_of_diffusers(merges: Merges) -> None:
    state = state_of(merges.made("fp8_row", "fp8_row.safetensors", layout="bfl"))
    for weight, values in matrices(merges.reference).items():
        codes, scales = quantize_fp8r(values)
        assert same(state[weight], codes)
        assert same(state[f"{weight}_scale"], scales)
    scales = {name for name in state if name.endswith("_scale")}
    assert len(state) == len(merges.reference) + len(scales)
    assert len(scales) == len(matrices(merges.reference))


@pytest.mark.usefixtures("narrow")
def test_diffusers_opens_fp8_by_rows(merges: Merges) -> None:
    path = merges.made("fp8_row", "fp8_row.safetensors", layout="bfl")
    model = FluxTransformer2DModel.from_single_file(
        str(path),
        config=str(merges.f32),
        quantization_config=BFLQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    ).eval()
    kinds = {type(module).__name__ for module in model.modules()}
    assert "BFLFP8RLinear" in kinds
    assert 1e-3 < merges.error(forward(model, GUIDANCE)) < 2e-2


def test_diffusers_opens_sdnq(merges: Merges) -> None:
    folder = merges.made("sdnq_int8", "sdnq_int8")
    model = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    kinds = {type(module).__name__ for module in model.modules()}
    assert any("SDNQ" in kind for kind in kinds), kinds
    with torch.no_grad():
        answer = forward(model, GUIDANCE)
    assert 1e-4 < merges.error(answer) < 1e-2


def test_sdnq_saves_the_same(merges: Merges) -> None:
    theirs = merges.folder / "theirs"
    wanted = SDNQConfig(weights_dtype="int8")
    model = FluxTransformer2DModel.from_pretrained(
        merges.f32, torch_dtype=torch.float32, quantization_config=wanted
    )
    model.save_pretrained(theirs)
    ours = merges.made("sdnq_int8", "sdnq_int8")
    mine, expected = state_of(ours), state_of(theirs)
    assert mine.keys() == expected.keys()
    codes = [name for name, tensor in expected.items() if tensor.dtype == torch.int8]
    assert codes
    for name in codes:
        stem = name.removesuffix("weight")
        assert same(mine[name], expected[name]), name
        assert same(mine[f"{stem}scale"], expected[f"{stem}scale"]), name
    assert [n for n, t in mine.items() if t.dtype == torch.int8] == codes
    config, known = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
        for folder in (ours, theirs)
    )
    kept, _ = config.pop("modules_to_not_convert"), known.pop("modules_to_not_convert")
    assert config == known
    assert kept == [n for n in mine if n.endswith(".weight") and n not in codes]
