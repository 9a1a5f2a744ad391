"""mergekit's YAML as recipes: what maps, what is said, what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flux_units import flux_units
from submerge import cli
from submerge.errors import RecipeError
from submerge.recipe import Recipe
from submerge.recipe.importers import Imported, import_recipe
from submerge.recipe.importers.mergekit import import_mergekit
from submerge.values import Selection

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.methods import Blend

UNITS = flux_units()
TIES = """
merge_method: ties
base_model: org/dev
models:
  - model: org/dev
  - model: org/krea
    parameters: {weight: 1, density: 0.5}
  - model: org/schnell
    parameters: {weight: 0.5, density: 0.25}
parameters: {normalize: true, int8_mask: true, lambda: 0.8}
dtype: bfloat16
tokenizer_source: base
"""


def read(text: str) -> Imported:
    return import_recipe(text)


def blend(recipe: Recipe, unit: str) -> Blend:
    (step,) = recipe.steps()
    return step.method.blends(recipe.setting(), Selection.of(UNITS), step.path)[unit]


def test_deltas_weights_and_base() -> None:
    recipe, notes = read(TIES)
    assert recipe.base == "dev"
    assert list(recipe.models) == ["dev", "krea", "schnell"]
    assert recipe.output.dtype.names == ("bf16",)
    found = blend(recipe, "double.3.img.attn.q.weight")
    assert found.models == ("dev", "krea", "schnell")
    assert found.arguments == {
        "weights": [1.0, 0.5],
        "lambda": 0.8,
        "normalize": "weights",
        "consensus": "sum",
        "even": "positive",
        "sparsify": {"magnitude": {"density": [0.5, 0.25]}},
    }
    said = "\n".join(notes)
    for word in ("int8_mask", "tokenizer_source", "dtype: of the output"):
        assert word in said


def test_the_base_of_a_slerp_is_the_first_model_and_t_is_alpha() -> None:
    recipe, notes = read(
        "merge_method: slerp\nbase_model: org/krea\nmodels:\n"
        "  - model: org/schnell\n  - model: org/krea\n"
        "parameters:\n  t:\n    - {filter: self_attn, value: [0, 1]}\n"
        "    - {filter: mlp, value: [1, 0.5, 0]}\n    - value: 0.25\n"
    )
    assert list(recipe.models) == ["krea", "schnell"]
    assert recipe.base is None
    assert any("share of the second" in note for note in notes)
    found = blend(recipe, "final.linear.weight")
    assert found.models == ("krea", "schnell")
    assert found.arguments == {"slerp": {"alpha": 0.25}}
    assert blend(recipe, "double.14.img.attn.q.weight").arguments == {"slerp": {"alpha": 14 / 56}}
    middle = blend(recipe, "single.23.mlp.in.weight").arguments["slerp"]["alpha"]
    assert middle == pytest.approx(1 - 42 / 56)


def test_linear_keeps_its_normalisation_and_order_means_nothing() -> None:
    recipe, _ = read(
        "merge_method: linear\nmodels:\n"
        "  - {model: a, parameters: {weight: 1.0}}\n  - {model: b, parameters: {weight: 0.5}}\n"
        "parameters: {normalize: false}\n"
    )
    assert recipe.to_dict()["method"] == {
        "linear": {"weight": {"a": 1.0, "b": 0.5}, "normalize": False}
    }


def test_nuslerp_weights_become_a_share() -> None:
    recipe, _ = read(
        "merge_method: nuslerp\nmodels:\n  - {model: a, parameters: {weight: 3}}\n"
        "  - {model: b, parameters: {weight: 1}}\nparameters: {nuslerp_flatten: false}\n"
    )
    found = blend(recipe, "final.linear.weight")
    assert found.op == "rows"
    assert found.arguments == {"nuslerp": {"weights": [0.75, 0.25], "base": False}}


def test_its_arithmetic_comes_with_the_recipe() -> None:
    recipe, notes = read(TIES)
    assert recipe.compat == "mergekit"
    assert Recipe.load(recipe.to_yaml()).compat == "mergekit"
    assert recipe.scope == "tensor"
    assert any("`scope: tensor`" in note for note in notes)
    plain, notes = read("merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 1}}\n")
    assert plain.compat == "mergekit"
    assert plain.scope == "unit"
    assert not any("`scope: tensor`" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "parameters", "models", "arguments"),
    [
        ("sce", "select_topk: 0.2", ("a", "b", "c"), {"sce": {"select_topk": 0.2, "floor": 1e-6}}),
        (
            "ramplus_tl",
            "r: 0.3, alpha: 0.4",
            ("a", "b", "c"),
            {"ramplus_tl": {"r": 0.3, "alpha": 0.4, "epsilon": 1e-5}},
        ),
        ("model_stock", "filter_wise: true", ("a", "b", "c"), {"model_stock": {"floor": 1e-6}}),
    ],
)
def test_methods_without_weights(
    name: str, parameters: str, models: tuple[str, ...], arguments: dict[str, Any]
) -> None:
    recipe, _ = read(
        f"merge_method: {name}\nbase_model: a\nmodels: [{{model: c}}, {{model: b}}]\n"
        f"parameters: {{{parameters}}}\n"
    )
    found = blend(recipe, "single.3.out.bias")
    assert (found.models, found.arguments) == (models, arguments)


def test_the_base_of_arcee_fusion_is_the_first_model() -> None:
    recipe, notes = read(
        "merge_method: arcee_fusion\nbase_model: b\nmodels: [{model: a}, {model: b}]\n"
    )
    assert blend(recipe, "single.3.out.bias").models == ("b", "a")
    assert "arcee_fusion: mergekit's base is the first model" in notes


def test_a_shared_density_is_everyones_unless_a_model_has_its_own() -> None:
    recipe, _ = read(TIES.replace("density: 0.5}", "}").replace("lambda: 0.8", "density: 0.75"))
    sparsify = blend(recipe, "final.linear.weight").arguments["sparsify"]
    assert sparsify == {"magnitude": {"density": [0.75, 0.25]}}


REFUSED = [
    (TIES.replace("merge_method: ties", "merge_method: tiess"), "`tiess` has no counterpart"),
    (TIES.replace("models:", "slices: []\nmodels:"), "layers put together anew"),
    (TIES.replace("model: org/krea", "model: org/krea+lora"), "adds an adapter"),
    (TIES.replace("dtype: bfloat16", "dtype: int4"), "dtype: expected one of"),
    (TIES.replace("tokenizer_source", "tokeniser"), "unknown field `tokeniser`, expected one of "),
    (TIES.replace("lambda: 0.8", "lambda: [{filter: lm_head, value: 1}, {value: 0}]"), "`lm_head`"),
    (TIES.replace("lambda: 0.8", "lambda: [{filter: mlp, value: 1}]"), "no value for the rest"),
    (TIES.replace("lambda: 0.8", "lambda: []"), "an empty list"),
    ("merge_method: ties\n", "models: missing, expected it to be given"),
    (
        (
            "merge_method: nuslerp\nmodels: [{model: a}, {model: b}]\n"
            "parameters: {nuslerp_flatten: false, nuslerp_row_wise: true, weight: 1}\n"
        ),
        "vectors down the columns",
    ),
    ("merge_method: ties\nmodels: [{model: a}]\n", "no base is named"),
    ("merge_method: ties\nmodels: [a]\n", "models[0]: expected a mapping, got the text `a`"),
    ("merge_method: ties\nmodels: [{model: 3}]\n", "models[0].model: expected a model, got 3"),
    (
        "merge_method: ties\nmodels: [{model: a, parameters: 3}]\n",
        "models[0].parameters: expected a mapping, got 3",
    ),
    (
        "merge_method: passthrough\nmodels: [{model: a}, {model: b}]\n",
        "passthrough, expected one model without parameters",
    ),
    (
        "merge_method: nuslerp\nmodels: [{model: a}, {model: b}]\n",
        "nuslerp, expected two models with a number as `weight` each",
    ),
    (
        TIES.replace("lambda: 0.8", "lambda: [{filter: mlp, value: 1}, {filter: attn}]"),
        "[1]: expected {filter, value}, got a mapping of 1 key",
    ),
]


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^x\.yml: expected a mapping with `merge_method`"):
        import_mergekit(["merge_method"], "x.yml")
    with pytest.raises(RecipeError, match="mergekit names its models itself"):
        import_recipe(TIES, models={"a": "x", "b": "y"})


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_would_change_the_result_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert message in caught.value.message


def test_the_command_line_tells_mergekit_by_its_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "merge.yml"
    path.write_text(TIES, encoding="utf-8")
    assert cli._run(["recipe", "import", str(path)]) == 0
    out, err = capsys.readouterr()
    assert Recipe.load(out) == read(TIES).recipe
    assert "int8_mask" in err
