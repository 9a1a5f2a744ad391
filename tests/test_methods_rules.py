"""Methods in recipes: who is the base, what stands in where models lack a unit, what is refused."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import factory
import submerge
from factory import KREA, SCHNELL, Flux
from flux_units import flux_units
from planning import planned
from submerge import cli
from submerge.errors import RecipeError
from submerge.methods import METHODS, Blend, Setting, parse_method, plain_method
from submerge.methods.catalogue import catalogue
from submerge.methods.delta import key_of
from submerge.recipe import Recipe
from submerge.values import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

UNITS = flux_units()
ALL = Selection.of(UNITS)
THREE = Setting(("schnell", "krea", "dev"), base="dev", seed=3)
ONE = "single.4.attn.q.weight"
PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def mixture(raw: dict[str, Any], setting: Setting = THREE, unit: str = ONE) -> Any:
    method = parse_method(raw, "m")
    method.check(setting, "m")
    blend = method.blends(setting, ALL, "m")[unit]
    return dict(blend.shares) if blend.is_sum else blend


def arguments(raw: dict[str, Any], setting: Setting = THREE, unit: str = ONE) -> Mapping[str, Any]:
    found = mixture(raw, setting, unit)
    assert isinstance(found, Blend)
    return found.arguments


# Who takes which part.


def test_the_method_s_own_base_wins_over_the_recipe_s() -> None:
    assert mixture({"ties": {}}).models == ("dev", "krea", "schnell")
    assert mixture({"ties": {"base": "krea"}}).models == ("krea", "dev", "schnell")


def test_a_base_of_deltas_apart_from_the_base_is_a_plain_sum() -> None:
    raw = {"task_arithmetic": {"base": "krea", "delta_base": "dev", "lambda": 0.8}}
    assert mixture(raw) == {"schnell": 0.8, "krea": 1.0, "dev": -0.8}


def test_the_three_parts_of_a_difference() -> None:
    assert mixture({"add_difference": {}}) == {"schnell": 1.0, "krea": 1.0, "dev": -1.0}
    named = {"add_difference": {"to": "krea", "plus": "schnell", "alpha": 0.5}}
    assert mixture(named) == {"krea": 1.0, "schnell": 0.5, "dev": -0.5}


def test_a_way_between_two_models_leaves_the_recipe_s_base_out() -> None:
    assert mixture({"slerp": {}}).models == ("schnell", "krea")


@pytest.mark.parametrize("name", ["slerp", "norm_lerp", "nuslerp"])
def test_the_ends_of_a_way_are_the_models(name: str) -> None:
    assert mixture({name: {"alpha": 0}}) == {"schnell": 1.0, "krea": 0.0}
    assert mixture({name: {"alpha": 1}}) == {"schnell": 0.0, "krea": 1.0}


@pytest.mark.parametrize(
    "name", ["ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs_ties"]
)
def test_mergekit_s_arithmetic_is_asked_for_by_the_recipe_or_the_method(name: str) -> None:
    asked = Setting(THREE.models, "dev", 3, compat="mergekit")
    own, other = arguments({name: {"density": 0.5}}), arguments({name: {"density": 0.5}}, asked)
    if "consensus" in METHODS[name].parameters():
        assert (own["consensus"], other["consensus"]) == ("plain", "sum")
        assert arguments({name: {"consensus": "count"}}, asked)["consensus"] == "count"
    (own_kind,), (other_kind,) = own["sparsify"].values(), other["sparsify"].values()
    if "rescale" in METHODS[name].parameters():
        assert (own_kind["rescale"], other_kind["rescale"]) == ("inverse", "l1")
        given = arguments({name: {"density": 0.5, "rescale": "none"}}, asked)["sparsify"]
        assert next(iter(given.values()))["rescale"] == "none"


def test_what_counts_as_nothing_is_mergekit_s_on_request() -> None:
    asked = Setting(THREE.models, "dev", 3, compat="mergekit")
    for name in ("sce", "model_stock"):
        floors = [arguments({name: {}}, setting)[name]["floor"] for setting in (THREE, asked)]
        assert floors == [0.0, 1e-6]


@pytest.mark.parametrize(
    ("raw", "model"),
    [
        ({"polar": {"direction": 1, "norm": 1}}, "krea"),
        ({"polar": {"direction": 0, "norm": 0}}, "schnell"),
        ({"add_cosine_a": {"alpha": 1}}, "krea"),
        ({"sce": {"select_topk": 0}}, "dev"),
        ({"norm_limit": {"limit": 0}}, "dev"),
        ({"smooth_add": {"alpha": 0}}, "schnell"),
    ],
)
def test_an_end_is_a_model_itself(raw: dict[str, Any], model: str) -> None:
    found = mixture(raw)
    assert {name: weight for name, weight in found.items() if weight} == {model: 1.0}


@pytest.mark.parametrize(
    "name", ["task_arithmetic", "ties", "dare_ties", "della", "breadcrumbs", "consensus_mask"]
)
def test_without_any_delta_the_base_is_left(name: str) -> None:
    assert mixture({name: {"lambda": 0}}) == {"dev": 1.0}
    assert mixture({name: {"weight": {"krea": 0}}}) == {"dev": 1.0}


def test_models_without_a_weight_are_no_operands() -> None:
    found = mixture({"ties": {"weight": {"krea": 1, "schnell": {"double": 1, "default": 0}}}})
    assert found.models == ("dev", "krea")


# Parameters.


def test_every_parameter_may_differ_from_block_to_block() -> None:
    raw = {"ties": {"lambda": {"from": 0, "to": 1}, "density": {"double": 0.5, "default": 0.25}}}
    found = arguments(raw, unit="double.18.img.mlp.in.weight")
    assert found["lambda"] == pytest.approx(18 / 56)
    assert found["sparsify"] == {"magnitude": {"density": [0.5, 0.5]}}


def test_a_density_may_be_that_of_a_model() -> None:
    raw = {"ties": {"density": {"schnell": 0.5, "krea": {"double": 0.1, "default": 0.2}}}}
    assert arguments(raw)["sparsify"] == {"magnitude": {"density": [0.2, 0.5]}}


def test_whole_deltas_are_not_looked_at() -> None:
    for name in ("ties", "dare_linear", "della", "breadcrumbs"):
        assert arguments({name: {}})["sparsify"] == {"none": {}}


def test_noise_depends_on_seed_unit_and_model() -> None:
    keys = {key_of(s, u, m) for s in (0, 1) for u in ("a", "b") for m in ("x", "y")}
    assert len(keys) == 8
    # printf '0\\0double.0.img.mod.bias\\0krea' | sha256sum, the first 16 digits byte by byte.
    assert key_of(0, "double.0.img.mod.bias", "krea") == 0xDDCCC970BD30A33E
    found = arguments({"dare_linear": {"density": 0.5}})
    assert found["sparsify"]["random"]["keys"] == [key_of(3, ONE, m) for m in ("krea", "schnell")]


def test_a_model_left_whole_has_no_probabilities_to_spread() -> None:
    raw = {"della": {"density": {"krea": 1, "schnell": 0.5}}}
    assert arguments(raw)["sparsify"]["rank"]["epsilon"] == [0.0, 0.15]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_survives_the_round_trip(name: str) -> None:
    assert plain_method(parse_method(name, "m")) == {name: {}}
    parameters = METHODS[name].parameters()
    given: dict[str, Any] = {
        key: 0.25 for key in parameters if key in ("alpha", "lambda", "density", "t")
    }
    given |= {key: "dev" for key in parameters if key == "base"}
    assert plain_method(parse_method({name: given}, "m")) == {name: given}


REFUSED: list[tuple[dict[str, Any], Setting, str]] = [
    ({"ties": {}}, Setting(("a", "b")), "m.ties: no base is named"),
    ({"ties": {"base": "d"}}, Setting(("a", "b")), "m.ties.base: no model is called `d`"),
    ({"ties": {"weight": {"a": 1}}}, Setting(("a", "b"), "a"), "m.ties.weight: `a` is the base"),
    ({"ties": {"weight": {"c": 1}}}, Setting(("a", "b"), "a"), "m.ties.weight: no model is called"),
    ({"ties": {}}, Setting(("a",), "a"), "m.ties: no model beside the base"),
    ({"ties": {"density": 1.5}}, THREE, "m.ties.density: 1.5 for `krea` in "),
    ({"ties": {"density": {"krea": 1}}}, THREE, "m.ties.density: no number for `schnell`"),
    ({"ties": {"density": {"krea": 1, "x": 1}}}, THREE, "m.ties.density: no model is called `x`"),
    ({"ties": {"density": {}}}, THREE, "m.ties.density: expected at least one model or selector"),
    ({"ties": {"consensus": "all"}}, THREE, "m.ties.consensus: expected one of `plain`, `sum`, "),
    ({"della": {"density": 0.9}}, THREE, "m.della.epsilon: 0.15 about the density 0.9 of `krea`"),
    ({"slerp": {}}, Setting(("a", "b", "c")), "m.slerp: a method of two models"),
    ({"nuslerp": {}}, Setting(("a", "b"), "a"), "m.nuslerp: a method of two models"),
    ({"model_stock": {}}, Setting(("a", "b"), "a"), "m.model_stock: expected at least two models"),
    ({"karcher": {}}, Setting(("a",)), "m.karcher: expected at least two models"),
    (
        {"karcher": {"max_iter": 0}},
        THREE,
        "m.karcher.max_iter: expected a whole number of at least 1",
    ),
    ({"karcher": {"rowwise": 1}}, THREE, "m.karcher.rowwise: expected true or false, got 1"),
    ({"multislerp": {"weight": {"krea": 1}}}, THREE, "m.multislerp: expected at least two models"),
    ({"clamp": {}}, Setting(("a", "b")), "m.clamp: three models in `A + (B - C)`"),
    ({"clamp": {"to": "dev", "plus": "dev"}}, THREE, "m.clamp: three models in `A + (B - C)`"),
    ({"clamp": {}}, Setting(("a", "b", "c", "d")), "m.clamp: three models in `A + (B - C)`"),
    ({"ties": {"density": {3: 1}}}, THREE, "m.ties.density: the key 3 is not text"),
    (
        {"multislerp": {"weight": {"krea": 1, "schnell": {"double": 0, "default": 1}}}},
        THREE,
        "m.multislerp.weight: expected two models with a weight, got 1",
    ),
    ({"nearswap": {"t": -1}}, Setting(("a", "b")), "m.t: -1, expected a distance"),
    ({"ram": {"epsilon": -1}}, THREE, "m.ram.epsilon: -1, expected at least 0"),
    ({"ramplus_tl": {"r": -1}}, THREE, "m.ramplus_tl.r: -1, expected at least 0"),
    ({"sce": {"select_topk": 2}}, THREE, "m.sce.select_topk: 2 in `embed.img.weight`, expected a"),
    ({"norm_limit": {"limit": -1}}, THREE, "m.norm_limit.limit: -1, expected at least 0"),
    ({"lerp": {}}, Setting(("a",)), "m.lerp: a method of two models, expected two, got 1"),
    ({"rotate": {}}, Setting(("a",)), "m.rotate: a method of two models"),
    ({"rotate": {"alignment": -1}}, Setting(("a", "b")), "m.rotate.alignment: -1 for `"),
    ({"polar": {}}, Setting(("a",)), "m.polar: a method of two models"),
    ({"arcee_fusion": {}}, Setting(("a",)), "m.arcee_fusion: a method of two models"),
    ({"add_cosine_a": {}}, Setting(("a",)), "m.add_cosine_a: a method of two models"),
]


def told(raw: dict[str, Any], setting: Setting, where: str) -> None:
    method = parse_method(raw, "m")
    method.check(setting, where)
    method.blends(setting, ALL, where)


@pytest.mark.parametrize(("raw", "setting", "message"), REFUSED)
def test_what_does_not_fit_is_refused(raw: dict[str, Any], setting: Setting, message: str) -> None:
    ((name, _),) = raw.items()
    with pytest.raises(RecipeError) as caught:
        told(raw, setting, f"m.{name}")
    assert caught.value.message.replace(f"m.{name}.t", "m.t").startswith(message)


def test_a_base_that_is_no_model_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"recipe\.base: no model is called `deb`"):
        Recipe.load({"models": {"a": "x", "dev": "y"}, "base": "deb"})


# Units that only some models have.

DEV = Flux(guidance=True, seed=9)
TRIO = {"schnell": SCHNELL, "krea": KREA, "dev": DEV}
OUT = "guidance.out.weight"


def units(tmp: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    return {unit.name: unit for unit in planned(tmp, TRIO, recipe).units}


def test_a_lone_guided_model_s_embedder_is_copied(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"schnell": SCHNELL, "krea": KREA}, {"method": {"slerp": {}}})
    found = {unit.name: unit for unit in plan.units}
    assert (found[OUT].op, found[OUT].models) == ("copy", ("krea",))
    assert found[ONE.replace("4", "1")].op == "combine"


def test_among_guided_models_the_shares_of_deltas_stand_in(tmp_path: Path) -> None:
    weight = {"krea": 0.5, "schnell": 1}
    method = {"ties": {"weight": weight, "density": 0.5, "normalize": False}}
    found = units(tmp_path, {"base": "dev", "method": method})
    assert dict(zip(found[OUT].models, found[OUT].weights, strict=True)) == {
        "dev": 0.5,
        "krea": 0.5,
    }
    assert found["final.linear.weight"].op == "delta"


def test_a_base_without_guidance_leaves_the_shares_of_the_others(tmp_path: Path) -> None:
    method = {"task_arithmetic": {"weight": {"krea": 0.3, "dev": 0.1}}}
    found = units(tmp_path, {"base": "schnell", "method": method})[OUT]
    weights = dict(zip(found.models, found.weights, strict=True))
    assert weights == {"dev": pytest.approx(0.25), "krea": pytest.approx(0.75)}


def test_a_baked_embedder_is_a_weighted_sum_and_so_is_what_it_goes_into(tmp_path: Path) -> None:
    both = {"krea": KREA, "dev": DEV}
    recipe = {"method": {"slerp": {"alpha": 0.25}}, "guidance": {"bake": 3.5}}
    found = {unit.name: unit for unit in planned(tmp_path, both, recipe).units}
    into = found["embed.time.out.bias"]
    assert (into.op, into.weights) == ("linear", (0.25, 0.75))
    assert found["embed.time.in.bias"].op == "combine"


def test_two_guided_models_slerp_their_embedders(tmp_path: Path) -> None:
    both = {"krea": KREA, "dev": DEV}
    plan = planned(tmp_path, both, {"method": {"slerp": {}}, "guidance": "scale"})
    assert {unit.op for unit in plan.units} == {"combine"}


def test_methods_mix_freely_and_layouts_change_no_bit(tmp_path: Path) -> None:
    recipe = {
        "base": "dev",
        "method": {"dare_ties": {"density": 0.5, "weight": {"krea": 1, "schnell": 0.5}}},
        "rules": [
            {"where": "double[0]", "method": {"ties": {"density": 0.3}}},
            {"where": "single[*].mlp", "method": {"add_difference": {"to": "krea"}}},
            {"where": "double[1].img", "method": {"della": {"density": {"from": 0.4, "to": 0.6}}}},
            {"where": "final", "take": "krea"},
        ],
        "output": {"layout": "diffusers"},
    }  # fmt: skip
    outputs = []
    for layout in ("diffusers", "bfl"):
        folder = tmp_path / layout
        folder.mkdir()
        paths = {
            name: str(factory.save_file(folder / f"{name}.safetensors", flux, layout))
            for name, flux in TRIO.items()
        }
        submerge.merge({"models": paths, **recipe}, folder / "out.safetensors")
        outputs.append(factory.read(folder / "out.safetensors"))
    first, second = outputs
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert all(math.isfinite(float(abs(array.astype("f4")).max())) for array in first.values())


# What is told of them.


def test_the_page_of_methods_is_that_of_the_methods() -> None:
    text = PAGE.read_text(encoding="utf-8")
    script = runpy.run_path(str(PAGE.parents[1] / "scripts" / "docs_methods.py"))
    assert script["page"](text) == text, "run `python scripts/docs_methods.py`"


def test_every_method_says_all_there_is_to_say() -> None:
    for name, entry in catalogue().to_dict().items():
        assert entry["summary"].endswith("."), name
        assert entry["formula"], name
        assert entry["source"], name
        for parameter, said in entry["parameters"].items():
            assert said["meaning"].endswith("."), (name, parameter)


def test_methods_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["methods", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(METHODS)
    assert cli._run(["methods", "ties"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("ties\n")
    assert "density" in shown
    assert cli._run(["methods", "tise"]) == 2
    assert "did you mean `ties`?" in capsys.readouterr().err
