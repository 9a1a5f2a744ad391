"""The sides of a grid: what they may be, and the recipes that stand at its points."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

import submerge
from factory import KREA, SCHNELL, save_file
from submerge import Recipe, RecipeError
from submerge.grid.axes import Axis, axes_of, points_of, view_at

if TYPE_CHECKING:
    from pathlib import Path


def test_texts_and_mappings_are_one() -> None:
    (text,) = axes_of({"x": "alpha=0,0.25,0.2..0.8"})
    (mapping,) = axes_of({"x": {"alpha": [0, 0.25, {"from": 0.2, "to": 0.8}]}})
    assert text == mapping == Axis("x", "alpha", (0, 0.25, {"from": 0.2, "to": 0.8}))
    assert text.labels == ["0", "0.25", "0.2..0.8"]
    (blocks,) = axes_of({"y": "set:single[*].mlp=0.5"})
    assert (blocks.side, blocks.name, blocks.of_recipe) == ("y", "set:single[*].mlp", True)
    (listed,) = axes_of({"z": {"set:double": [[0.1, 0.2]]}})
    assert listed.labels == ["[0.1, 0.2]"]
    (seeds,) = axes_of({"x": "seed=7"})
    assert seeds.values == (7,)
    assert not seeds.of_recipe


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("alpha", "grid.x: expected NAME=VALUE"),
        ("=1", "grid.x: expected NAME=VALUE"),
        ("alpha=", "grid.x: expected a number or FROM..TO, got ``"),
        ("alpha=a..b", "grid.x: expected a number or FROM..TO"),
        ("alhpa=1", "grid.x: expected `alpha`"),
        ("set:=1", "grid.x: expected `alpha`"),
        ("set=1", "grid.x: expected `alpha`"),
        ("steps=1.5", "grid.x.steps: expected a whole number"),
        ("seed=1..2", "grid.x.seed: expected a whole number"),
        ("guidance=1..2", "grid.x.guidance: expected a number"),
        ("alpha=1,1.0", "grid.x: expected each value of `alpha` once"),
        ({"alpha": []}, "grid.x: expected values of `alpha`, got none"),
        ({"alpha": 1}, "grid.x: expected a list of values"),
        ({"alpha": "12"}, "grid.x: expected a list of values"),
        ({"alpha": [True]}, "grid.x.alpha: expected a number"),
        ({"steps": [True]}, "grid.x.steps: expected a whole number"),
        ({"alpha": [1], "seed": [1]}, "grid.x: expected one name and its values"),
        ({1: [1]}, "grid.x: expected one name and its values"),
        (7, "grid.x: expected one name and its values"),
    ],
)
def test_what_is_no_axis_is_refused(given: Any, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        axes_of({"x": given})
    assert caught.value.message.startswith(says)


def test_a_grid_has_an_axis_each_once_and_no_more_points_than_anyone_looks_at() -> None:
    with pytest.raises(RecipeError, match="expected an axis, got none"):
        axes_of({"x": None})
    with pytest.raises(RecipeError, match="expected each axis once"):
        axes_of({"x": "alpha=1", "z": "alpha=0"})
    seeds = list(range(20))
    assert len(points_of(axes_of({"x": {"seed": seeds}, "y": {"steps": seeds[:20]}}))) == 400
    with pytest.raises(RecipeError, match="at most 400 points, got 420"):
        axes_of({"x": {"seed": seeds}, "y": {"steps": list(range(1, 22))}})


def test_points_of_one_recipe_follow_each_other() -> None:
    axes = axes_of({"x": "seed=1,2", "y": "alpha=0.1,0.2", "z": "set:single=0.3,0.4"})
    points = points_of(axes)
    assert len(points) == 8
    places = {tuple(sorted(point.at.items())) for point in points}
    assert places == {(("x", x), ("y", y), ("z", z)) for x, y, z in product(range(2), repeat=3)}
    recipes = [tuple(point.recipe.values()) for point in points]
    assert recipes == [r for r in dict.fromkeys(recipes) for _ in range(2)]
    assert points[0].options == {"seed": 1}


@pytest.fixture
def view(tmp_path: Path) -> submerge.View:
    models = {
        "a": str(save_file(tmp_path / "a.safetensors", SCHNELL, "bfl")),
        "b": str(save_file(tmp_path / "b.safetensors", KREA, "bfl")),
    }
    rules = [{"where": "double[0]", "alpha": 0.9}]
    return submerge.open({"models": models, "alpha": 0.5, "rules": rules})


def test_the_recipe_of_a_point(view: submerge.View) -> None:
    data = view.recipe.to_dict()
    made = view_at(view, {"alpha": 0.25, "set:single[0]": {"from": 0.1, "to": 0.2}})
    rules = [{"where": "single[0]", "alpha": {"from": 0.1, "to": 0.2}}, *data["rules"]]
    expected = {"models": data["models"], "alpha": 0.25, "rules": rules}
    assert made.recipe.to_dict() == Recipe.load(expected).to_dict()
    assert view_at(view, {}) is view
    with pytest.raises(RecipeError, match="sinlge"):
        view_at(view, {"set:sinlge": 0.5})
    with pytest.raises(RecipeError, match="adapter `style`: expected the name of one"):
        view_at(view, {"adapter:style": 0.5})


def test_a_place_that_is_none_is_told(tmp_path: Path) -> None:
    axis: Any = {"side": "x", "name": "seed", "values": [1, 2], "labels": ["1", "2"]}
    data: Any = {"axes": [axis], "prompts": ["a"], "cells": [], "recipes": []}
    with pytest.raises(RecipeError, match=r"within x 0\.\.1 and 1 prompts, got \{'x': 5\}"):
        submerge.Grid(tmp_path, data, 0).cell(x=5)
