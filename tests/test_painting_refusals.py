"""What is said when images are asked for in a way that they cannot be painted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click
import pytest

import factory
import submerge
from asking import beside, loading, options, picture, refuse, repeated
from factory import KREA
from submerge import cli, inference
from submerge.errors import CheckpointError, LayoutError, PlanError, RecipeError
from submerge.inference import InferenceOptions
from submerge.inference.parts import find_parts

if TYPE_CHECKING:
    from pathlib import Path

    from asking import Refusal

REFUSED: dict[str, Refusal] = {
    # Options of images.
    "options that are a number": (
        lambda _: lambda: InferenceOptions.of(3),  # type: ignore[arg-type]
        RecipeError, "options: expected a mapping, got 3", None,
    ),
    "an unknown option": (
        options(stepz=4), RecipeError, "options: unknown field `stepz`, expected one of `steps`, ",
        "did you mean `steps`?",
    ),
    "no steps": (
        options(steps=0), RecipeError,
        "options.steps: expected a whole number of at least 1, got 0", None,
    ),
    "half an image": (
        options(images_per_prompt=0.5), RecipeError,
        "options.images_per_prompt: expected a whole number, got 0.5", None,
    ),
    "too many tokens": (
        options(max_sequence_length=513), RecipeError,
        "options.max_sequence_length: expected a whole number from 1 to 512, got 513", None,
    ),
    "a negative seed": (
        options(seed=-1), RecipeError,
        "options.seed: expected a whole number of at least 0, got -1", None,
    ),
    "seeds that are a number": (
        options(seeds=3), RecipeError, "options.seeds: expected a list, got 3",
        "`seed` takes one",
    ),
    "seeds that are a text": (
        options(seeds="12"), RecipeError,
        "options.seeds: expected a list, got the text `12`", "`seed` takes one",
    ),
    "no seeds": (
        options(seeds=[]), RecipeError,
        "options.seeds: expected at least 1 item, got 0",
        "`seed` takes one",
    ),
    "LoRAs without scales": (
        options(loras=["a.safetensors"]), RecipeError,
        "options.loras: expected a mapping, got a list of 1 item", "give each file its scale",
    ),
    "a prompt against nothing": (
        options(negative_prompt="blur"), RecipeError,
        ("options.negative_prompt: has no effect without true guidance, expected `true_cfg` above "
        "1, got nothing"), "add `true_cfg`, 3.5 for instance",
    ),
    "a prompt that is a number": (
        lambda _: lambda: submerge.run_inference("m", ["a", 3]),  # type: ignore[list-item]
        RecipeError, r"prompts\[1\]: expected a text, got 3", None,
    ),
    # Loading.
    "an unknown keyword": (
        loading(batches=2), TypeError, "load_model: unknown keyword `batches`, expected batch", None
    ),
    "a quantization that is not there": (
        loading(quantization="int2"), RecipeError,
        "quantization: expected `auto`, `fp8`, `int8`, `int4` or nothing, got the text `int2`",
        None,
    ),
    "a dtype that is not there": (
        loading(dtype="f64"), RecipeError,
        "dtype: expected `auto`, `bf16`, `f16` or `f32`, got the text `f64`", None,
    ),
    "a budget of the disk": (
        loading(memory_budget={"disk": "1GB"}), RecipeError,
        "memory_budget: expected `vram` and `ram`, got `disk`", None,
    ),
    "a budget too small": (
        loading(memory_budget="1MB"), PlanError,
        "memory_budget: .* at the least, and nothing needs less",
        "the smallest budget that would do: ",
    ),
    "a transformer alone": (
        lambda b: lambda: inference.plan_loading(b.krea, device="cpu"), RecipeError,
        ".*krea.safetensors: is a transformer alone, expected a pipeline or `components`",
        "name a FLUX.1 pipeline folder as `components`",
    ),
    "components of nothing": (
        lambda b: lambda: inference.plan_loading(b.krea, device="cpu", components=b.folder),
        RecipeError, ("components: `.*out` is no diffusers pipeline, expected a folder with"
        " `model_index.json`"), None,
    ),
    "components of another pipeline": (
        beside(lambda f: factory.write_json(f / "model_index.json", {"_class_name": "Other"})),
        CheckpointError, ".*model_index.json: the pipeline is `Other`, expected `FluxPipeline`",
        "take the components of a FLUX.1 text-to-image pipeline",
    ),
    "components that are missing": (
        beside(lambda f: (f / "text_encoder" / "config.json").unlink()), CheckpointError,
        ".*pipeline: 1 component: `text_encoder` missing, expected the folders of a whole pipeline",
        "download the whole pipeline",
    ),
    "a model that paints into images": (
        lambda b: lambda: inference.plan_loading(
            factory.save_file(b.root / "fill.safetensors", replace(KREA, channels=384)),
            device="cpu",
        ),
        LayoutError, ".*fill.safetensors: is .*, expected a FLUX.1 text-to-image transformer",
        "it paints from further images",
    ),
    # Images that were painted.
    "an image that is none": (
        picture(b"not a picture"), CheckpointError,
        ".*p.png: expected a sound picture: ", None,
    ),
    "an image of another program": (
        picture(format="other/1"), CheckpointError,
        ".*p.png: metadata: expected the format `submerge-image/1`, got `other/1`",
        "this is not what submerge writes for `image`",
    ),
    # Painting again.
    "an evaluation that is no JSON": (
        repeated(b"\xff{"), RecipeError,
        ".*evaluation.json: byte 0 is not UTF-8, expected a JSON doc", None,
    ),
    "an evaluation of depths": (
        repeated(b"[" * 100_000), RecipeError,
        ".*evaluation.json: nested deeper than 32 levels, expected a JSON doc", None,
    ),
    "an evaluation of another format": (
        repeated({"format": "x"}), RecipeError,
        ".*evaluation.json: expected the format `submerge-evaluation/1`, got `x`",
        "this is not what submerge writes for `evaluation`",
    ),
    "an evaluation without images": (
        repeated({"images": []}), RecipeError,
        "images: expected at least one image in the evaluation, got none", None,
    ),
    "an image that was replaced": (
        repeated(sha256="0" * 64), CheckpointError,
        ".*x.png: expected the sha256 0000000000000000…, got [0-9a-f]{16}…",
        "the image is not the one that was evaluated",
    ),
    "an image that records too little": (
        repeated(metadata={"options": {"controlnet": {"model": "x"}}}), RecipeError,
        (".*x.png: painted with 1 option: `controlnet`, whose values it does not hold; expected one"
        " that can be repeated"), None,
    ),
    "a model that is not in it": (
        repeated(models={"n": "x"}), RecipeError, "models: expected `m`, got `n`", None
    ),
    "a model that lies nowhere": (
        repeated(), RecipeError, "models: expected the place of 1 model: `m`, got none",
        "an image does not record where its model lies: name it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_said_what_cannot_be(tmp_path: Path, name: str) -> None:
    refuse(tmp_path, REFUSED[name])


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "3", "null", '[4, {"units": []}]'])
def test_what_others_wrote_into_a_header_is_passed_over(tmp_path: Path, text: str) -> None:
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    told = dict.fromkeys(("submerge.inputs", "submerge.recipe"), text)
    path = factory.write(tmp_path / "m.safetensors", factory.tensors(KREA), told)
    parts = find_parts(path, folder)
    assert not parts.few_step_parent
    assert parts.recipe in (None, 3, [4, {"units": []}])
    assert inference.plan_loading(path, components=folder, device="cpu").dtype == "bfloat16"


# Commands.
COMMANDS: dict[str, tuple[list[str], str]] = {
    "a LoRA's scale": (
        ["generate", "m", "-p", "a", "-o", "out", "--lora", "a.safetensors=strong"],
        "expected FILE or FILE=SCALE, got `a.safetensors=strong`",
    ),
    "a size": (
        ["generate", "m", "-p", "a", "-o", "out", "--size", "big"],
        "expected WIDTHxHEIGHT, got `big`",
    ),
    "no prompt": (["generate", "m", "-o", "out"], "expected a prompt"),
    "seeds": (
        ["test", "m", "-o", "out", "--seeds", "1,b"],
        "expected numbers with commas between: invalid literal",
    ),
    "pixels": (
        ["test", "m", "-o", "out", "--size", "1024by768"],
        "expected `1024` or `1024x768`, got `1024by768`",
    ),
    "places": (
        ["reproduce", ".", "--model", "a=x", "--model", "b"],
        "expected NAME=PATH, or one PATH for all",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_commands_are_refused(name: str) -> None:
    arguments, message = COMMANDS[name]
    with pytest.raises(click.ClickException) as caught:
        cli.app.main(arguments, standalone_mode=False)
    assert message in caught.value.format_message()
    assert caught.value.exit_code == 2


def test_a_tag_that_no_prompt_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["test", "m", "-o", str(tmp_path / "out"), "--tag", "foxes"]) == 2
    error = capsys.readouterr().err
    assert "--tag: no prompt has 1 tag: `foxes`" in error
    assert "hint: the prompts have " in error


def test_a_file_of_prompts_that_is_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xff\xfe")
    assert cli._run(["generate", "m", "-o", str(tmp_path / "out"), "--prompts", str(path)]) == 2
    assert f"{path}: expected prompts as UTF-8 text, got other bytes" in capsys.readouterr().err
