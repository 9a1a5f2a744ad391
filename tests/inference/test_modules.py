"""Text encoders and VAE read by the core are those that the libraries load."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, T5EncoderModel

from inference.plans import on_a_gpu
from submerge.errors import CheckpointError
from submerge.inference import load_model, loading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIBRARIES: dict[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": T5EncoderModel,
    "vae": AutoencoderKL,
}
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def copied(pipelines: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(pipelines["krea"], tmp_path / "p")


def weights_file(folder: Path, part: str) -> Path:
    (file,) = (folder / part).glob("*.safetensors")
    return file


def changed(folder: Path, part: str, change: Callable[[Tensors], Tensors]) -> None:
    file = weights_file(folder, part)
    save_file(change(load_file(file)), file, {"format": "pt"})


def judged(folder: Path, dtype: str) -> dict[str, Tensors]:
    """What the libraries load, copied out of their mappings."""
    found = {}
    for part, kind in LIBRARIES.items():
        word = "torch_dtype" if part == "vae" else "dtype"
        state = kind.from_pretrained(folder / part, **{word: DTYPES[dtype]}).state_dict()
        found[part] = {name: tensor.clone() for name, tensor in state.items()}
    return found


def equal(folder: Path, expected: dict[str, Tensors], dtype: str) -> None:
    with load_model(folder, device="cpu", dtype=dtype) as model:
        for part, tensors in expected.items():
            module = getattr(model.pipe, part)
            assert type(module) is LIBRARIES[part]
            assert not module.training
            state = module.state_dict()
            assert list(state) == list(tensors)
            for name, tensor in tensors.items():
                assert state[name].dtype == tensor.dtype, name
                assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_weight_is_the_libraries_own(copied: Path, dtype: str, stored: str) -> None:
    """T5's `wo` too, which transformers keeps in f32 when all else is f16."""
    for part in LIBRARIES:
        changed(copied, part, lambda t: {n: v.to(DTYPES[stored]) for n, v in t.items()})
    equal(copied, judged(copied, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("candidate", ["resident", "disk"])
def test_texts_are_encoded_as_by_the_libraries(
    pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch, dtype: str, candidate: str
) -> None:
    monkeypatch.setattr(loading, "plan_load", on_a_gpu(candidate))
    pipe = FluxPipeline.from_pretrained(pipelines["krea"], torch_dtype=DTYPES[dtype])
    with torch.no_grad():
        expected = pipe.encode_prompt("a fox in snow", max_sequence_length=16)
    with load_model(pipelines["krea"], device="cpu", dtype=dtype) as model:
        for found, right in zip(model.encode("a fox in snow", 16), expected, strict=False):
            assert found.dtype == right.dtype
            assert torch.equal(found, right)


def old_attention(tensors: Tensors) -> Tensors:
    """The names that VAEs were once saved with."""
    words = {
        ".to_q.": ".query.",
        ".to_k.": ".key.",
        ".to_v.": ".value.",
        ".to_out.0.": ".proj_attn.",
    }
    assert any(".to_out.0." in name for name in tensors)
    for new, old in words.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    return tensors


def test_weights_under_other_names_are_found(copied: Path) -> None:
    expected = judged(copied, "f32")
    changed(copied, "vae", old_attention)
    prefix = "text_model."
    for rename in (lambda n: n.removeprefix(prefix), lambda n: prefix + n.removeprefix(prefix)):
        changed(copied, "text_encoder", lambda t, r=rename: {r(n): v for n, v in t.items()})  # type: ignore[misc]
        equal(copied, expected, "f32")
    table = "shared.weight", "encoder.embed_tokens.weight"
    (held,) = {*table} & {*load_file(weights_file(copied, "text_encoder_2"))}
    (other,) = {*table} - {held}
    changed(copied, "text_encoder_2", lambda t: {**t, other: t[held].clone()})
    equal(copied, expected, "f32")
    changed(copied, "text_encoder_2", lambda t: {n: v for n, v in t.items() if n != held})
    equal(copied, expected, "f32")


def test_a_table_under_two_names_is_in_memory_once(pipelines: dict[str, Path]) -> None:
    with load_model(pipelines["krea"], device="cpu") as model:
        encoder = model.pipe.text_encoder_2
        assert encoder.shared.weight is encoder.encoder.embed_tokens.weight


@pytest.mark.parametrize("part", LIBRARIES)
@pytest.mark.parametrize("candidate", ["resident", "disk"])
def test_a_weight_that_is_missing_or_does_not_fit_is_refused(
    copied: Path, monkeypatch: pytest.MonkeyPatch, part: str, candidate: str
) -> None:
    monkeypatch.setattr(loading, "plan_load", on_a_gpu(candidate))
    whole = load_file(weights_file(copied, part))
    name = next(name for name in whole if "final_layer_norm" in name or "norm_out" in name)
    changed(copied, part, lambda t: {n: v for n, v in t.items() if n != name})
    with pytest.raises(CheckpointError, match=rf"{part}: .*norm.* missing, expected those of"):
        load_model(copied, device="cpu")
    shape = list(whole[name].shape)
    for wrong, words in (
        (torch.zeros(3, 1), "F32 [3, 1]"),
        (torch.zeros(shape, dtype=torch.int32), f"I32 {shape}"),
    ):
        changed(copied, part, lambda _, wrong=wrong: whole | {name: wrong})  # type: ignore[misc]
        said = re.escape(f"{part}: `{name}` is {words}, expected numbers {shape}")
        with pytest.raises(CheckpointError, match=said):
            load_model(copied, device="cpu")


def test_the_hosts_random_numbers_stay_its_own(pipelines: dict[str, Path]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_model(pipelines["krea"], device="cpu").close()
    assert torch.equal(torch.get_rng_state(), before)
