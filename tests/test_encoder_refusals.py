"""Parts of adapters for text encoders that do not fit: nothing is written, or they are listed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import adapter_files as files
import factory
from encoder_files import (
    ATTN,
    CLIP,
    FC,
    SELF,
    SIZES,
    TO_Q,
    assert_baked,
    clip,
    deltas,
    dotted,
    factors,
    kohya,
    pipeline,
)
from factory import Array
from submerge.errors import AdapterError, RecipeError
from submerge.lora import bake

if TYPE_CHECKING:
    from pathlib import Path


def wrong_shape() -> dict[str, Array]:
    return {
        k: a[:, :-1] if "down" in k else a for k, a in kohya("lora_te1_text_model_", ATTN).items()
    }


def partnerless() -> dict[str, Array]:
    return {k: a for k, a in kohya("lora_te1_text_model_", ATTN).items() if "up" not in k}


REFUSED: dict[str, tuple[dict[str, Array], str]] = {
    "another model's shape": (
        wrong_shape(),
        r"lora_down\.weight`: expected \[4, 24\], got \[4, 23\]",
    ),
    "no partner": (partnerless(), "`up` missing beside"),
    "an unknown module": (
        files.kohya({"encoder.layers.7.mlp.fc1": factors(FC)[FC]}, None, "lora_te1_text_model_"),
        r"2 keys: .* without a place in the model \(no module of text_encoder\)",
    ),
    "twice": (
        kohya("lora_te1_text_model_", ATTN) | dotted("text_encoder.", ATTN),
        "are one module of text_encoder, expected it once",
    ),
    "of no floats": (
        {"lora_te1_text_model_embeddings_position_ids.diff": files.draw(1, 1, 7)},
        "no module of text_encoder",
    ),
    "a kind that is refused": (
        {"lora_te1_text_model_encoder_layers_0_mlp_fc1.oft_blocks": files.draw(1, 4, 4)},
        "OFT",
    ),
    "an alpha that is NaN": (
        kohya("lora_te1_text_model_", ATTN, alpha=np.nan),
        "alpha is nan, expected a finite number",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    arrays, message = REFUSED[case]
    source = pipeline(tmp_path / "krea")
    style = files.save(tmp_path / "style.safetensors", arrays)
    with pytest.raises(AdapterError, match=message) as refused:
        bake(source, [str(style)], tmp_path / "out")
    assert refused.value.hint
    assert not (tmp_path / "out").exists()


def test_keys_of_encoders_are_allowed_by_name(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = kohya("lora_te1_text_model_", ATTN) | {
        "lora_te1_text_projection.diff": files.draw(1, 3)
    }
    style = files.save(tmp_path / "style.safetensors", arrays)
    adapter = {"path": str(style), "allow": ["lora_te1_text_projection"]}
    report = bake(source, [adapter], tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=0.5))
    (left,) = [gone for gone in report.summary["unused"] if gone["model"] == "style"]
    assert left["tensors"] == ("lora_te1_text_projection.diff",)


def test_encoders_that_are_no_safetensors_are_left(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    (source / "text_encoder/model.safetensors").rename(source / "text_encoder/pytorch_model.bin")
    arrays = kohya("lora_te1_text_model_", ATTN) | kohya("lora_te3_", SELF)
    style = files.save(tmp_path / "style.safetensors", arrays)
    report = bake(source, [str(style)], tmp_path / "out")
    assert [gone["reason"] for gone in report.summary["unused"]] == [f"for {CLIP}"]
    assert (tmp_path / "out/text_encoder/pytorch_model.bin").exists()


def test_an_encoder_in_integers_is_refused(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = clip()
    arrays[f"text_model.{ATTN}.weight"] = np.ones(SIZES[ATTN], dtype=np.int8)
    factory.write(source / "text_encoder/model.safetensors", arrays)
    style = files.save(tmp_path / "style.safetensors", kohya("lora_te1_text_model_", ATTN))
    with pytest.raises(AdapterError, match="which is I8, expected floats"):
        bake(source, [str(style)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_encoders_cannot_be_selected_where_none_is_written(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = {
        f"{TO_Q}.lora_A.weight": files.draw(1, 4, 64),
        f"{TO_Q}.lora_B.weight": files.draw(2, 64, 4),
    }
    style = files.save(tmp_path / "style.safetensors", arrays)
    adapter = {"path": str(style), "scale": {"text_encoder": 0.5, "default": 1}}
    with pytest.raises(RecipeError, match="text_encoder"):
        bake(source, [adapter], tmp_path / "out.safetensors")
