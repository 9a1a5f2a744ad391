"""Imports of other tools' presets, against numbers worked out by hand from their formulas."""

from __future__ import annotations

from pathlib import Path

import pytest

from submerge.blocks import Selector, select
from submerge.errors import RecipeError
from submerge.methods import Take
from submerge.recipe import Recipe
from submerge.recipe.importers import import_recipe
from submerge.values import Selection
from workflows import UNITS, graph, shares

DATA = Path(__file__).parent / "data" / "recipes"


def vector(**changes: float) -> list[float]:
    """Return 61 numbers, all 0 but those named in supermerger's words."""
    names = [
        "CLIP",
        "T5",
        "IN",
        *(f"D{i:02}" for i in range(19)),
        *(f"S{i:02}" for i in range(38)),
        "OUT",
    ]
    assert len(names) == 61
    return [changes.get(name, 0.0) for name in names]


# -- supermerger ----------------------------------------------------------------------------------


def test_a_vector_is_the_share_of_model_b(tmp_path: Path) -> None:
    numbers = vector(IN=0.1, D00=0.2, D07=0.3, D18=0.4, S00=0.5, S12=0.6, S37=0.7, OUT=0.8)
    file = tmp_path / "preset.txt"
    file.write_text(",".join(map(str, numbers)) + "\n")
    recipe, notes = import_recipe(file, models={"dev": "d.safetensors", "krea": "k"})
    expected = {
        "embed.img.weight": 0.1,
        "embed.txt.weight": 0.1,
        "embed.time.in.bias": 0.1,
        "embed.vector.out.bias": 0.1,
        "guidance.out.weight": 0.1,
        "double.0.txt.attn.out.bias": 0.2,
        "double.1.img.mod.weight": 0.0,
        "double.7.img.mlp.in.weight": 0.3,
        "double.18.img.norm.q.weight": 0.4,
        "single.0.mod.weight": 0.5,
        "single.12.attn.k.weight": 0.6,
        "single.37.out.weight": 0.7,
        "final.mod.scale.weight": 0.8,
        "final.linear.bias": 0.8,
    }
    rows = shares(recipe)
    assert {unit: rows[unit]["krea"] for unit in expected} == expected
    assert notes[0].endswith("D00 = 0.2 is 0.8 * dev + 0.2 * krea")
    assert not any("not carried over" in note for note in notes)


def test_a_vector_without_models_asks_for_them() -> None:
    recipe, notes = import_recipe("MY PRESET\t" + ", ".join(map(str, vector(CLIP=0.5))))
    assert list(recipe.models) == ["a", "b"]
    assert any("put the paths of A and B" in note for note in notes)
    assert any("CLIP = 0.5 and T5 = 0" in note for note in notes)


def test_the_rule_that_is_offered_leaves_the_norms_at_model_a() -> None:
    recipe, notes = import_recipe(",".join(map(str, vector(D00=1, S00=1))))
    assert any("{where: '**.norm', take: a}" in note for note in notes)
    ruled = Recipe.load(recipe.to_dict() | {"rules": [{"where": "**.norm", "take": "a"}]})
    step, _ = ruled.steps()
    norms = select(Selector.parse("**.norm", "x"), UNITS)
    assert len(norms) == 19 * 4 + 38 * 2
    assert isinstance(step.method, Take)
    blends = step.method.blends(ruled.setting(), Selection.of(norms), step.path)
    assert {(blend.op, blend.models) for blend in blends.values()} == {("copy", ("a",))}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",".join("0" * 26), "preset: a FLUX.1 vector, expected 61 numbers, got 26"),
        (",".join("0" * 60), "preset: a FLUX.1 vector, expected 61 numbers, got 60"),
        (",".join(["0"] * 60 + ["R"]), "preset[60]: expected a number, got `R`"),
        (",".join(["0"] * 60 + ["nan"]), "preset[60]: expected a number, got `nan`"),
        (",".join(["0"] * 59 + ["", "0"]), "preset[59]: expected a number, got ``"),
    ],
)
def test_other_vectors_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        import_recipe(text)
    assert caught.value.message == message


def test_vectors_of_other_models_are_named() -> None:
    with pytest.raises(RecipeError) as caught:
        import_recipe(",".join("0" * 26))
    assert caught.value.hint == "this is a vector for Stable Diffusion 1 and 2"


def test_options_of_the_other_kind_are_refused() -> None:
    with pytest.raises(RecipeError, match="a vector has no nodes"):
        import_recipe(",".join("0" * 61), node="3")
    with pytest.raises(RecipeError, match="a workflow names its models itself"):
        import_recipe(graph(), models={"a": "x", "b": "y"})
    with pytest.raises(RecipeError, match="merges model A with model B, expected two, got 1"):
        import_recipe(",".join("0" * 61), models={"a": "x"})
