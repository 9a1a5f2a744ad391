"""What is said when models are to be judged, measured or exported in a way that they cannot be."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

import pytest

import factory
import submerge
from asking import exported, judged, loading, refuse, scorers, workload, wrote
from factory import SCHNELL
from refusals import Bench
from submerge import export, inference
from submerge.errors import CheckpointError, RecipeError, SubmergeError
from submerge.evaluate import run as judging
from submerge.evaluate.evaluation import Evaluation
from submerge.evaluate.scorers.reference import Lpips
from submerge.measure import measure
from submerge.page import images as pictures
from submerge.verify import Check, Verification

if TYPE_CHECKING:
    from pathlib import Path

    from asking import Refusal

without_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is not None, reason="of an installation without torch"
)

REFUSED: dict[str, Refusal] = {
    # Judging.
    "prompts of bytes": (
        judged(prompts=wrote("p.txt", b"\xff\xfe")), RecipeError,
        ".*p.txt: byte 0 is not UTF-8, expected prompts as text", None,
    ),
    "a prompt of depths": (
        judged(prompts=wrote("p.jsonl", b"[" * 100_000)), RecipeError,
        ".*p.jsonl: nested deeper than 32 levels, expected prompts", None,
    ),
    "tags that are a text": (
        judged(prompts=[{"text": "a", "tags": "b"}]), RecipeError,
        r"prompts\[0\].tags: expected a list, got ", None,
    ),
    "objects that are a text": (
        judged(prompts=[{"text": "a", "expect": {"objects": "b"}}]), RecipeError,
        r"prompts\[0\].expect.objects: expected a list, got ", None,
    ),
    "references for others": (
        judged(ground_truth={"b": None}), RecipeError, "ground_truth: no prompt has 1 id: `b`", None
    ),
    "too few references": (
        judged(ground_truth=[]), RecipeError,
        "ground_truth: expected an image for each of 1 prompts, got 0", None,
    ),
    "a folder without references": (
        judged(ground_truth=lambda b: b.folder), RecipeError,
        "ground_truth: expected `<id>.png` in `.*out`", None,
    ),
    "blurring without a classifier": (
        judged(options={"blur_unsafe": True}, scorers=[]), RecipeError,
        "options.blur_unsafe: no safety classifier runs, expected the scorer `unsafe`",
        "pip install",
    ),
    "parents of one name": (
        judged(names=("a b", "a  b")), RecipeError, "parents: names must differ, got 3 names: ",
        "name the parents: ",
    ),
    "a scorer that is a number": (
        scorers(3), RecipeError, "scorers: expected a name or a Scorer, got a int",
        "a Scorer has `name`, `unit`, `better`",
    ),
    "a scorer without weights": (
        scorers("clip"), RecipeError, "scorers: `clip` needs weights, expected `clip=PATH`", None
    ),
    "a scorer without a file": (
        scorers("clip=no/such/folder"), RecipeError,
        "scorers: no such file or folder, and no hub id: `no/such/folder`", "write `name=PATH`",
    ),
    "a distance without a file": (
        scorers("lpips-alex=no/where"), RecipeError,
        "scorers: expected the backbone's weights, got no file `no/where`", None,
    ),
    "a distance of another backbone": (
        lambda _: lambda: Lpips("resnet", "x"), RecipeError,
        "lpips: expected one of `alex`, .*, got `resnet`", None,
    ),
    "a scorer nobody knows": (
        scorers("clipp"), RecipeError, "scorers: expected one of .* names, got `clipp`",
        "did you mean `clip`?",
    ),
    "a scorer like no other": (
        scorers("zzzzzz"), RecipeError, "scorers: expected one of .* names, got `zzzzzz`",
        "known are ",
    ),
    "a scorer that is not there": (
        scorers("no_such_module:Scorer"), RecipeError,
        "scorers: `no_such_module:Scorer` cannot be imported: No module named", None,
    ),
    "a scorer that scores nothing": (
        scorers("json:dumps"), RecipeError, ("scorers: expected `json:dumps` to be a Scorer, got a"
        " function"), "a Scorer has `name`",
    ),
    "a scorer twice": (
        scorers("test_judging_refusals:Sharp"), RecipeError,
        "scorers: names must differ, got `sharpness` twice", None,
    ),
    # Measuring.
    "no rounds": (
        lambda b: lambda: measure(b.krea, rounds=0), RecipeError,
        "rounds: expected a whole number of at least 1, got 0", None,
    ),
    "a workload of no images": (
        workload({"images": 0}), RecipeError,
        "workload.images: expected a whole number of at least 1, got 0", None,
    ),
    "a workload unknown": (
        workload("stepz=4"), RecipeError,
        "workload: unknown field `stepz`, expected one of `images`, ",
        "did you mean `steps`?",
    ),
    "a workload of words": (
        workload("steps=four"), RecipeError,
        "workload.steps: expected a whole number, got the text `four`", None,
    ),
    "a workload of no size": (
        workload({"size": "big"}), RecipeError,
        "workload.size: expected `1024` or `1024x768`, got the text `big`", None,
    ),
    # Exporting.
    "an export nearly known": (
        exported("f8_e4m4"), RecipeError,
        "quantization: expected one of .*, got `f8_e4m4`", "did you mean `f8_e4m3`?",
    ),
    "an export in a misspelt format": (
        exported("q8_0!"), RecipeError, "quantization: expected one of .*, got `q8_0!`",
        "did you mean `q8_0`",
    ),
    "fp8 of blocks unknown": (
        lambda b: b.generic({"x": factory.tensors(SCHNELL)["proj_out.weight"]},
                            output={"dtype": "fp8"}, take="a"),
        RecipeError,
        ("recipe.output.dtype: `fp8` of a generic model, whose blocks are not known, expected"
        " `f8_e4m3` for all of it or another type"), None,
    ),
}  # fmt: skip


class Sharp:
    """A scorer of its own that bears the name of one that always runs."""

    name: str = "sharpness"
    unit: str = ""
    better: Literal["higher", "lower", "none"] = "higher"

    def score(self, images: Any, prompts: Any) -> Any:
        pytest.fail(f"asked about {len(images)} of {len(prompts)}, although its name is taken")


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_said_what_cannot_be(tmp_path: Path, name: str) -> None:
    refuse(tmp_path, REFUSED[name])


# Packages that are not there.
ABSENT: dict[str, tuple[Any, str, str]] = {
    "the hub": (
        lambda _: lambda: inference.plan_loading("owner/model", device="cpu"),
        "huggingface_hub: cannot be imported, expected to be installed: ",
        "pip install 'submerge[hub]'",
    ),
    "an accelerator's library": (
        loading(device="auto"), "torch: cannot be imported, expected to be installed: ",
        "pip install 'submerge[diffusers]'",
    ),
    "what paints": (
        judged(), "evaluate: expected the package `torch` to be installed, got none",
        "pip install 'submerge[evaluate]'",
    ),
    "what reads": (
        scorers("ocr"), "scorers: `ocr` needs the package `rapidocr`, got none",
        "pip install 'submerge[evaluate]'",
    ),
}  # fmt: skip


@without_torch
@pytest.mark.parametrize("name", ABSENT)
def test_a_package_that_is_not_installed_is_named(tmp_path: Path, name: str) -> None:
    make, message, hint = ABSENT[name]
    with pytest.raises(SubmergeError) as caught:
        make(Bench(tmp_path))()
    assert caught.value.message.startswith(message)
    assert caught.value.hint == hint


def test_pictures_need_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SubmergeError, match=r"images: Pillow is not installed") as caught:
        pictures._pillow()
    assert caught.value.hint == "pip install 'submerge[diffusers]'"


def test_an_export_that_reads_back_otherwise_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    failed = Verification(bench.out, (Check("finite", False, "3 elements are NaN"),))
    monkeypatch.setattr(export, "verify", lambda *_, **__: failed)
    with pytest.raises(CheckpointError) as caught:
        submerge.export_merged_model(bench.krea, bench.out)
    assert "out.safetensors: does not read back as it was written: " in caught.value.message
    assert "3 elements are NaN" in caught.value.message
    assert caught.value.hint == "the disk may be failing; export to another one"


def test_a_scorer_with_too_few_numbers_is_named() -> None:
    class Short(Sharp):
        name: str = "short"

        def score(self, images: Any, prompts: Any) -> Any:
            del images
            return [0.5] * (len(prompts) + 1)

    with pytest.raises(
        SubmergeError, match=r"scorer `short`: expected 0 numbers, got shape \(1,\)"
    ):
        judging._scored(Short(), [])


def test_an_evaluation_is_saved_beside_its_images(tmp_path: Path) -> None:
    row = {"model": "m", "prompt": "p", "seed": 0, "path": "images/m/p-0.png"}
    parts: dict[str, Any] = {field.name: [] for field in fields(Evaluation)}
    made = Evaluation(**parts | {"options": {}, "environment": {}, "images": [row]})
    with pytest.raises(RecipeError) as caught:
        made.save(tmp_path)
    assert caught.value.message == (
        f"{tmp_path}: expected the images of this evaluation, got no `images/m/p-0.png`"
    )
    assert caught.value.hint == "save into the folder that was given as `output`"
