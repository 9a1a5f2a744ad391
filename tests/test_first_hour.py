"""What people write in their first hour: the error gives the line to write, or the plan says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import factory
import submerge
from factory import KREA, SCHNELL
from submerge import cli
from submerge.errors import RecipeError
from submerge.recipe import Recipe
from submerge.recipe.importers import import_recipe

if TYPE_CHECKING:
    from pathlib import Path

TWO = {"a": "a.safetensors", "b": "b.safetensors"}
THREE = {**TWO, "c": "c.safetensors"}


@pytest.mark.parametrize(
    ("models", "written", "hint"),
    [
        (TWO, {"method": "slerp", "alpha": 0.4}, "write `method: {slerp: {alpha: 0.4}}`"),
        (
            TWO,
            {"method": {"slerp": {"rowwise": True}}, "alpha": 0.4},
            "write `method: {slerp: {rowwise: true, alpha: 0.4}}`",
        ),
        (
            TWO,
            {"method": "ties", "base": "a", "weight": {"b": 0.5}},
            "write `method: {ties: {weight: {b: 0.5}}}`",
        ),
        (TWO, {"method": "ties", "base": "a", "alpha": 0.5}, "`ties` takes no `alpha`"),
        (TWO, {"take": "a", "alpha": 0.5}, "leave all but one out"),
        (TWO, {"method": "slerp", "ratio": 0.4}, "write `method: {slerp: {alpha: 0.4}}`"),
        (
            TWO,
            {"method": "ties", "base": "a", "density": 0.3},
            "write `method: {ties: {density: 0.3}}`",
        ),
        (TWO, {"ratio": 0.3}, "write `alpha: 0.3`, the second model's share"),
        (TWO, {"multiplier": [0.3, 1]}, "write `alpha: [0.3, 1]`"),
        (TWO, {"dtype": "fp8"}, "write `output: {dtype: fp8}`"),
        (
            TWO,
            {"precision": "bf16", "output": {"layout": "bfl"}},
            "write `output: {layout: bfl, dtype: bf16}`",
        ),
        (TWO, {"shard_size": "2GB"}, "write `output: {shard_size: 2GB}`"),
        (TWO, {"weights": {"a": 1}}, "did you mean `weight`?"),
        (THREE, {"alpha": 0.4}, "name them: `weight: {a: 1, b: 1, c: 1}`"),
        (THREE, {"method": {"slerp": {"alpha": 0.4}}}, "`weight: {a: 1, b: 1, c: 1}`"),
        (TWO, {"rules": [{"where": "double", "method": "slerp", "alpha": 0.4}]}, "{alpha: 0.4}"),
        (TWO, {"rules": [{"where": "double", "ratio": 0.4}]}, "write `alpha: 0.4`"),
    ],
)
def test_the_error_gives_the_line_to_write(
    models: dict[str, str], written: dict[str, Any], hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load({"models": models, **written})
    assert hint in (caught.value.hint or "")
    # The line is one that can be written.
    line = caught.value.hint.partition("`")[2].partition("`")[0] if caught.value.hint else ""
    if "write" in hint and "rules" not in written:
        kept = {k: v for k, v in written.items() if k == "base"}
        Recipe.load(f"models: {{a: x, b: y}}\nbase: {kept.get('base', 'a')}\n{line}\n")


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ({"alpha": 50}, "recipe.alpha"),
        ({"alpha": -20}, "recipe.alpha"),
        ({"alpha": {"from": 0, "to": 100}}, "recipe.alpha"),
        ({"alpha": {"double": 30, "default": 0.5}}, "recipe.alpha"),
        ({"method": {"slerp": {"alpha": 40}}}, "recipe.method.slerp.alpha"),
        ({"rules": [{"where": "single", "alpha": 60}]}, "recipe.rules[0].alpha"),
    ],
)
def test_a_percentage_is_asked_about(written: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load({"models": TWO, **written})
    assert caught.value.message.startswith(f"{field}: expected a share from 0 to 1, got ")
    assert "did you mean " in (caught.value.hint or "")


@pytest.mark.parametrize("alpha", [-10, 0, 1.5, 10])
def test_a_share_that_extrapolates_is_taken(alpha: float) -> None:
    made = Recipe.load({"models": TWO, "alpha": alpha})
    assert made.to_dict()["method"] == {"linear": {"alpha": alpha}}


def test_the_command_line_asks_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["merge", "a.safetensors", "b.safetensors", "--alpha", "50", "-o", "o"])
    assert "did you mean 0.5?" in capsys.readouterr().err


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two models in the current folder, by their names there."""
    monkeypatch.chdir(tmp_path)
    factory.save_file(tmp_path / "schnell.safetensors", SCHNELL)
    factory.save_folder(tmp_path / "krea", KREA)
    return {"schnell": "schnell.safetensors", "krea": "krea"}


