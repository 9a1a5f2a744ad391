"""A recipe is painted without a file: the images are those of the written merge."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import submerge
from inference.plans import on_a_gpu
from submerge import InferenceOptionsDict, load_model, run_inference

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS: InferenceOptionsDict = {"steps": 2, "width": 32, "height": 32, "seed": 3}


def painted(model: Any) -> np.ndarray:
    result = run_inference(model, "a fox in snow", OPTIONS)
    return np.asarray(result.images[0].image)


def recipe_of(pipelines: dict[str, Path], **fields: Any) -> dict[str, Any]:
    parents = {name: str(pipelines[name]) for name in ("schnell", "krea")}
    return {"models": parents, "alpha": 0.5, "output": {"pipeline_from": "krea"}, **fields}


@pytest.mark.parametrize("how", ["text", "file", "dict", "view"])
def test_images_are_those_of_the_written_merge(
    tmp_path: Path, pipelines: dict[str, Path], how: str
) -> None:
    recipe = recipe_of(pipelines)
    file = tmp_path / "recipe.yaml"
    text = submerge.Recipe.load(recipe).to_yaml()
    file.write_text(text, encoding="utf-8")
    source: Any = {"text": text, "file": file, "dict": recipe, "view": submerge.open(recipe)}[how]
    with load_model(pipelines["merged"], device="cpu") as written:
        expected = painted(written)
    with load_model(source, device="cpu") as model:
        assert np.array_equal(painted(model), expected)
        assert model.guided
    other = recipe_of(pipelines, alpha=0.1)
    with load_model(other, device="cpu") as model:
        assert not np.array_equal(painted(model), expected)


@pytest.mark.parametrize("how", ["resident", "text-first", "time-share", "layers", "disk", "int8"])
def test_every_placement_paints_and_merges_anew_in_place(
    pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    name, kind = ("resident", "int8") if how == "int8" else (how, None)
    monkeypatch.setattr("submerge.inference.loading.plan_load", on_a_gpu(name, kind))
    more: dict[str, Any] = {"device": "cpu", "quantization": kind}
    sources = {"first": recipe_of(pipelines), "second": recipe_of(pipelines, alpha=0.2)}
    expected = {}
    for which, recipe in sources.items():
        submerge.merge(recipe, tmp_path / which)
        with load_model(tmp_path / which, **more) as written:
            expected[which] = painted(written)
    with load_model(sources["first"], **more) as model:
        assert np.array_equal(painted(model), expected["first"])
        before = model.fingerprint
        changed = model.remerge(alpha=0.2)
        assert len(changed) > 20
        assert np.array_equal(painted(model), expected["second"])
        assert model.fingerprint != before
        with load_model(tmp_path / "second", **more) as written:
            theirs = written.parts.recipe
        assert model.parts.recipe["method"] == theirs["method"]
        assert model.remerge(alpha=0.2) == ()
        model.remerge(alpha=0.5)
        assert np.array_equal(painted(model), expected["first"])


def test_one_slider_changes_one_block(pipelines: dict[str, Path]) -> None:
    with load_model(recipe_of(pipelines), device="cpu") as model:
        kept = {n: p.data.clone() for n, p in model.pipe.transformer.named_parameters()}
        changed = model.remerge(set={"single[0]": 0.9})
        model.remerge(set={"single[0]": 0.8})
        assert model.parts.view is not None
        rules = model.parts.view.recipe.to_dict()["rules"]
        assert rules == [{"where": "single[0]", "alpha": 0.8}]
        assert changed
        assert all(name.startswith("single_transformer_blocks.0.") for name in changed)
        for name, parameter in model.pipe.transformer.named_parameters():
            assert torch.equal(parameter, kept[name]) or name in changed
        moved = [
            n
            for n in changed
            if not torch.equal(dict(model.pipe.transformer.named_parameters())[n], kept[n])
        ]
        assert len(moved) > len(changed) / 2


def test_another_thread_merges_anew_between_two_images(pipelines: dict[str, Path]) -> None:
    expected = {}
    for alpha in (0.1, 0.9):
        with load_model(recipe_of(pipelines, alpha=alpha), device="cpu") as model:
            expected[alpha] = painted(model)
    with load_model(recipe_of(pipelines, alpha=0.1), device="cpu") as model:
        stop = threading.Event()

        def slide() -> None:
            while not stop.is_set():
                for alpha in (0.9, 0.1):
                    model.remerge(alpha=alpha)

        thread = threading.Thread(target=slide)
        thread.start()
        try:
            images = [painted(model) for _ in range(6)]
        finally:
            stop.set()
            thread.join()
    # Steps of one image are one phase, so each is wholly the one or the other.
    assert all(any(np.array_equal(i, e) for e in expected.values()) for i in images)


def test_what_cannot_be_merged_anew_is_refused(pipelines: dict[str, Path], tmp_path: Path) -> None:
    with (
        load_model(pipelines["krea"], device="cpu") as model,
        pytest.raises(submerge.RecipeError, match="loaded from a file"),
    ):
        model.remerge(alpha=0.3)
    with load_model(recipe_of(pipelines), device="cpu") as model:
        before = painted(model)
        with pytest.raises(submerge.RecipeError, match="as it is loaded"):
            model.remerge(guidance="drop")
        with pytest.raises(submerge.RecipeError, match="no model is called"):
            model.remerge(take="nobody")
        assert np.array_equal(painted(model), before)
    copies = {n: tmp_path / n for n in ("schnell", "krea")}
    for name, copy in copies.items():
        shutil.copytree(pipelines[name], copy)
    with load_model(recipe_of(copies), device="cpu") as model:
        for weights in copies["krea"].glob("transformer/*.safetensors"):
            weights.write_bytes(weights.read_bytes())
        with pytest.raises(submerge.PlanError, match="krea"):
            model.remerge(alpha=0.3)
        with pytest.raises(submerge.RecipeError, match="was closed"):
            painted(model)


def test_a_recipe_is_judged_beside_its_parents(pipelines: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "half.yaml"
    file.write_text(submerge.Recipe.load(recipe_of(pipelines)).to_yaml(), encoding="utf-8")
    options: Any = {"seeds": [0], "painting": {"steps": 1, "width": 32, "height": 32}}
    found, written = (
        submerge.evaluate_guidance(
            model, ["a fox"], parents=parents, options=options, load={"device": "cpu"}
        ).to_dict()
        for model, parents in (
            (file, ()),
            (pipelines["merged"], {n: pipelines[n] for n in ("schnell", "krea")}),
        )
    )
    assert [m["name"] for m in found["models"]] == ["half.yaml", "schnell", "krea"]
    assert found["models"][0]["path"] == str(file)
    ours, theirs = (
        {
            (r["signal"], r["model"] in ("half.yaml", "merged"), r["against"], r["x"]): r["value"]
            for r in d["signals"]
        }
        for d in (found, written)
    )
    assert ours == theirs
