"""Parts of adapters for text encoders: added where a pipeline is written, against numpy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import adapter_files as files
import factory
import submerge
from encoder_files import (
    ATTN,
    CLIP,
    DENSE,
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
from factory import KREA, SCHNELL, Array
from submerge.errors import AdapterError
from submerge.lora import bake
from submerge.merge import plan

if TYPE_CHECKING:
    from pathlib import Path

NAMES: dict[str, tuple[dict[str, Array], float]] = {
    "kohya": (
        kohya("lora_te1_text_model_", ATTN, FC) | kohya("lora_te3_", SELF, DENSE),
        0.5,
    ),
    "kohya, CLIP alone": (kohya("lora_te_text_model_", ATTN, FC), 0.5),
    "onetrainer": (
        kohya("lora_te1_text_model_", ATTN, FC) | kohya("lora_te2_", SELF, DENSE),
        0.5,
    ),
    "comfyui": (
        files.comfyui(factors(ATTN, FC), "text_encoders.clip_l.transformer.text_model.")
        | files.comfyui(factors(SELF, DENSE), "text_encoders.t5xxl.transformer."),
        1.0,
    ),
    "diffusers": (
        dotted("text_encoder.text_model.", ATTN, FC) | dotted("text_encoder_2.", SELF, DENSE),
        1.0,
    ),
    "diffusers of transformers 5": (
        dotted("text_encoder.", ATTN, FC) | dotted("text_encoder_2.", SELF, DENSE),
        1.0,
    ),
    "peft": (
        dotted("base_model.model.text_encoder.text_model.", ATTN, FC)
        | dotted("base_model.model.text_encoder_2.", SELF, DENSE),
        1.0,
    ),
    "peft, CLIP alone": (dotted("base_model.model.text_model.", ATTN, FC), 1.0),
}


@pytest.mark.parametrize("before", ["text_model.", ""])
@pytest.mark.parametrize("names", NAMES)
def test_parts_in_every_format_are_added_to_the_encoders(
    tmp_path: Path, names: str, before: str
) -> None:
    arrays, scale = NAMES[names]
    source = pipeline(tmp_path / "krea", before=before)
    style = files.save(tmp_path / "style.safetensors", arrays)
    report = bake(source, [{"path": str(style), "scale": 0.5}], tmp_path / "out")
    modules = (ATTN, FC) if "alone" in names else (ATTN, FC, SELF, DENSE)
    assert_baked(tmp_path / "out", source, deltas(*modules, scale=0.5 * scale), before)
    assert "text_encoder: `style` in 2 tensors" in report.summary["notes"]
    assert not any(gone["model"] == "style" for gone in report.summary["unused"])
    assert not any("not applied" in note for note in report.summary["notes"])
    # The transformer has no part: its bytes are those of a conversion.
    theirs = factory.read(source / "transformer/diffusion_pytorch_model.safetensors")
    ours = factory.read(tmp_path / "out/transformer/diffusion_pytorch_model.safetensors")
    assert all(ours[name].tobytes() == array.tobytes() for name, array in theirs.items())


def test_only_the_files_that_change_are_made_anew(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = kohya("lora_te3_", DENSE) | {f"{TO_Q}.lora_A.weight": files.draw(1, 4, 64)}
    arrays[f"{TO_Q}.lora_B.weight"] = files.draw(2, 64, 4)
    style = files.save(tmp_path / "style.safetensors", arrays)
    recipe = {
        "models": {"krea": str(source)},
        "adapters": [str(style)],
        "output": {"pipeline_from": "krea"},
    }
    made = plan(recipe, tmp_path / "out")
    shard = "text_encoder_2/model-00002-of-00002.safetensors"
    assert [file.path for file in made.files][1:] == [shard]
    assert {"text_encoder/model.safetensors", "text_encoder_2/config.json"} <= {
        copy.path for copy in made.copies
    }
    assert shard not in {copy.path for copy in made.copies}
    submerge.merge(recipe, tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(DENSE, scale=0.5))
    index = "text_encoder_2/model.safetensors.index.json"
    assert (tmp_path / "out" / index).read_bytes() == (source / index).read_bytes()


def test_kinds_and_biases_are_those_of_the_transformer(tmp_path: Path) -> None:
    """DoRA, a difference of a bias and one of a norm; the magnitude's formula in numpy."""
    source = pipeline(tmp_path / "krea")
    te = "lora_te1_text_model_"
    q = te + ATTN.replace(".", "_")
    arrays = kohya(te, ATTN)
    arrays[f"{q}.dora_scale"] = 1 + np.abs(files.draw("m", SIZES[ATTN][0], 1))
    arrays[f"{q}.diff_b"] = files.draw("b", SIZES[ATTN][0])
    arrays[f"{te}final_layer_norm.diff"] = files.draw("f", 24)
    style = files.save(tmp_path / "style.safetensors", arrays)
    bake(source, [str(style)], tmp_path / "out")
    weight = files.wide(clip()[f"text_model.{ATTN}.weight"])
    summed = weight + deltas(ATTN, scale=0.5)[f"{ATTN}.weight"]
    norm = np.linalg.norm(summed, axis=1, keepdims=True) + 2.0**-23
    added = {
        f"{ATTN}.weight": summed * (files.wide(arrays[f"{q}.dora_scale"]) / norm) - weight,
        f"{ATTN}.bias": files.wide(arrays[f"{q}.diff_b"]),
        "final_layer_norm.weight": files.wide(arrays[f"{te}final_layer_norm.diff"]),
    }
    assert_baked(tmp_path / "out", source, added)


