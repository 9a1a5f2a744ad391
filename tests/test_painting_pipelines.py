"""Pipelines as they are found: what cannot paint is refused before torch is imported."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
import submerge
from factory import KREA
from submerge import inference
from submerge.errors import CheckpointError, LayoutError, PlanError, RecipeError
from submerge.inference.parts import find_parts, with_lent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


measuring: Any = importlib.import_module("submerge.measure")


# Pipelines that the libraries would fail at after they have loaded everything.
def config(component: str, **fields: Any) -> Callable[[Path], object]:
    """Change fields of a component's config."""

    def change(folder: Path) -> None:
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        path = folder / component / name
        factory.write_json(path, json.loads(path.read_text(encoding="utf-8")) | fields)

    return change


def index(**fields: Any) -> Callable[[Path], object]:
    """Change fields of the index."""

    def change(folder: Path) -> None:
        path = folder / "model_index.json"
        factory.write_json(path, json.loads(path.read_text(encoding="utf-8")) | fields)

    return change


def codes(folder: Path) -> None:
    tensors = {"lm.weight": np.ones((4, 4), np.int8)}
    factory.write(folder / "text_encoder_2" / "model.safetensors", tensors)


UNFIT: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "another scheduler of flow matching": (
        index(scheduler=["diffusers", "FlowMatchHeunDiscreteScheduler"]),
        "the scheduler is `FlowMatchHeunDiscreteScheduler`, expected `FlowMatchEuler",
        "name one as `components`",
    ),
    "another VAE": (
        index(vae=["diffusers", "AutoencoderTiny"]),
        "the vae is `AutoencoderTiny`, expected `AutoencoderKL`", "name one as `components`",
    ),
    "no tokenizer": (
        index(tokenizer=[None, None]), "the tokenizer is `None`, expected `CLIPTokenizer`",
        "name one as `components`",
    ),
    "a pipeline of FLUX.2": (
        index(_class_name="Flux2Pipeline"), "the pipeline is `Flux2Pipeline`, expected",
        "a FLUX.1 text-to-image pipeline",
    ),
    "a narrower T5": (
        config("text_encoder_2", d_model=40), "`d_model`: .* expected 48, got 40",
        "the components of the model it was made from",
    ),
    "a wider CLIP": (
        config("text_encoder", hidden_size=768), "`hidden_size`: .* expected 32, got 768",
        "the components of the model it was made from",
    ),
    "a VAE of other channels": (
        config("vae", latent_channels=4), "`latent_channels`: .* expected 16, got 4",
        "the components of the model it was made from",
    ),
    "a VAE that does not shift": (
        config("vae", shift_factor=None), "`shift_factor`: expected a number, got nothing",
        "no VAE of FLUX.1",
    ),
    "a size in words": (
        config("text_encoder_2", d_ff="wide"), "`d_ff`: expected a whole number, got the text",
        "",
    ),
    "levels that are a number": (
        config("vae", block_out_channels=3), "`block_out_channels`: expected whole numbers, got 3",
        "",
    ),
    "a text encoder of codes": (
        codes, "is quantised, expected numbers, got 1 tensor: `lm.weight` of codes",
        "name another pipeline as `components`",
    ),
    "a text encoder that bitsandbytes made": (
        # Its config says so, and its weights are floats.
        config("text_encoder_2", quantization_config={"quant_method": "bitsandbytes"}),
        r"is quantised \(bitsandbytes\), expected numbers", "as it was published",
    ),
    "a text encoder in a form that is not read": (
        config("text_encoder_2", quantization_config={"quant_method": "quanto"}),
        "is a model quantised with `quanto` by its config.json, expected a form that is read",
        "as it was published",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_a_pipeline_that_cannot_paint_is_refused_from_its_headers(
    tmp_path: Path, name: str
) -> None:
    change, message, hint = UNFIT[name]
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    inference.plan_loading(folder, device="cpu")
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        inference.plan_loading(folder, device="cpu")
    assert hint in str(caught.value.hint or "")
    assert str(folder) in caught.value.message


HOW: dict[str, tuple[dict[str, Any], str]] = {
    "a device by another name": ({"device": "gpu"}, "device: expected `auto`, .*, got the text"),
    "a device that is a number": ({"device": 0}, "device: expected `auto`, .*, got 0"),
    "half a pixel": ({"width": 64.5}, "width: expected a whole number of at least 1, got 64.5"),
    "no height": ({"height": 0}, "height: expected a whole number of at least 1, got 0"),
    "a width between patches": ({"width": 1001}, "width: expected a multiple of 16, got 1001"),
    "components that are a number": ({"components": 3}, "components: expected a path, got 3"),
    "a dtype that is a number": ({"dtype": 16}, "dtype: expected `auto`, .*, got 16"),
}


@pytest.mark.parametrize("name", HOW)
def test_what_is_asked_of_a_loading_is_checked_before_it(tmp_path: Path, name: str) -> None:
    how, message = HOW[name]
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    with pytest.raises(RecipeError, match=message):
        inference.plan_loading(folder, **({"device": "cpu"} | how))


def test_a_transformer_in_float64_is_refused_by_name(tmp_path: Path) -> None:
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    held = {
        name: array.astype(np.float64 if name.endswith("to_q.weight") else np.float32)
        for name, array in factory.tensors(KREA).items()
    }
    path = factory.write(tmp_path / "m.safetensors", held)
    with pytest.raises(LayoutError, match=r"m\.safetensors: 4 tensors: .* in F64, expected one of"):
        inference.plan_loading(path, components=folder, device="cpu")


def test_refusals_come_before_the_libraries(tmp_path: Path) -> None:
    """In a process in which importing torch would be an error of another kind."""
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    index(scheduler=["diffusers", "FlowMatchHeunDiscreteScheduler"])(folder)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import submerge\n"
        "for how in ({}, {'device': 'gpu'}, {'dtype': 'f64'}, {'memory_budget': 'much'}):\n"
        "    try: submerge.load_model(sys.argv[1], **how)\n"
        "    except submerge.SubmergeError as error: print(str(error).splitlines()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    said = done.stdout.splitlines()
    assert len(said) == 4
    assert all("torch" not in line for line in said)
    assert "FlowMatchHeunDiscreteScheduler" in said[0]
    assert said[1].startswith("device: ")


VERBS = {
    "load": "submerge.load_model(path, **how)",
    "paint": "submerge.cli._run(['generate', path, '-p', 'a fox', *asked])",
    "measure": "submerge.measure(path, load=how)",
    "measure a parent": "submerge.measure(path, parents=[path], load=how)",
    "test": "submerge.evaluate_guidance(path, ['a fox'], parents={'one': path}, load=how)",
}


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "mps"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_budget_in_which_nothing_fits_is_refused_before_the_libraries(
    tmp_path: Path, verb: str, device: str
) -> None:
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    program = (
        "import sys; sys.modules['torch'] = sys.modules['diffusers'] = None\n"
        "import submerge, submerge.cli\n"
        "path, device = sys.argv[1:]\n"
        "how = {'device': device, 'memory_budget': '1MB'}\n"
        "asked = ['--device', device, '--memory-budget', '1MB']\n"
        f"try: {VERBS[verb]}\n"
        "except submerge.SubmergeError as error: print(error, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, str(folder), device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pool = "ram" if device != "cuda" else "vram"
    assert f"of {pool}, and 1.0 MB are allowed at the least, and nothing needs less" in done.stderr
    assert f"hint: the smallest budget that would do: {pool} " in done.stderr
    assert "torch" not in done.stderr


def test_what_the_libraries_take_is_not_guessed_against_the_user(tmp_path: Path) -> None:
    """A budget that would do if they took nothing is for the loading to judge, and no less is."""
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    small: Any = {"device": "cpu", "width": 32, "height": 32, "tokens": 16}
    with pytest.raises(PlanError) as refused:
        inference.plan_loading(folder, memory_budget="1MB", **small)
    named = int(re.findall(r"ram (\d+)B", refused.value.hint or "")[0]) - inference.Machine().base
    inference.check_loading(folder, memory_budget=named, **small)
    with pytest.raises(PlanError):
        inference.check_loading(folder, memory_budget=named - 1, **small)
    with pytest.raises(PlanError):  # what is painted counts
        inference.check_loading(folder, memory_budget=named, device="cpu")


def test_a_measurement_is_planned_for_what_it_paints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(measuring, "check_loading", lambda _, **how: asked.append(how))
    monkeypatch.setattr(measuring, "_child", lambda _, job: asked.append(job["load"]))
    monkeypatch.setattr(measuring, "gathered", lambda *_: None)
    workloads = ["size=32x64,batch=2", "size=48x16,max_sequence_length=16"]
    submerge.measure(folder, workloads=workloads, load={"memory_budget": "2GB"}, rounds=1)
    size = {"width": 48, "height": 64, "batch": 2, "tokens": 16}
    assert asked == [size | {"memory_budget": "2GB"}] * 2


def test_a_measurement_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = factory.save_pipeline(tmp_path / "a", KREA)
    other = factory.save_pipeline(tmp_path / "b", KREA)
    now = [0.0]
    told: list[str] = []
    monkeypatch.setattr("submerge.progress.time.monotonic", lambda: now[0])

    def child(*_: object) -> None:
        now[0] += 50

    monkeypatch.setattr(measuring, "_child", child)
    monkeypatch.setattr(measuring, "gathered", lambda *_: None)
    load: Any = {"device": "cpu"}
    submerge.measure(folder, parents=[other], rounds=2, load=load, notify=told.append)
    assert told == [
        "measuring a, round 1 of 2",
        "measuring b, round 1 of 2, about 2 min 30 s left",
        "measuring a, round 2 of 2, about 1 min 40 s left",
        "measuring b, round 2 of 2, about 50 s left",
    ]


@pytest.mark.parametrize("kind", ["FluxKontextPipeline", "FluxImg2ImgPipeline", "FluxFillPipeline"])
def test_the_components_of_every_pipeline_of_the_family_paint(tmp_path: Path, kind: str) -> None:
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    index(_class_name=kind)(folder)
    assert inference.plan_loading(folder, device="cpu").chosen.name == "resident"


def test_a_variant_is_opened_where_there_is_nothing_else(tmp_path: Path) -> None:
    folder = factory.save_pipeline(tmp_path / "pipeline", KREA)
    plain = folder / "text_encoder" / "model.safetensors"
    shutil.copy(plain, plain.with_name("model.fp16.safetensors"))

    def opened() -> str:
        return find_parts(folder).beside.weights["text_encoder"].files[0].path.name

    assert opened() == "model.safetensors"
    plain.unlink()
    assert opened() == "model.fp16.safetensors"


def test_a_transformer_alone_is_lent_the_components_of_those_beside_it(tmp_path: Path) -> None:
    alone = factory.save_file(tmp_path / "m.safetensors", KREA)
    own = factory.save_pipeline(tmp_path / "own", KREA)
    other = factory.save_pipeline(tmp_path / "other", KREA)
    assert with_lent({}, alone, [alone, own, other]) == {"components": str(own)}
    given = {"components": str(other), "dtype": "bf16"}
    assert with_lent(given, alone, [alone, own]) == given
    assert with_lent(given, own, [alone, other]) == {"dtype": "bf16"}
    assert with_lent({}, alone, [alone]) == {}
