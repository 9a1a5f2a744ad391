"""Plans: which rows of which model go where, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
from factory import KREA, SCHNELL, Flux
from planning import golden, interpret, paths, planned, saved

if TYPE_CHECKING:
    from submerge.plan import Plan

GOLDEN = Path(__file__).parent / "data" / "plans"
THIRD = Flux(guidance=True, seed=2)
TINY = Flux(1, 1, 32, 16)


def weights(plan: Plan, unit: str) -> dict[str, float]:
    (found,) = (u for u in plan.units if u.name == unit)
    return dict(zip(found.models, found.weights or (1.0,), strict=True))


def all_weights(plan: Plan) -> dict[str, dict[str, float]]:
    return {unit.name: weights(plan, unit.name) for unit in plan.units}


TINY_KREA = replace(TINY, guidance=True, seed=1)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "linear": (
        {
            "alpha": 0.3,
            "extras": "drop",
            "output": {"layout": "diffusers", "shard_size": 60_000},
        },
        "out",
    ),
    "rules": (
        {
            "alpha": {"from": 0.25, "to": 0.75},
            "rules": [
                {"where": "double[0].img.attn.q", "take": "krea"},
                {"where": "single[*].mlp", "alpha": 1},
            ],
            "exclude": ["embed.txt"],
            "guidance": {"bake": 3.5},
            "output": {"layout": "comfy", "dtype": "f8_e4m3", "overflow": "nan"},
        },
        "out.safetensors",
    ),
    "scale": (
        {
            "weight": {"schnell": 1, "krea": 3},
            "guidance": "scale",
            "extras": "drop",
            "output": {"layout": "bfl", "dtype": "f16", "card": False},
        },
        "out",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_golden_plans(tmp_path: Path, case: str) -> None:
    """Set SUBMERGE_GOLDEN=write to accept new plans; read the difference first."""
    recipe, target = CASES[case]
    factory.save_folder(tmp_path / "schnell", TINY, shards=2)
    krea = factory.save_comfy(tmp_path / "krea.safetensors", TINY_KREA)
    plan = planned(tmp_path, {"schnell": tmp_path / "schnell", "krea": krea}, recipe, target)
    text = golden(plan, tmp_path)
    path = GOLDEN / f"{case}.txt"
    if os.environ.get("SUBMERGE_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_merge_is_the_weighted_sum_rounded_once(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"s": SCHNELL, "k": KREA}, {"alpha": 0.3})
    found, s, k = interpret(plan), factory.tensors(SCHNELL), factory.tensors(KREA)
    for name, array in s.items():
        # Operands stand in the order of names: k before s.
        expected = np.float32(0.3) * k[name].astype(np.float32)
        expected = expected + np.float32(0.7) * array.astype(np.float32)
        assert np.array_equal(found[name], expected.astype(array.dtype)), name


@pytest.mark.parametrize(("alpha", "parent"), [(0, "a"), (1, "b")])
def test_alpha_0_and_1_are_the_parents_bytes(tmp_path: Path, alpha: int, parent: str) -> None:
    models: dict[str, Flux | Path] = {"a": SCHNELL, "b": THIRD}
    plan = planned(tmp_path, models, {"alpha": alpha})
    assert {unit.op for unit in plan.units} == {"copy"}
    assert {unit.models for unit in plan.units} == {(parent,)}
    assert any("is a copy of it" in note for note in plan.about.notes)
    expected = factory.tensors(SCHNELL if parent == "a" else THIRD)
    found = interpret(plan)
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert {unused.model for unused in plan.about.unused} == {"b" if parent == "a" else "a"}
    assert plan.about.license.startswith("apache" if parent == "a" else "flux-1-dev")


def test_permuting_the_models_changes_no_operand(tmp_path: Path) -> None:
    models: dict[str, Flux | Path] = {"x": SCHNELL, "a": KREA, "m": THIRD}
    recipe = {"weight": {"x": 1, "a": 2, "m": 3}, "output": {"layout": "bfl"}}
    plans = [
        planned(tmp_path, {name: models[name] for name in order}, recipe)
        for order in ("xam", "max", "amx")
    ]
    for plan in plans:
        for unit in plan.units:
            assert list(unit.models) == sorted(unit.models)
    made = [[(u.name, u.weights, u.models) for u in plan.units] for plan in plans]
    assert made[0] == made[1] == made[2]


def test_the_first_rule_that_matches_decides(tmp_path: Path) -> None:
    rules = [
        {"where": "double[0].img", "take": "b"},
        {"where": "double[0]", "alpha": 0.1},
        {"where": "*.img", "alpha": 0.2},
        {"where": "single[0:2]", "alpha": [0.3, 0.4]},
    ]
    plan = planned(tmp_path, {"a": SCHNELL, "b": THIRD}, {"alpha": 0.9, "rules": rules})
    assert weights(plan, "double.0.img.attn.q.weight") == {"b": 1}
    assert weights(plan, "double.0.txt.attn.q.weight") == {"a": 0.9, "b": 0.1}
    assert weights(plan, "double.1.img.mod.bias") == {"a": 0.8, "b": 0.2}
    assert weights(plan, "embed.img.weight") == {"a": 0.8, "b": 0.2}
    assert weights(plan, "single.0.out.weight") == {"a": 0.7, "b": 0.3}
    assert weights(plan, "single.1.out.weight") == {"a": 0.6, "b": 0.4}
    assert weights(plan, "final.linear.bias") == pytest.approx({"a": 0.1, "b": 0.9})


def test_a_gradient_runs_over_what_is_merged(tmp_path: Path) -> None:
    recipe = {"alpha": {"from": 0, "to": 1}, "include": ["double"]}
    plan = planned(
        tmp_path, {"a": replace(SCHNELL, double=3), "b": replace(THIRD, double=3)}, recipe
    )
    assert weights(plan, "double.0.img.mod.bias") == {"a": 1}
    assert weights(plan, "double.1.img.mod.bias") == {"a": 0.5, "b": 0.5}
    assert weights(plan, "double.2.img.mod.bias") == {"b": 1}
    assert weights(plan, "single.1.mod.bias") == {"a": 1}


def test_what_is_shut_out_is_the_first_models(tmp_path: Path) -> None:
    models: dict[str, Flux | Path] = {"z": THIRD, "a": KREA}
    plan = planned(
        tmp_path, models, {"alpha": 0.5, "include": ["double", "final"], "exclude": ["*[1]"]}
    )
    for unit, found in all_weights(plan).items():
        merged = unit.startswith(("double.0.", "final."))
        assert found == ({"a": 0.5, "z": 0.5} if merged else {"z": 1}), unit
    reasons = {unused.reason: len(unused.tensors) for unused in plan.about.unused}
    assert set(reasons) == {
        "outside `include`, which is left to the first model",
        "in `exclude`, which is left to the first model",
    }


def test_weights_that_extrapolate_are_remarked_on(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"a": SCHNELL, "b": THIRD}, {"alpha": 1.5})
    assert weights(plan, "final.linear.bias") == {"a": -0.5, "b": 1.5}
    assert any("outside 0..1" in note for note in plan.about.notes)
    assert "result = -0.50 * a + 1.50 * b" in plan.describe()


def test_a_rule_others_leave_nothing_to_is_remarked_on(tmp_path: Path) -> None:
    rules = [{"where": "double", "alpha": 0.1}, {"where": "double[0]", "alpha": 0.2}]
    plan = planned(tmp_path, {"a": SCHNELL, "b": THIRD}, {"rules": rules})
    assert any(note.startswith("rules[1] (`double[0]`) never applies") for note in plan.about.notes)


def test_metadata_knows_nothing_of_where_and_how_inputs_lie(tmp_path: Path) -> None:
    """One model as a file, as shards, in a pipeline and in the other layout, in four places."""
    places = [tmp_path / str(i) for i in range(4)]
    krea = [
        factory.save_file(places[0] / "krea.safetensors", KREA),
        factory.save_folder(places[1] / "krea", KREA, shards=5),
        factory.save_pipeline(places[2] / "krea", KREA, shards=2) / "transformer",
        factory.save_file(places[3] / "krea.safetensors", KREA, "bfl", "model."),
    ]
    os.utime(krea[0], (1, 1))
    found = []
    for place, path in zip(places, krea, strict=True):
        schnell = factory.save_file(place / "schnell.safetensors", SCHNELL)
        models: dict[str, Flux | Path] = {"schnell": schnell, "krea": path}
        plan = planned(place, models, {"alpha": 0.3, "output": {"layout": "diffusers"}}, "out")
        plain = plan.plain()
        outputs = interpret(plan)
        digest = {name: array.tobytes() for name, array in outputs.items()}
        found.append((plain["files"], plain["texts"], plain["outputs"], digest))
        assert str(tmp_path) not in json.dumps(plain["files"]) + json.dumps(plain["texts"])
    assert all(other == found[0] for other in found[1:])


def test_the_recipe_in_the_metadata_is_the_one_meant(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"s": SCHNELL, "k": KREA}, {"alpha": 0.3})
    facts = plan.files[0].metadata
    assert json.loads(facts["submerge.recipe"])["method"] == {"linear": {"alpha": 0.3}}
    inputs = json.loads(facts["submerge.inputs"])
    assert [(i["name"], i["units"]) for i in inputs] == [("s", 110), ("k", 114)]
    sizes = [sum(a.nbytes for a in factory.tensors(flux).values()) for flux in (SCHNELL, KREA)]
    assert [i["bytes"] for i in inputs] == sizes
    assert facts["format"] == "pt"
    assert not any("date" in key or "hash" in key for key in facts)


@pytest.mark.parametrize(
    "recipe",
    [
        {"alpha": 0.3},
        {"alpha": 0},
        {"alpha": 1, "guidance": "drop"},
        {"alpha": 0.5, "guidance": {"bake": 2}},
        {"alpha": 0.5, "rules": [{"where": "double[0].img.attn.q", "take": "k"}]},
        {"alpha": 0.5, "exclude": ["single", "final.mod.shift"]},
    ],
)
def test_every_tensor_is_used_or_listed(tmp_path: Path, recipe: dict[str, Any]) -> None:
    s = factory.save_comfy(tmp_path / "s.safetensors", SCHNELL)
    k = factory.save_file(tmp_path / "k.safetensors", KREA)
    models: dict[str, Flux | Path] = {"s": s, "k": k}
    plan = planned(tmp_path, models, {"extras": "drop", "output": {"layout": "bfl"}, **recipe})
    made = plan.plain()
    rows: set[tuple[str, str, int]] = set()
    names = {str(path): name for name, path in saved(tmp_path, models).items()}

    def use(source: int, tensor: str, start: int, end: int) -> None:
        name = names[str(paths(made)[source])]
        rows.update((name, tensor, row) for row in range(start, end))

    for unit in made["units"]:
        for (term,) in unit["operands"]:
            use(**term["rows"])
    for unused in plan.about.unused:
        assert unused.reason
        for tensor in unused.tensors:
            bare, _, part = tensor.partition(" rows ")
            height = factory.header(s if unused.model == "s" else k)[bare]["shape"][0]
            start, end = map(int, part.split("..")) if part else (0, height)
            listed = {(unused.model, bare, row) for row in range(start, end)}
            assert not listed & rows
            rows |= listed
    for name, path in (("s", s), ("k", k)):
        for tensor, info in factory.header(path).items():
            if tensor != "__metadata__":
                assert {(name, tensor, row) for row in range(info["shape"][0])} <= rows, tensor


def test_extras_are_carried_as_they_are(tmp_path: Path) -> None:
    s = factory.save_comfy(tmp_path / "s.safetensors", SCHNELL)
    k = factory.save_file(tmp_path / "k.safetensors", KREA)
    models: dict[str, Flux | Path] = {"k": k, "s": s}
    recipe = {"alpha": 0.3, "output": {"layout": "comfy", "dtype": "f32"}}
    for named in ({}, {"extras": "s"}):
        found = interpret(planned(tmp_path, models, recipe | named))
        for name, array in factory.extras().items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
    dropped = planned(tmp_path, models, recipe | {"extras": "drop"})
    assert not set(factory.extras()) & set(interpret(dropped))
    (unused,) = dropped.about.unused
    assert (unused.model, sorted(unused.tensors)) == ("s", sorted(factory.extras()))
    # A file in the form of its owner keeps them without being asked for a layout.
    same = planned(tmp_path, {"s": s}, {"take": "s", "extras": "s"})
    assert set(factory.extras()) < set(interpret(same))