def test_ranks_and_alphas_are_those_the_metadata_has_for_the_encoder(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    config = {"r": 4, "lora_alpha": 12, "alpha_pattern": {"fc1": 2}}
    named = {f"text_encoder.{key}": value for key, value in config.items()}
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 99, **named})}
    arrays = dotted("text_encoder.text_model.", ATTN, FC)
    style = files.save(tmp_path / "style.safetensors", arrays, metadata)
    bake(source, [str(style)], tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=3.0) | deltas(FC, scale=0.5))


@pytest.mark.parametrize(
    ("scale", "first"),
    [
        ({"text_encoder": 0.25, "default": 1}, 0.25),
        ({"text_encoder.text_model.encoder": 0.5, "default": 0}, 0.5),
        ({"from": 0.75, "to": 0}, 0.75),
        ([0.125, 1, 1, 1], 0.125),
    ],
)
def test_strengths_may_name_encoders(tmp_path: Path, scale: Any, first: float) -> None:
    """A list or a gradient gives them its first number: they run before the blocks."""
    source = pipeline(tmp_path / "krea")
    style = files.save(tmp_path / "style.safetensors", kohya("lora_te1_text_model_", ATTN))
    bake(source, [{"path": str(style), "scale": scale}], tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=0.5 * first))


def test_at_strength_0_files_are_taken_over(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    style = files.save(tmp_path / "style.safetensors", kohya("lora_te1_text_model_", ATTN))
    bake(source, [{"path": str(style), "scale": 0}], tmp_path / "out")
    name = "text_encoder/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize(("onto", "baked"), [(None, True), ("krea", True), ("schnell", False)])
def test_a_merge_adds_them_to_the_encoders_it_writes(
    tmp_path: Path, onto: str | None, *, baked: bool
) -> None:
    """What is put onto another model than the one that gives the encoders has no place there."""
    source = pipeline(tmp_path / "krea")
    pipeline(tmp_path / "schnell", SCHNELL)
    arrays = kohya("lora_te1_text_model_", ATTN)
    arrays |= files.kohya(files.pairs(KREA, ["double_blocks.0.img_mlp.0"], layout="bfl"), None)
    style = files.save(tmp_path / "style.safetensors", arrays)
    adapter = {"path": str(style), **({} if onto is None else {"onto": onto})}
    recipe = {
        "models": {"schnell": str(tmp_path / "schnell"), "krea": str(source)},
        "adapters": [adapter],
        "output": {"pipeline_from": "krea"},
    }
    report = submerge.merge(recipe, tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=0.5) if baked else {})
    left = [gone["reason"] for gone in report.summary["unused"] if gone["model"] == "style"]
    assert left == ([] if baked else [f"for {CLIP}"])
    assert submerge.verify(tmp_path / "out", recipe=recipe).passed


def test_two_adapters_are_one_sum(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    one = files.save(tmp_path / "one.safetensors", kohya("lora_te1_text_model_", ATTN))
    other = files.save(tmp_path / "other.safetensors", dotted("text_encoder.", ATTN))
    bake(source, [str(one), {"path": str(other), "scale": -0.25}], tmp_path / "out")
    assert_baked(tmp_path / "out", source, deltas(ATTN, scale=0.5 - 0.25))


def test_what_is_no_pipeline_lists_them(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    arrays = kohya("lora_te1_text_model_", ATTN)
    alone = files.save(tmp_path / "alone.safetensors", arrays)
    with pytest.raises(AdapterError, match="changes nothing in the transformer") as refused:
        bake(source, [str(alone)], tmp_path / "out.safetensors")
    assert "`pipeline_from`" in str(refused.value.hint)
    both = arrays | {
        f"{TO_Q}.lora_A.weight": files.draw(1, 4, 64),
        f"{TO_Q}.lora_B.weight": files.draw(2, 64, 4),
    }
    style = files.save(tmp_path / "style.safetensors", both)
    report = bake(source, [str(style)], tmp_path / "out.safetensors")
    assert [gone["reason"] for gone in report.summary["unused"]] == [f"for {CLIP}"]


def test_the_bytes_do_not_depend_on_how_it_runs(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "krea")
    style = files.save(tmp_path / "style.safetensors", NAMES["kohya"][0])
    found = set()
    for at, how in enumerate(({"threads": 1, "chunk": 64}, {"threads": 4, "io": "mmap"}, {})):
        bake(source, [str(style)], tmp_path / str(at), **how)  # type: ignore[arg-type]
        made = sorted((tmp_path / str(at)).glob("text_encoder*/*"))
        found.add(b"".join(path.read_bytes() for path in made))
    assert len(found) == 1
