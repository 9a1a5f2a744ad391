"""Painting: the same seed is the same image, whatever the batch, the layout and the run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

import submerge
from submerge.inference import LoadedModel, load_model, read_metadata, run_inference
from submerge.profile import read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL: Any = {"width": 64, "height": 64, "steps": 2, "max_sequence_length": 16}
TEXT = "a fox in snow"


def pixels(image: Any) -> np.ndarray[Any, Any]:
    return np.asarray(image.image)


@pytest.fixture(scope="module")
def merged(pipelines: dict[str, Path]) -> Iterator[LoadedModel]:
    with load_model(pipelines["merged"], device="cpu", dtype="f32") as model:
        yield model


@pytest.mark.parametrize("name", ["schnell", "krea", "merged"])
def test_the_image_is_the_one_diffusers_paints(pipelines: dict[str, Path], name: str) -> None:
    pipe = FluxPipeline.from_pretrained(pipelines[name], torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        TEXT,
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=2.5,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(7),
    )
    with load_model(pipelines[name], device="cpu", dtype="f32") as model:
        result = run_inference(model, TEXT, SMALL | {"seed": 7, "guidance": 2.5})
    assert np.array_equal(pixels(result[0]), np.asarray(made.images[0]))


def test_images_do_not_depend_on_what_is_painted_beside_them(merged: LoadedModel) -> None:
    prompts = [TEXT, "a bowl of figs", "rain"]
    alone = run_inference(merged, prompts, SMALL | {"seeds": [3, 9]})
    assert [(image.prompt_index, image.seed) for image in alone] == [
        (prompt, seed) for prompt in range(3) for seed in (3, 9)
    ]
    together = run_inference(merged, prompts, SMALL | {"seeds": [3, 9], "batch": 4})
    for one, other in zip(alone, together, strict=True):
        assert np.abs(pixels(one).astype(int) - pixels(other).astype(int)).max() <= 1
    assert len({pixels(image).tobytes() for image in alone}) == 6


def test_true_guidance_needs_and_uses_the_negative_prompt(merged: LoadedModel) -> None:
    plain = run_inference(merged, TEXT, SMALL)
    more = {"negative_prompt": "grass", "true_cfg": 3.0}
    guided = run_inference(merged, TEXT, SMALL | more)
    assert not np.array_equal(pixels(plain[0]), pixels(guided[0]))
    with pytest.raises(submerge.RecipeError, match="no effect without true guidance"):
        run_inference(merged, TEXT, SMALL | {"negative_prompt": "grass"})


def test_an_interrupted_run_goes_on_where_it_stopped(merged: LoadedModel, tmp_path: Path) -> None:
    options = SMALL | {"seeds": [0, 1, 2]}
    with pytest.raises(submerge.Cancelled, match="step 3 of 6"):
        run_inference(merged, TEXT, options, output=tmp_path, callback=lambda done, _: done < 3)
    assert [path.name for path in tmp_path.iterdir()] == ["0000-0.png"]
    first = (tmp_path / "0000-0.png").read_bytes()
    steps: list[tuple[int, int]] = []
    result = run_inference(
        merged, TEXT, options, output=tmp_path, callback=lambda *step: steps.append(step)
    )
    assert result.resumed == 1
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (tmp_path / "0000-0.png").read_bytes() == first
    again = run_inference(merged, TEXT, options)
    for one, other in zip(result, again, strict=True):
        assert np.array_equal(pixels(one), pixels(other))
    changed = run_inference(merged, TEXT, options | {"steps": 1}, output=tmp_path)
    assert changed.resumed == 0


def test_the_png_says_how_it_was_painted(merged: LoadedModel, tmp_path: Path) -> None:
    result = run_inference(merged, "狐, a fox", SMALL | {"seed": 5}, output=tmp_path)
    path = result[0].path
    assert path == tmp_path / "0000-5.png"
    found = read_metadata(path)
    assert found == json.loads(json.dumps(result[0].metadata))
    assert found["prompt"] == "狐, a fox"
    assert found["model"]["recipe"]["method"] == {"linear": {"alpha": 0.5}}
    with Image.open(path) as image:
        lines = image.info["parameters"].splitlines()
    assert lines[0] == "狐, a fox"
    assert lines[-1].startswith("Steps: 2, Sampler: Euler, ")
    assert ", Seed: 5, Size: 64x64, " in lines[-1]


def test_prompts_at_the_edge_are_painted_and_what_is_cut_is_told(merged: LoadedModel) -> None:
    prompts = ["", "word " * 400, "雪の中の狐", "🦊", "\u202e\x00x"]
    result = run_inference(merged, prompts, SMALL)
    assert len(result) == len(prompts)
    assert [image.prompt_index for image in result if image.notes] == [1]
    assert "cut to 16" in result[1].notes[0]
    assert result.phases["text"] > 0


def test_memory_is_told_by_phase_and_not_in_the_file(merged: LoadedModel, tmp_path: Path) -> None:
    result = run_inference(merged, TEXT, SMALL, output=tmp_path / "one")
    assert set(result.memory) == set(result[0].memory) == {"text", "denoise", "decode"}
    held = read()[0].rss
    assert held is not None
    for most in result[0].memory.values():
        assert 0.5 * held < (most["rss"] or 0) < 2 * held
        assert most["vram"] is None
    assert result.to_dict()["images"][0]["memory"] == result[0].memory
    again = run_inference(merged, TEXT, SMALL, output=tmp_path / "two")
    files = [image.path.read_bytes() for image in (result[0], again[0]) if image.path]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"step": 4}, "did you mean `steps`"),
        ({"width": 65}, "multiple of"),
        ({"steps": 0}, "at least 1"),
        ({"seeds": [-1]}, "at least 0"),
        ({"guidance": float("nan")}, "finite"),
        ({"max_sequence_length": 513}, "from 1 to 512"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    merged: LoadedModel, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(submerge.RecipeError, match=said):
        run_inference(merged, TEXT, SMALL | options)


def test_defaults_fit_the_model_and_say_why(pipelines: dict[str, Path]) -> None:
    found = {}
    for name, path in pipelines.items():
        with load_model(path, device="cpu") as model:
            found[name] = model.defaults
    steps = {name: defaults.values["steps"] for name, defaults in found.items()}
    assert steps == {"schnell": 4, "krea": 28, "merged": 8}
    assert found["schnell"].values["max_sequence_length"] == 256
    assert "merge" in found["merged"].why


def test_a_fixed_shift_changes_the_image_and_leaves_the_scheduler(merged: LoadedModel) -> None:
    before = merged.pipe.scheduler
    plain = run_inference(merged, TEXT, SMALL)
    shifted = run_inference(merged, TEXT, SMALL | {"shift": 1.0})
    assert not np.array_equal(pixels(plain[0]), pixels(shifted[0]))
    assert merged.pipe.scheduler is before
