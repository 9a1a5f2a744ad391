"""Plans that are refused, and the plans that compare."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import factory
from factory import KREA, SCHNELL, Flux
from planning import opened, planned, saved
from submerge.errors import LayoutError, RecipeError, SubmergeError
from submerge.plan.comparison import comparison_plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def test_a_comparison_pairs_what_both_have(tmp_path: Path) -> None:
    models = opened(saved(tmp_path, {"b": SCHNELL, "a": KREA}))
    plan = comparison_plan(models)
    assert {unit.models for unit in plan.units} == {("b", "a")}
    assert {unit.weights for unit in plan.units} == {(0.0, 1.0)}
    assert len(plan.units) == len(plan.outputs) == 110
    assert [unit.output for unit in plan.units] == list(range(110))
    (note,) = plan.about.notes
    assert note.startswith("only `a` has: 4 units: `guidance.in.bias`")
    wide = opened(saved(tmp_path / "x", {"b": SCHNELL, "a": replace(SCHNELL, channels=128)}))
    notes = comparison_plan(wide).about.notes
    assert notes == ("not compared, different shapes: 1 unit: `embed.img.weight`",)


def test_models_with_nothing_in_common_are_not_compared(tmp_path: Path) -> None:
    a = factory.write(tmp_path / "a.safetensors", {"x": np.zeros(2, np.float32)})
    b = factory.write(tmp_path / "b.safetensors", {"y": np.zeros(2, np.float32)})
    models = opened({"a": a, "b": b}, "generic")
    with pytest.raises(LayoutError, match="`a` and `b` have no units in common"):
        comparison_plan(models)
    with pytest.raises(LayoutError, match="expected two to compare, got 1"):
        comparison_plan({"a": models["a"]})


A, B = SCHNELL, KREA
REFUSED: list[tuple[Mapping[str, Flux], dict[str, Any], type[SubmergeError], str, str]] = [
    (
        {"lite": replace(B, double=1), "dev": B},
        {},
        LayoutError,
        "different architectures: double 1 and 2",
        "Flux.1-lite",
    ),
    (
        {"a": A, "b": replace(A, hidden=32)},
        {},
        LayoutError,
        "hidden 64 and 32, mlp 256 and 128",
        "one architecture",
    ),
    ({"a": A, "b": replace(A, context=40)}, {}, LayoutError, "context_dim 48 and 40", "one arch"),
    (
        {"dev": B, "fill": replace(B, channels=384)},
        {},
        LayoutError,
        "`embed.img.weight`: `dev` has the shape [64, 64], `fill` [64, 384]",
        "rules: [{where: embed.img, take: dev}]",
    ),
    (
        {"a": A, "b": B},
        {"rules": [{"where": "duoble", "alpha": 1}]},
        RecipeError,
        "recipe.rules[0].where: the selector `duoble` matches nothing",
        "double",
    ),
    (
        {"a": A, "b": B},
        {"include": ["double[5]"]},
        RecipeError,
        "recipe.include[0]: the selector `double[5]`",
        "0 to 1",
    ),
    ({"a": A, "b": B}, {"exclude": ["vae"]}, RecipeError, "recipe.exclude[0]: the selector", ""),
    (
        {"a": A, "b": replace(A, seed=3)},
        {"rules": [{"where": "guidance", "take": "b"}]},
        RecipeError,
        "recipe.rules[0].where: the selector `guidance` matches nothing",
        "",
    ),
    (
        {"a": A, "b": B},
        {"method": {"linear": {"weight": {"a": 0}, "normalize": False}}},
        RecipeError,
        "recipe.method: every weight of",
        "zero",
    ),
    (
        {"a": A, "b": B},
        {"extras": "a"},
        RecipeError,
        "recipe.extras: `a` has no tensors outside",
        "leave `extras` out",
    ),
]


@pytest.mark.parametrize(("models", "recipe", "kind", "message", "hint"), REFUSED)
def test_refusals(
    tmp_path: Path,
    models: Mapping[str, Flux | Path],
    recipe: dict[str, Any],
    kind: type[SubmergeError],
    message: str,
    hint: str,
) -> None:
    with pytest.raises(kind) as caught:
        planned(tmp_path, models, recipe)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_extras_without_a_place_or_an_owner_are_refused(tmp_path: Path) -> None:
    a = factory.save_comfy(tmp_path / "a.safetensors", SCHNELL)
    b = factory.save_comfy(tmp_path / "b.safetensors", KREA)
    both: dict[str, Flux | Path] = {"a": a, "b": b}
    with pytest.raises(RecipeError, match="2 models have tensors outside") as caught:
        planned(tmp_path, both)
    assert "extras: a" in (caught.value.hint or "")
    for layout, target in (("diffusers", "o.safetensors"), ("bfl", "o.safetensors"), ("bfl", "o")):
        with pytest.raises(RecipeError, match="has no place") as caught:
            planned(tmp_path, both, {"extras": "b", "output": {"layout": layout}}, target)
        assert "extras: drop" in (caught.value.hint or "")


def test_generic_models_must_have_what_is_summed(tmp_path: Path) -> None:
    a = {"x": np.zeros((2, 6), np.float32), "y": np.zeros(2, np.float32)}
    b = {"x": np.zeros((2, 2, 3), np.float32)}
    paths: dict[str, Flux | Path] = {
        name: factory.write(tmp_path / f"{name}.safetensors", arrays)
        for name, arrays in (("a", a), ("b", b))
    }
    with pytest.raises(LayoutError, match=r"`x`: `a` has the shape \[2, 6\], `b` \[2, 2, 3\]"):
        planned(tmp_path, paths, layout="generic")
    with pytest.raises(LayoutError, match="`b` has no `y`"):
        planned(tmp_path, paths, {"rules": [{"where": "x", "take": "a"}]}, layout="generic")
    taken = {"rules": [{"where": "x", "take": "b"}, {"where": "y", "take": "a"}]}
    plan = planned(tmp_path, paths, taken, layout="generic")
    assert {o.name: o.shape for o in plan.outputs} == {"x": (2, 2, 3), "y": (2,)}