@pytest.mark.parametrize(
    ("recipe", "beyond"),
    [
        ({"rules": [{"where": "double[0:99]", "alpha": 0.2}]}, ["rules[0] (`double[0:99]`)"]),
        (
            {"rules": [{"where": "double[0,7].img", "take": "krea"}]},
            ["rules[0] (`double[0,7].img`)"],
        ),
        ({"include": ["single[:3]"]}, ["include[0] (`single[:3]`)"]),
        ({"alpha": {"single[1:9]": 0.2, "default": 0.5}}, ["alpha (`single[1:9]`)"]),
        ({"rules": [{"where": "double[0:2]", "alpha": 0.2}], "exclude": ["single[1:].mlp"]}, []),
        ({"rules": [{"where": "*[0:2]", "alpha": 0.2}]}, []),
    ],
)
def test_a_selector_beyond_the_model_is_said(
    pair: dict[str, str], recipe: dict[str, Any], beyond: list[str]
) -> None:
    notes = submerge.plan({"models": pair, **recipe}, "o.safetensors").about.notes
    found = [note for note in notes if "beyond the model" in note]
    assert [note.partition(" goes")[0] for note in found] == beyond
    assert all("has the indices 0 to 1" in note for note in found)


# The recipe of an output.


def test_an_output_s_own_recipe_makes_it_again(pair: dict[str, str], tmp_path: Path) -> None:
    recipe = {"models": pair, "alpha": 0.3, "rules": [{"where": "single", "take": "krea"}]}
    submerge.merge(recipe, "merged.safetensors")
    assert submerge.verify("merged.safetensors", recipe="merged.safetensors").passed
    submerge.merge("merged.safetensors", "again.safetensors")
    made = (tmp_path / "merged.safetensors").read_bytes()
    assert (tmp_path / "again.safetensors").read_bytes() == made
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", "merged.safetensors", "-o", "third.safetensors"])
    assert ended.value.code == 0
    assert (tmp_path / "third.safetensors").read_bytes() == made
    submerge.merge(recipe, "folder", overwrite=True)
    assert submerge.verify("folder", recipe="folder").passed
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", "merged.safetensors", "--alpha", "0.9", "-o", "other.safetensors"])
    assert ended.value.code == 0
    assert (tmp_path / "other.safetensors").read_bytes() != made


def test_models_that_are_not_found_are_named(pair: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    submerge.merge({"models": pair}, "elsewhere/merged.safetensors")
    output = tmp_path / "elsewhere" / "merged.safetensors"
    assert submerge.verify(output, recipe=output).passed  # found in the current folder
    (tmp_path / "schnell.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(RecipeError) as caught:
        submerge.merge(output, "again")
    assert "models.schnell: `schnell` without a path" in caught.value.message
    assert "submerge recipe import" in (caught.value.hint or "")
    assert not (tmp_path / "again").exists()
    with pytest.raises(RecipeError, match="a checkpoint without a recipe of submerge in it"):
        submerge.merge("other.safetensors", "again")


def test_an_output_s_recipe_is_imported_with_paths_to_put_in(
    pair: dict[str, str], tmp_path: Path
) -> None:
    recipe = {"models": pair, "method": "slerp", "output": {"dtype": "f32"}}
    submerge.merge(recipe, "merged.safetensors")
    found = import_recipe("merged.safetensors")
    assert [source.path for source in found.recipe.models.values()] == ["schnell", "krea"]
    assert any("put those of 2 models" in note for note in found.notes)
    paths = {"x": str(tmp_path / "schnell.safetensors"), "y": str(tmp_path / "krea")}
    found = import_recipe("merged.safetensors", models=paths)
    assert list(found.recipe.models) == ["schnell", "krea"]
    submerge.merge(found.recipe, "again.safetensors")
    again = (tmp_path / "again.safetensors").read_bytes()
    assert again == (tmp_path / "merged.safetensors").read_bytes()
    with pytest.raises(RecipeError, match="the recipe has 2 models, expected a path for each"):
        import_recipe("merged.safetensors", models={"x": "x"})
