"""Recipes: what is read, what is refused and in which words, the normal form, the schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from flux_units import flux_units
from submerge.errors import RecipeError
from submerge.recipe import Guidance, Recipe
from submerge.recipe.template import template, template_names
from submerge.values import Selection

DOCS = Path(__file__).parent.parent / "docs"
DATA = Path(__file__).parent / "data" / "recipes"
SCHEMA = Draft202012Validator(Recipe.schema())
TWO = {"schnell": "a.safetensors", "krea": "b"}
FULL = (DATA / "full.yaml").read_text(encoding="utf-8")


def applied(recipe: Recipe, units: list[str]) -> dict[str, dict[str, float]]:
    """Decide every unit by the first step that reaches it."""
    from submerge.blocks import Selector, select

    rows: dict[str, dict[str, float]] = {}
    for step in recipe.steps():
        at = units if step.where is None else select(Selector.parse(step.where, step.path), units)
        chosen = Selection.of(at, [unit for unit in at if unit not in rows])
        blends = step.method.blends(recipe.setting(), chosen, step.path)
        rows |= {unit: dict(blend.shares) for unit, blend in blends.items()}
    return rows


# -- what is read ---------------------------------------------------------------------------------


def test_every_field_is_read() -> None:
    recipe = Recipe.load(FULL)
    assert list(recipe.models) == ["schnell", "krea"]
    assert recipe.models["krea"].layout == "diffusers"
    assert recipe.models["krea"].license == "other"
    assert [rule.where for rule in recipe.rules] == [
        "single[*].mlp",
        "embed",
        "**.norm",
        "guidance",
    ]
    assert recipe.include == ("embed", "guidance", "double", "single")
    assert recipe.exclude == ("double[18]",)
    assert recipe.guidance == Guidance("bake", 3.5)
    assert recipe.extras == "krea"
    light, style = recipe.adapters
    assert (light.path, light.onto, light.scale.plain()) == ("/models/light.safetensors", None, 1.0)
    assert (style.onto, style.compat, style.license) == ("krea", "comfyui", "other")
    assert style.scale.plain() == {"double[0:8]": 0.5, "default": {"from": 0.0, "to": 1.0}}
    assert style.allow == ("lora_unet_guidance_in_*",)
    assert recipe.output.shard_size == 4 * 2**30
    assert (recipe.output.layout, recipe.output.dtype.plain()) == ("comfy", "f8_e4m3")
    assert (recipe.output.overflow, recipe.output.link) == ("nan", "copy")
    assert (recipe.output.card, recipe.output.title) == (False, "A fox")
    assert recipe.seed == 2**64 - 1


def test_what_is_left_out_has_a_meaning() -> None:
    recipe = Recipe.load({"models": TWO})
    assert recipe.guidance == Guidance("keep")
    assert recipe.output.layout == recipe.output.dtype.plain() == "same"
    assert recipe.output.shard_size is None
    assert set(map(str, applied(recipe, flux_units()).values())) == {
        "{'schnell': 0.5, 'krea': 0.5}"
    }


def test_the_first_rule_that_matches_decides() -> None:
    rows = applied(Recipe.load(FULL), flux_units())
    assert rows["double.7.img.mod.bias"] == {"schnell": 0.8, "krea": 0.2}
    assert rows["double.8.img.mod.bias"] == {"schnell": 0.5, "krea": 0.5}
    assert rows["single.0.mlp.in.weight"] == {"schnell": 0.7, "krea": 0.3}
    assert rows["single.37.mlp.in.weight"]["krea"] == 0.8
    assert rows["embed.vector.in.bias"] == {"schnell": 0.75, "krea": 0.25}
    assert rows["single.3.norm.q.weight"] == {"schnell": 0.0, "krea": 2.0}
    assert rows["guidance.out.bias"] == {"krea": 1.0}


def test_a_rule_keeps_what_the_top_level_says_of_normalising() -> None:
    recipe = Recipe.load(
        {
            "models": {"krea": "k", "schnell": "s", "dev": "d"},
            "method": {
                "linear": {"weight": {"krea": 1, "schnell": 1, "dev": -1}, "normalize": False}
            },
            "rules": [{"where": "final", "weight": {"krea": 2}}],
        }
    )
    rows = applied(recipe, ["embed.img.bias", "final.linear.bias"])
    assert rows["final.linear.bias"] == {"krea": 2.0, "schnell": 0.0, "dev": 0.0}


def test_a_single_model_is_itself() -> None:
    recipe = Recipe.load({"models": {"a": "a"}})
    assert applied(recipe, ["embed.img.bias"]) == {"embed.img.bias": {"a": 1.0}}
    assert Recipe.load(recipe.to_dict()) == recipe


def test_yaml_json_and_dict_are_one_recipe(tmp_path: Path) -> None:
    recipe = Recipe.load(FULL)
    data = recipe.to_dict()
    (tmp_path / "r.yaml").write_text(FULL)
    (tmp_path / "r.json").write_text(json.dumps(data, indent=1))
    digests = {
        Recipe.load(source).digest()
        for source in (
            data,
            recipe,
            FULL,
            json.dumps(data),
            recipe.to_yaml(),
            tmp_path / "r.yaml",
            str(tmp_path / "r.json"),
        )
    }
    assert digests == {recipe.digest()}
    assert re.fullmatch("[0-9a-f]{64}", recipe.digest())


def test_spelling_does_not_change_the_recipe() -> None:
    short = Recipe.load({"models": TWO, "alpha": 0.5, "output": {"shard_size": "10GB"}})
    long = {
        "seed": 0,
        "output": {"shard_size": 10_000_000_000, "card": True},
        "method": {"linear": {"alpha": 0.5, "normalize": True}},
        "guidance": "keep",
        "models": {"schnell": {"path": "a.safetensors"}, "krea": "b"},
    }
    assert (
        Recipe.load(long)
        == short
        == Recipe.load({"models": TWO, "output": {"shard_size": "10 gb"}})
    )
    assert hash(Recipe.load(long)) == hash(short)
    assert short.to_dict() == {
        "models": TWO,
        "method": {"linear": {"alpha": 0.5}},
        "output": {"shard_size": "10GB"},
    }


def test_a_rule_has_one_normal_form() -> None:
    method = {"where": "double", "method": {"linear": {"alpha": 0.25}}}
    short = {"where": "double", "alpha": 0.25}
    assert Recipe.load({"models": TWO, "rules": [method]}).to_dict()["rules"] == [short]


def test_the_order_of_models_is_part_of_the_recipe() -> None:
    one = Recipe.load({"models": TWO, "alpha": 0.5})
    other = Recipe.load({"models": dict(reversed(TWO.items())), "alpha": 0.5})
    assert one != other
    assert one.digest() != other.digest()


def test_paths_may_be_path_objects() -> None:
    assert Recipe.load({"models": {"a": Path("x/y")}}).models["a"].path == str(Path("x/y"))


def test_models_can_be_given_apart() -> None:
    recipe = Recipe.for_models({"a": Path("one"), "b": "two"}, {"alpha": 0.25})
    assert recipe == Recipe.load({"models": {"a": "one", "b": "two"}, "alpha": 0.25})
    assert Recipe.for_models({"a": "one", "b": "two"}, None) == Recipe.load(
        {"models": {"a": "one", "b": "two"}}
    )


def test_aliases_and_merge_keys_are_read() -> None:
    text = """
