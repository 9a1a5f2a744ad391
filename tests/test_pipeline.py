"""Output pipelines: what is taken over from whom, and what is left."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import factory
from factory import KREA, SCHNELL, Flux
from planning import planned
from submerge.checkpoint.components import variant_of
from submerge.errors import CheckpointError, RecipeError, SubmergeError
from submerge.plan.sizes import bytes_in_words
from submerge.run import RunOptions, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    assert "5 items" in left
    assert all(f"`vae/{name}`" in left for name in (*extra, ".cache/"))


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


def without_weights(component: Path) -> None:
    (component / "model.safetensors").unlink()


def without_config(component: Path) -> None:
    (component / "config.json").unlink()


def cut_off(component: Path) -> None:
    path = component / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def a_shard_less(component: Path) -> None:
    one, two = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    (component / "model.safetensors").rename(component / one)
    index = {"metadata": {}, "weight_map": {"stand_in.weight": one, "b": two}}
    factory.write_json(component / "model.safetensors.index.json", index)


def nothing(component: Path) -> None:
    for path in component.iterdir():
        path.unlink()


def nowhere(component: Path) -> None:
    (component / "vocab.json").symlink_to(component / "gone")


def itself(component: Path) -> None:
    (component / "again").symlink_to(component)


def a_pipe(component: Path) -> None:
    os.mkfifo(component / "pipe")


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")
@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (without_weights, CheckpointError, "text_encoder_2: holds no weights, expected those of"),
        (
            without_config,
            CheckpointError,
            "text_encoder_2: holds no `config.json`, expected those of",
        ),
        (cut_off, CheckpointError, "text_encoder_2/model.safetensors: "),
        (a_shard_less, CheckpointError, "1 shard: `model-00002-of-00002.safetensors` of 2 missing"),
        (nothing, CheckpointError, "text_encoder_2: holds no files"),
        (nowhere, FileNotFoundError, "vocab.json"),
        (itself, CheckpointError, "again: is a link into a folder that it lies in"),
        (a_pipe, CheckpointError, "pipe: is not a regular file"),
    ],
)
def test_a_component_that_is_not_whole_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], kind: type[Exception], words: str
) -> None:
    models = pair(tmp_path)
    damage(tmp_path / "krea" / "text_encoder_2")
    with pytest.raises(kind, match=re.escape(words)):
        planned(tmp_path, models, {"output": {"pipeline_from": "krea"}}, "out")
    planned(tmp_path, models, {"output": {"pipeline_from": "schnell"}}, "out")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("where", ["text_encoder", "text_encoder/inside", "."])
def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, code: int
) -> None:
    models = pair(tmp_path)
    folder = tmp_path / "krea" / where
    factory.write_json(folder / "more.json", {})
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path == folder:
            raise OSError(code, os.strerror(code), str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))) as caught:
        planned(tmp_path, models, {"output": {"pipeline_from": "krea"}}, "out")
    assert caught.value.filename == str(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_linked_folders_are_carried(tmp_path: Path) -> None:
    models = pair(tmp_path)
    krea = tmp_path / "krea"
    (krea / "vae").rename(tmp_path / "vae")
    (krea / "vae").symlink_to(tmp_path / "vae")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "merges.txt").write_text("a b")
    (krea / "tokenizer" / "linked").symlink_to(tmp_path / "more")
    plan = planned(tmp_path, models, {"output": {"pipeline_from": "krea"}}, "out")
    assert len(plan.copies) == 10
    assert copies(plan)["tokenizer/linked/merges.txt"][0] == tmp_path / "more" / "merges.txt"


def test_what_lies_beside_the_components_is_listed(tmp_path: Path) -> None:
    models = pair(tmp_path)
    krea = tmp_path / "krea"
    broken(krea, {"image_encoder": [None, None]})
    (krea / "image_encoder").mkdir()
    for name in ("ae.safetensors", "README.md", "LICENSE.md", "dev_grid.jpg", ".gitattributes"):
        (krea / name).write_bytes(b"x")
    plan = planned(tmp_path, models, {"output": {"pipeline_from": "krea"}}, "out")
    (left,) = [text for text in plan.about.notes if text.startswith("not taken over")]
    assert left == (
        "not taken over from `krea`: 3 items: `ae.safetensors`, `dev_grid.jpg`, `image_encoder/`"
    )


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


def test_a_variant_takes_the_plain_name(tmp_path: Path) -> None:
    """What is written must open without being asked for the variant; its index names its shards."""
    models = pair(tmp_path)
    vae = tmp_path / "krea" / "vae"
    text = tmp_path / "krea" / "text_encoder"
    (vae / "diffusion_pytorch_model.safetensors").rename(
        vae / "diffusion_pytorch_model.fp16.safetensors"
    )
    held = (text / "model.safetensors").read_bytes()
    (text / "model.safetensors").unlink()
    for shard in ("model.fp16-00001-of-00001", "model.ema"):
        (text / f"{shard}.safetensors").write_bytes(held)
    index = {
        "metadata": {},
        "weight_map": {"stand_in.weight": "model.fp16-00001-of-00001.safetensors"},
    }
    factory.write_json(text / "model.safetensors.index.fp16.json", index)
    (text / "model.ema.safetensors").rename(text / "model.none.safetensors")
    plan = planned(tmp_path, models, {"alpha": 0.3, "output": {"pipeline_from": "krea"}}, "out")
    found = copies(plan)
    assert found["vae/diffusion_pytorch_model.safetensors"][0] == (
        vae / "diffusion_pytorch_model.fp16.safetensors"
    )
    assert found["text_encoder/model-00001-of-00001.safetensors"][0] == (
        text / "model.fp16-00001-of-00001.safetensors"
    )
    texts = {text.path: text.text for text in plan.texts}
    written = json.loads(texts["text_encoder/model.safetensors.index.json"])
    assert written["weight_map"] == {"stand_in.weight": "model-00001-of-00001.safetensors"}
    assert not any("fp16" in name or "none" in name for name in (*found, *texts))
    notes = "\n".join(plan.about.notes)
    assert "vae: its variant `fp16` is taken over under the plain name" in notes
    assert "not taken over from `krea`: 1 item: `text_encoder/model.none.safetensors`" in notes


@pytest.mark.parametrize(
    ("name", "variant", "plain"),
    [
        ("model.safetensors", None, None),
        ("model-00001-of-00002.safetensors", None, None),
        ("model.safetensors.index.json", None, None),
        ("pytorch_model.fp16.bin", None, None),
        ("model.fp16.safetensors", "fp16", "model.safetensors"),
        ("model.fp16-00001-of-00002.safetensors", "fp16", "model-00001-of-00002.safetensors"),
        ("model-00001-of-00002.fp16.safetensors", "fp16", "model-00001-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "fp16", "model.safetensors.index.json"),
        (
            "diffusion_pytorch_model.non_ema.safetensors",
            "non_ema",
            "diffusion_pytorch_model.safetensors",
        ),
    ],
)
def test_variants_are_told_by_their_names(
    name: str, variant: str | None, plain: str | None
) -> None:
    assert variant_of(name) == (None if variant is None else (variant, plain))
