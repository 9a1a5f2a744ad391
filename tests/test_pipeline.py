"""Output pipelines: what is taken over from whom, and what is left."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import factory
from factory import KREA, SCHNELL, Flux
from planning import planned
from submerge.errors import CheckpointError, RecipeError, SubmergeError
from submerge.plan.sizes import bytes_in_words
from submerge.run import RunOptions, fit

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.plan import Plan


def pair(folder: Path) -> dict[str, Flux | Path]:
    return {
        "schnell": factory.save_pipeline(folder / "schnell", SCHNELL),
        "krea": factory.save_pipeline(folder / "krea", KREA, shards=3),
    }


def copies(plan: Plan) -> dict[str, tuple[Path, str]]:
    return {copy.path: (copy.source, copy.how) for copy in plan.copies}


def note(plan: Plan) -> str:
    return next(text for text in plan.about.notes if text.startswith("scheduler"))


def test_components_come_from_the_model_named(tmp_path: Path) -> None:
    output = {"pipeline_from": "krea", "link": "link", "shard_size": 400_000}
    plan = planned(tmp_path, pair(tmp_path), {"alpha": 0.3, "output": output}, "out")
    krea = tmp_path / "krea"
    assert copies(plan) == {
        "scheduler/scheduler_config.json": (krea / "scheduler/scheduler_config.json", "copy"),
        "text_encoder/config.json": (krea / "text_encoder/config.json", "copy"),
        "text_encoder/model.safetensors": (krea / "text_encoder/model.safetensors", "link"),
        "text_encoder_2/config.json": (krea / "text_encoder_2/config.json", "copy"),
        "text_encoder_2/model.safetensors": (krea / "text_encoder_2/model.safetensors", "link"),
        "tokenizer/tokenizer_config.json": (krea / "tokenizer/tokenizer_config.json", "copy"),
        "tokenizer_2/tokenizer_config.json": (krea / "tokenizer_2/tokenizer_config.json", "copy"),
        "vae/config.json": (krea / "vae/config.json", "copy"),
        "vae/diffusion_pytorch_model.safetensors": (
            krea / "vae/diffusion_pytorch_model.safetensors",
            "link",
        ),
    }
    assert all(copy.size == copy.source.stat().st_size for copy in plan.copies)
    stem = "transformer/diffusion_pytorch_model"
    assert [f.path for f in plan.files] == [
        f"{stem}-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    texts = {text.path: text.text for text in plan.texts}
    assert set(texts) == {
        "transformer/config.json",
        f"{stem}.safetensors.index.json",
        "model_index.json",
        "README.md",
        "NOTICE",
    }
    assert json.loads(texts["model_index.json"]) == json.loads(
        (krea / "model_index.json").read_text()
    )
    index = json.loads(texts[f"{stem}.safetensors.index.json"])
    assert all("/" not in name for name in index["weight_map"].values())
    linked = sum(c.size for c in plan.copies if c.how == "link")
    assert plan.disk_bytes == plan.output_bytes + plan.copied_bytes - linked


@pytest.mark.parametrize(
    ("recipe", "scheduler", "words", "suits"),
    [
        ({}, "krea", "that of `krea`, shift 3.0, dynamic shifting", True),
        ({"guidance": "drop"}, "krea", "shift 3.0, dynamic shifting", False),
        ({"guidance": "drop"}, "schnell", "that of `schnell`, shift 1.0, static shifting", True),
        ({}, "schnell", "shift 1.0, static shifting", False),
    ],
)
def test_the_scheduler_is_named_with_its_shift(
    tmp_path: Path, recipe: dict[str, Any], scheduler: str, words: str, *, suits: bool
) -> None:
    output = {"pipeline_from": "krea", "scheduler_from": scheduler}
    plan = planned(tmp_path, pair(tmp_path), {"alpha": 0.3, "output": output, **recipe}, "out")
    path = "scheduler/scheduler_config.json"
    assert copies(plan)[path][0] == tmp_path / scheduler / path
    assert words in note(plan)
    assert ("trained for" in note(plan)) != suits


def test_a_pipeline_of_no_model_is_named_by_its_folder(tmp_path: Path) -> None:
    factory.save_pipeline(tmp_path / "base", KREA)
    models: dict[str, Flux | Path] = {"s": SCHNELL, "k": KREA}
    output = {"pipeline_from": str(tmp_path / "base")}
    plan = planned(tmp_path, models, {"alpha": 0.3, "output": output}, "out")
    assert len(plan.copies) == 9
    assert json.loads(plan.files[0].metadata["submerge.recipe"])["output"] == {
        "pipeline_from": "base"
    }


def test_weights_in_other_forms_are_left_and_listed(tmp_path: Path) -> None:
    models = pair(tmp_path)
    vae = tmp_path / "krea" / "vae"
    extra = (
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.bin",
        "flax_model.msgpack",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    )
    for name in extra:
        (vae / name).write_bytes(b"x")
    (vae / ".cache").mkdir()
    (vae / ".cache" / "lock").write_bytes(b"")
    tokenizer = tmp_path / "krea" / "tokenizer" / "nested"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text("{}")
    only_bin = tmp_path / "krea" / "text_encoder"
    (only_bin / "model.safetensors").rename(only_bin / "pytorch_model.bin")
    plan = planned(tmp_path, models, {"output": {"pipeline_from": "krea"}}, "out")
    paths = set(copies(plan))
    assert "tokenizer/nested/vocab.json" in paths
    assert "text_encoder/pytorch_model.bin" in paths
    assert "vae/diffusion_pytorch_model.safetensors" in paths
    assert not {f"vae/{name}" for name in extra} & paths
    assert not any(".cache" in path for path in paths)
    (left,) = [text for text in plan.about.notes if text.startswith("not taken over")]
    assert "4 files" in left
    assert all(name in left for name in extra)


def test_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    models = pair(tmp_path)
    weights = tmp_path / "krea" / "vae" / "diffusion_pytorch_model.safetensors"
    blob = tmp_path / "blob"
    weights.rename(blob)
    weights.symlink_to(blob)
    plan = planned(tmp_path, models, {"output": {"pipeline_from": "krea"}}, "out")
    assert copies(plan)["vae/diffusion_pytorch_model.safetensors"] == (blob, "auto")


def broken(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("change", "output", "kind", "message"),
    [
        ({}, {"pipeline_from": "./nowhere"}, RecipeError, "`./nowhere` is not part of a diffusers"),
        (
            {"transformer": ["diffusers", "SD3Transformer2DModel"]},
            {"pipeline_from": "krea"},
            CheckpointError,
            "expected ['diffusers', 'FluxTransformer2DModel']",
        ),
        (
            {"../evil": ["transformers", "CLIPTextModel"]},
            {"pipeline_from": "krea"},
            CheckpointError,
            "the component `../evil` is no plain name",
        ),
        (
            {"image_encoder": ["transformers", "CLIPVisionModel"]},
            {"pipeline_from": "krea"},
            CheckpointError,
            "is missing",
        ),
    ],
)
def test_refusals(
    tmp_path: Path,
    change: dict[str, Any],
    output: dict[str, str],
    kind: type[SubmergeError],
    message: str,
) -> None:
    models = pair(tmp_path)
    broken(tmp_path / "krea", change)
    with pytest.raises(kind) as caught:
        planned(tmp_path, models, {"output": output}, "out")
    assert message in caught.value.message
    assert caught.value.hint


def test_components_that_are_not_there_are_passed_over(tmp_path: Path) -> None:
    models = pair(tmp_path)
    broken(tmp_path / "krea", {"image_encoder": [None, None], "_name_or_path": "/home/x"})
    plan = planned(tmp_path, models, {"output": {"pipeline_from": "krea"}}, "out")
    text = next(t.text for t in plan.texts if t.path == "model_index.json")
    assert json.loads(text)["image_encoder"] == [None, None]
    assert "_name_or_path" not in text


def test_describe_names_what_is_written_and_what_it_takes(tmp_path: Path) -> None:
    output = {"pipeline_from": "krea"}
    plan = planned(tmp_path, pair(tmp_path), {"alpha": 0.3, "output": output}, "out")
    running = fit(plan, RunOptions(threads=3, memory_budget="4MiB"))
    text = plan.describe(running)
    assert "result = 0.70 * schnell + 0.30 * krea" in text
    assert "guidance  keep: krea; guidance_embeds true" in text
    assert "transformer/diffusion_pytorch_model.safetensors" in text
    assert "9 files taken over" in text
    memory = bytes_in_words(running.working_bytes)
    assert running.working_bytes <= 4 << 20
    assert f"{memory} of windows and buffers (3 threads, up to 2 operands at a time)" in text
    assert "memory" not in plan.describe()  # how it is run is not the plan's business
    assert "licence   flux-1-dev-non-commercial-license (from krea)" in text
    assert "shift 3.0, dynamic shifting" in text