models: {a: &path x.safetensors, b: *path}
rules:
  - &rule {where: double, alpha: 0.25}
  - {<<: *rule, where: single}
"""
    recipe = Recipe.load(text)
    assert recipe.models["b"].path == "x.safetensors"
    assert [(r.where, r.alpha and r.alpha.plain()) for r in recipe.rules] == [
        ("double", 0.25),
        ("single", 0.25),
    ]


def test_yaml_is_version_1_2() -> None:
    recipe = Recipe.load("models: {no: 012, on: x}\nalpha: 1e-1\n".replace("012", "'012'"))
    assert list(recipe.models) == ["no", "on"]
    assert recipe.alpha is not None
    assert recipe.alpha.plain() == 0.1


# -- properties -----------------------------------------------------------------------------------

NUMBERS = st.floats(-8, 8)
SELECTORS = st.sampled_from(
    ["double", "double[0:8].img", "single[*].mlp", "guidance", "final", "**.norm", "embed.time"]
)
SIMPLE = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, min_size=1, max_size=5),
    st.fixed_dictionaries({"from": NUMBERS, "to": NUMBERS}),
)
VALUES = st.one_of(
    SIMPLE, st.dictionaries(SELECTORS | st.just("default"), SIMPLE, min_size=1, max_size=4)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(
        st.lists(
            st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,6}", fullmatch=True).filter(
                lambda name: name not in ("drop", "same", "default")
            ),
            min_size=2,
            max_size=4,
            unique=True,
        )
    )
    weights = st.dictionaries(st.sampled_from(names), VALUES, min_size=1)
    actions: list[st.SearchStrategy[dict[str, Any]]] = [
        st.fixed_dictionaries({"take": st.sampled_from(names)}),
        st.fixed_dictionaries({"weight": weights}),
        st.builds(
            lambda w, n: {"method": {"linear": {"weight": w, "normalize": n}}},
            weights,
            st.booleans(),
        ),
    ]
    if len(names) == 2:
        actions.append(st.fixed_dictionaries({"alpha": VALUES}))
    action = st.one_of(actions)
    rule = st.builds(lambda where, what: {"where": where, **what}, SELECTORS, action)
    output = st.fixed_dictionaries(
        {},
        optional={
            "layout": st.sampled_from(["same", "diffusers", "bfl", "comfy"]),
            "dtype": st.sampled_from(["same", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2"]),
            "shard_size": st.integers(1, 10**14) | st.sampled_from(["5GB", "1.5 MiB", "7kb"]),
            "title": TEXT,
            "card": st.booleans(),
            "pipeline_from": st.sampled_from(names) | st.just("./folder"),
        },
    )
    fields = st.fixed_dictionaries(
        {},
        optional={
            "rules": st.lists(rule, max_size=4),
            "include": st.lists(SELECTORS, max_size=2),
            "exclude": st.lists(SELECTORS, max_size=2),
            "guidance": st.sampled_from(["keep", "scale", "drop", {"scale": 0.5}, {"bake": 3.5}]),
            "extras": st.sampled_from([*names, "drop"]),
            "output": output,
            "seed": st.integers(0, 2**64 - 1),
        },
    )
    paths = draw(st.lists(TEXT, min_size=len(names), max_size=len(names)))
    what: dict[str, Any] = {**draw(action), **draw(fields)}
    return {"models": dict(zip(names, paths, strict=True)), **what}


@given(recipes())
def test_the_normal_form_survives_every_way_of_writing_it(data: dict[str, Any]) -> None:
    recipe = Recipe.load(data)
    normal = recipe.to_dict()
    for again in (normal, recipe.to_yaml(), recipe.to_json(), json.dumps(normal, indent=2)):
        found = Recipe.load(again)
        assert found.to_dict() == normal
        assert list(found.models) == list(data["models"])
        assert found.digest() == recipe.digest()


@given(recipes())
def test_the_schema_accepts_what_is_accepted_and_every_normal_form(data: dict[str, Any]) -> None:
    for written in (data, Recipe.load(data).to_dict()):
        assert [error.message for error in SCHEMA.iter_errors(written)] == []


@given(recipes())
def test_the_normal_form_means_the_same(data: dict[str, Any]) -> None:
    recipe = Recipe.load(data)
    assert outcome(recipe) == outcome(Recipe.load(recipe.to_dict()))


def outcome(recipe: Recipe) -> object:
    """Return the weights, or what is wrong with them; its path depends on how they are spelled."""
    try:
        return applied(recipe, flux_units(2, 3))
    except RecipeError as error:
        return error.message.split(": ", 1)[1]


# -- templates, schema and documentation ----------------------------------------------------------


def test_the_published_schema_is_this_one() -> None:
    Draft202012Validator.check_schema(Recipe.schema())
    text = (DOCS / "recipe.schema.json").read_text(encoding="utf-8")
    assert text == json.dumps(Recipe.schema(), indent=2) + "\n", (
        "run `submerge recipe schema > docs/recipe.schema.json`"
    )


@pytest.mark.parametrize("path", sorted(DATA.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_recipes_load_and_fit_the_schema(path: Path) -> None:
    recipe = Recipe.load(path)
    applied(recipe, flux_units())
    assert SCHEMA.is_valid(recipe.to_dict())


@pytest.mark.parametrize("name", template_names())
def test_templates_load_and_apply(name: str) -> None:
    recipe = Recipe.load(template(name))
    rows = applied(recipe, flux_units())
    assert set(rows) == set(flux_units())
    assert all(sum(row.values()) == pytest.approx(1) for row in rows.values())
    assert template(name).startswith("# ")


def test_there_are_the_templates_the_documentation_names() -> None:
    assert template_names() == ["blocks", "even", "fewstep", "hybrid"]


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(RecipeError, match="no template is called `evn`, expected one of `blocks`"):
        template("evn")


def examples() -> list[tuple[str, str]]:
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    return re.findall(r"```(yaml|json)\n(.*?)```", text, re.DOTALL)


def test_the_documentation_has_examples() -> None:
    assert len(examples()) >= 8


@pytest.mark.parametrize("example", examples(), ids=lambda example: example[1].split("\n")[0][:30])
def test_examples_in_the_documentation_load_and_apply(example: tuple[str, str]) -> None:
    text = example[1]
    # Most examples show one part of a recipe; the models are those of the page's first.
    models = {"schnell": "FLUX.1-schnell", "krea": "FLUX.1-Krea-dev"}
    whole = re.search(r"^models:|\"models\"", text, re.MULTILINE)
    recipe = Recipe.load(text) if whole else Recipe.for_models(models, text)
    applied(recipe, flux_units())
