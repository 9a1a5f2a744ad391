"""sd-mecha's recipes: merged here as sd-mecha 1.1.8 merges them, or refused by the node.

The recipes in data/recipes/mecha and sd-mecha's results are written by scripts/mecha_golden.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors

import factory
import submerge
from flux_units import flux_units
from planning import weights_of
from submerge import cli
from submerge.errors import RecipeError
from submerge.recipe import Recipe
from submerge.recipe.importers import import_recipe
from submerge.recipe.importers.mecha import instructions
from submerge.values import Selection

DATA = Path(__file__).parent / "data"
RECIPES = DATA / "recipes" / "mecha"
GOLDEN = factory.read(DATA / "mecha.safetensors")
CASES = sorted(path.stem for path in RECIPES.glob("*.mecha"))
# What the notes say is not the same, and how far it may be off.
NOT_THE_SAME = {"geometric_median": 1e-3, "slerp": 0.05, "ties": 0.6}
# Of tall matrices they are.
NOT_THE_SAME |= dict.fromkeys(("rotate", "rotate_part", "rotate_plain"), 3e-6)
BF16 = 2.0**-8
MODELS = """version 0.1.0
model "a.safetensors" model_config=null merge_space="weight"
model "b.safetensors" model_config=null merge_space="weight"
model "c.safetensors" model_config=null merge_space="weight"
"""


def parents(folder: Path) -> None:
    for model in ("anna", "base", "carl"):
        lead = f"in.{model}."
        tensors = {n.removeprefix(lead): x for n, x in GOLDEN.items() if n.startswith(lead)}
        factory.write(folder / f"{model}.safetensors", tensors)


def merged(recipe: Recipe, folder: Path) -> dict[str, np.ndarray]:
    data = recipe.to_dict()
    paths = {
        name: {"path": str(folder / path), "layout": "generic"}
        for name, path in data["models"].items()
    }
    out = folder / "out.safetensors"
    submerge.merge(data | {"models": paths}, out)
    return factory.read(out)


@pytest.mark.parametrize("case", CASES)
def test_a_recipe_makes_what_sd_mecha_makes(tmp_path: Path, case: str) -> None:
    parents(tmp_path)
    recipe, notes = import_recipe(RECIPES / f"{case}.mecha")
    got = merged(recipe, tmp_path)
    for name in ("head.bias", "head.weight"):
        expected = GOLDEN[f"out.{case}.{name}"]
        for model in ("anna", "base", "carl"):
            assert not np.array_equal(got[name], GOLDEN[f"in.{model}.{name}"])
        tolerance = NOT_THE_SAME.get(case, 3e-6)
        np.testing.assert_allclose(got[name].astype(np.float32), expected, atol=tolerance)
    assert (case in NOT_THE_SAME) == any("not the same:" in n or "one element" in n for n in notes)


def test_ties_differs_in_the_element_at_the_threshold_alone(tmp_path: Path) -> None:
    parents(tmp_path)
    got = merged(import_recipe(RECIPES / "ties.mecha")[0], tmp_path)
    for name in ("head.bias", "head.weight"):
        off = np.abs(got[name] - GOLDEN[f"out.ties.{name}"]) > 3e-6
        # One element more of each of the two differences.
        assert 1 <= off.sum() <= 2


def test_the_golden_values_are_of_every_recipe() -> None:
    assert set(CASES) == {n.split(".")[1] for n in GOLDEN if n.startswith("out.")}
    with safetensors.safe_open(DATA / "mecha.safetensors", "np") as file:
        assert json.loads(file.metadata()["versions"])["sd-mecha"] == "1.1.8"


def test_numbers_by_tensor_reach_the_units_of_flux() -> None:
    recipe, notes = import_recipe(
        MODELS + "dict model.diffusion_model.double_blocks.3.img_attn.qkv.weight=0.1 vae.w=1\n"
        'literal &3 model_config="flux-flux" merge_space="param"\n'
        'dict key=0.5\nliteral &5 model_config="singleton-mecha" merge_space="param"\n'
        'merge "convert_singleton" &6\nmerge "fallback" &4 &7\nmerge "weighted_sum" &0 &1 &8\n'
    )
    (step,) = recipe.steps()
    rows = weights_of(step.method, ["a", "b"], Selection.of(flux_units()), step.path)
    changed = {f"double.3.img.attn.{part}.weight" for part in "qkv"}
    assert {unit for unit, row in rows.items() if row["b"] == 0.1} == changed
    assert {row["b"] for row in rows.values()} == {0.1, 0.5}
    assert any("1 tensor: `vae.w`; only the transformer is merged" in note for note in notes)


def test_a_node_can_be_chosen() -> None:
    text = MODELS + 'merge "weighted_sum" &0 &1 0.25\nmerge "weighted_sum" &3 &2 0.5\n'
    assert list(import_recipe(text)[0].models) == ["a", "b", "c"]
    recipe, _ = import_recipe(text, node="&3")
    assert recipe.to_dict()["method"] == {"linear": {"alpha": 0.25}}
    with pytest.raises(RecipeError, match="no node `9`, expected `&0` to `&4`"):
        import_recipe(text, node="9")


def test_a_random_basis_is_told() -> None:
    lines = (
        'merge "subtract" &0 &2\nmerge "truncate_rank" &3 4 {}\nmerge "add_difference" &2 &4 1\n'
    )
    for given, said in (("", True), ("use_approximate_basis=false", False)):
        recipe, notes = import_recipe(MODELS + lines.format(given))
        assert recipe.to_dict()["method"] == {"truncated_svd": {"rank": 4.0}}
        assert any("basis is random" in note for note in notes) == said


def test_quotes_escapes_and_comments() -> None:
    recipe, _ = import_recipe(
        "version 0.1.0\n# a comment\n"
        'model "C:\\\\my models\\\\a \\"=1\\".safetensors" model_config=null merge_space="weight"\n'
        'model "b.safetensors" model_config=null merge_space="weight"\n\n'
        'merge "weighted_sum" &0 &1 alpha=1e-1\n'
    )
    assert [s.path for s in recipe.models.values()] == [
        'C:\\my models\\a "=1".safetensors',
        "b.safetensors",
    ]
    assert recipe.to_dict()["method"] == {"linear": {"alpha": 0.1}}


def test_every_node_without_a_counterpart_is_named_at_once() -> None:
    text = MODELS + (
        'merge "geometric_sum" &0 &1 0.5\nmerge "rebasin" &3 &2 1.0\nmerge "their_own" &4\n'
    )
    with pytest.raises(RecipeError) as caught:
        import_recipe(text)
    message = str(caught.value)
    assert "3 nodes without a counterpart" in message
    assert "line 5 (`geometric_sum`): complex powers of elements" in message
    assert "line 6 (`rebasin`): permutes neurons of SD1 and SDXL" in message
    assert "line 7 (`their_own`)" in message
    assert "`node`" in message


# What the text says after the three models, and the error.
REFUSED = {
    "a difference": ('merge "subtract" &0 &1', "makes a delta, expected a model"),
    "a parameter": ("dict key=1.0", "makes a parameter, expected a model"),
    "a method inside another": (
        'merge "slerp" &0 &1 0.5\nmerge "weighted_sum" &3 &2 0.5',
        "`a` is made by `multislerp`, expected a weighted sum of files: one recipe has one method",
    ),
    "a slerp of sums": (
        'merge "weighted_sum" &0 &1 0.5\nmerge "slerp" &3 &2 0.5',
        "`a` is a sum of models, expected a file",
    ),
    "another base": (
        (
            'merge "subtract" &0 &2\nmerge "subtract" &1 &2\nmerge "model_stock" &3 &4\n'
            'merge "add_difference" &0 &5 1.0'
        ),
        "`a`, expected `c`, which the difference is of",
    ),
    "two bases": (
        'merge "subtract" &0 &2\nmerge "subtract" &1 &0\nmerge "ties_sum" &3 &4',
        "differences of different files to one base",
    ),
    "a scaled stock": (
        (
            'merge "subtract" &0 &2\nmerge "subtract" &1 &2\nmerge "model_stock" &3 &4\n'
            'merge "add_difference" &2 &5 0.5'
        ),
        "a scaled `model_stock`, expected `alpha` 1",
    ),
    "ties scaled by stock": (
        'merge "subtract" &0 &2\nmerge "subtract" &1 &2\nmerge "ties_sum_extended" &3 &4 k=0.5',
        "`apply_stock=true apply_median=false`",
    ),
    "a vote that can be even": (
        'merge "subtract" &0 &2\nmerge "subtract" &1 &2\nmerge "ties_sum" &3 &4',
        "`vote_sgn=false` with 2 differences, expected an odd number",
    ),
    "a mask of others": (
        'merge "subtract" &0 &1\nmerge "train_difference_mask" &0 &1 &2 1.0\nmerge "scale" &3 &4',
        "a mask of the same models",
    ),
    "stiff bounds": (
        (
            'merge "subtract" &1 &2\nmerge "add_difference" &0 &3 0.5\n'
            'merge "clamp" &4 &0 &1 stiffness=0.5'
        ),
        "`stiffness`, expected 0",
    ),
    "bounds of others": (
        'merge "subtract" &1 &2\nmerge "add_difference" &0 &3 0.5\nmerge "clamp" &4 &1 &2',
        "expected `a + alpha (b - c)` and the bounds a and b",
    ),
    "models and differences": (
        'merge "subtract" &0 &1\nmerge "weighted_sum" &3 &2 0.5',
        "expected models or differences, got both",
    ),
    "a text for a number": ('merge "weighted_sum" &0 &1 "half"', "`alpha`, expected a number"),
    "a number for a model": ('merge "weighted_sum" &0 0.5', "`b`, expected a model"),
    "no tensor in common": (
        'dict x=1.0\ndict y=1.0\nmerge "weighted_sum" &0 &1 &3\nmerge "weighted_sum" &5 &2 &4',
        "no tensor has a number in every part",
    ),
    "a name with brackets": (
        'dict x[0]=1.0\nmerge "weighted_sum" &0 &1 &3',
        "`x[0]` cannot be written as a selector",
    ),
    "an adapter": (
        'model "l.safetensors" model_config="sdxl-kohya_lycoris" merge_space="delta"',
        "is an adapter",
    ),
    "another cast": (
        'merge "weighted_sum" &0 &1 0.5\nmerge "cast" &3 null "int8"',
        "dtype `int8`, expected one of",
    ),
    "a turn beyond": ('merge "rotate" &0 &1 1.5', "`alignment`, expected numbers from 0 to 1"),
    "a turn of sums": (
        'merge "subtract" &0 &2\nmerge "subtract" &1 &2\nmerge "rotate" &3 &4',
        "`a` is a sum of models, expected a file",
    ),
    "half a rank": (
        'merge "subtract" &0 &2\nmerge "truncate_rank" &3 0.5',
        "`rank`, expected whole numbers above 0",
    ),
    "random numbers": (
        'merge "subtract" &0 &2\nmerge "ties_sum_with_dropout" &3',
        "random numbers of its own; `dare_ties` is the method here",
    ),
    "a later line": ('merge "weighted_sum" &0 &7', "`&7` refers to no line before it"),
    "an unknown command": ("model2 x", "expected one of `dict`"),
    "an open quote": ('model "a', "a quote that is not closed"),
    "a word": ("dict key=half", "expected a number, a reference or a text, got `half`"),
    "no words": ("= ", "expected one of `dict`"),
    "an infinite number": ('merge "weighted_sum" &0 &1 1e999', "expected a finite number"),
    "factors beyond all numbers": (
        'merge "subtract" &0 &1\nmerge "scale" &3 1e30\nmerge "scale" &4 1e30',
        "the factors multiply to more than a number holds",
    ),
    "a name twice": ("dict a=1 a=2", "`a` is given twice"),
    "no file": (
        'model model_config=null merge_space="weight"',
        "line 5 (`model`): expected a file, got none",
    ),
    "another space": (
        'model "d.safetensors" model_config=null merge_space="param"',
        "merge_space, expected `weight` or `delta`, got `param`",
    ),
    "a literal of a text": ('literal "half"', "expected a `dict`, got something else"),
    "a text in a literal": ('dict x="a" y=1\nliteral &3', "`x`, expected a number"),
    "a part of a model": ('merge "truncate_rank" &0 8', "`a`, expected a difference of two files"),
    "two factors by tensor": (
        (
            'merge "subtract" &0 &2\nmerge "truncate_rank" &3 4\ndict x=0.5 y=0.25\n'
            'merge "scale" &4 &5\nmerge "scale" &6 &5'
        ),
        "two factors that differ by tensor, expected one",
    ),
    "a stock scaled by tensor": (
        (
            'merge "subtract" &0 &2\nmerge "subtract" &1 &2\nmerge "model_stock" &3 &4\n'
            'dict x=0.5\nmerge "scale" &5 &6'
        ),
        "line 9 (`scale`): a scaled `model_stock`, expected `alpha` 1",
    ),
    "a model twice": (
        'merge "geometric_median" &0 &1 &0',
        "a model twice, expected different files",
    ),
    "steps by tensor": (
        'dict x=1 y=2\nmerge "geometric_median" &0 &1 maxiter=&3',
        "`maxiter`, expected one number for all tensors",
    ),
    "a number for a flag": (
        'merge "subtract" &0 &2\nmerge "subtract" &1 &2\nmerge "ties_sum" &3 &4 vote_sgn=3',
        "`vote_sgn`, expected true or false",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_map_is_refused_at_its_line(case: str) -> None:
    lines, expected = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        import_recipe(MODELS + lines)
    assert expected in str(caught.value)
    assert "line " in str(caught.value) or "preset:" in str(caught.value)


def test_other_versions_and_empty_recipes_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"expected `version 0\.1\.0`, got `version 0\.2\.0`"):
        import_recipe("version 0.2.0\n")
    with pytest.raises(RecipeError, match="no instructions"):
        import_recipe("version 0.1.0\n")
    with pytest.raises(RecipeError, match=r"more than [\d,]+ lines, expected a recipe"):
        import_recipe("version 0.1.0\n" + "\n" * instructions._MAX_LINES)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["recipe", "import", str(RECIPES / "add_difference.mecha")])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert Recipe.load(shown.out).to_dict()["method"]["linear"]["weight"] == {
        "anna": 1.0,
        "base": -0.5,
        "carl": 0.5,
    }
    assert "sd-mecha leaves tensors out" in shown.err
