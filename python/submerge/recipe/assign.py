"""Which model weighs how much in which unit: a recipe's rules applied to its models' units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from submerge.blocks import Selector, select
from submerge.errors import counted, listing
from submerge.methods import Method, Weights, notes_on
from submerge.values import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from submerge.recipe.model import Recipe

__all__ = ["Assignment", "assign"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a recipe says of each unit.

    Attributes:
        weights: for every unit, in the order given, the weight of every model, in the recipe's
            order.
        methods: for every unit, the method that decided it; None where `include` or `exclude` left
            the first model's.
        sources: for every unit, the path of the field that decided it (`recipe.rules[0]`).
        notes: what the user should know: extrapolation, rules that decide nothing, models without
            a part.
    """

    weights: Weights
    methods: dict[str, Method | None]
    sources: dict[str, str]
    notes: tuple[str, ...]


def assign(recipe: Recipe, units: Sequence[str]) -> Assignment:
    """Apply a recipe to units, the canonical names of all its models' units, each once.

    Lists and gradients run over everything their rule's selector reaches, also where an earlier
    rule decides.

    Raises:
        RecipeError: a selector that matches nothing, a value that does not fit its selection.
    """
    models = list(recipe.models)
    untouched = _untouched(recipe, units)
    weights: Weights = {}
    methods: dict[str, Method | None] = {}
    sources: dict[str, str] = {}
    notes: list[str] = []
    for field, names in untouched.items():
        for unit in names:
            if unit not in weights:
                weights[unit] = {model: float(model == models[0]) for model in models}
                methods[unit] = None
                sources[unit] = f"recipe.{field}"
    for step in recipe.steps():
        reached = _reached(step.path, step.where, units)
        wanted = [unit for unit in reached if unit not in weights]
        found = step.method.weights(models, Selection.of(reached, wanted), step.path)
        if not wanted and step.where is not None:
            notes.append(
                f"{_rule(step.path)} decides nothing: earlier rules decide all "
                f"{counted(len(reached), 'unit')}"
            )
        weights |= found
        methods |= dict.fromkeys(found, step.method)
        sources |= dict.fromkeys(found, _rule(step.path))
        notes += notes_on(found, _rule(step.path))
    idle = [model for model in models if not any(row[model] for row in weights.values())]
    if idle:
        notes.append(f"no part in the result have {listing(idle, noun='model')}")
    return Assignment(
        {unit: weights[unit] for unit in units},
        {unit: methods[unit] for unit in units},
        {unit: sources[unit] for unit in units},
        tuple(notes),
    )


def _reached(path: str, where: str | None, units: Sequence[str]) -> Sequence[str]:
    return units if where is None else select(Selector.parse(where, f"{_rule(path)}.where"), units)


def _rule(path: str) -> str:
    """Return the rule that a parameter's path lies in."""
    return path.split(".method.", 1)[0]


def _untouched(recipe: Recipe, units: Sequence[str]) -> dict[str, list[str]]:
    """Return the units that stay the first model's, by the field that says so."""
    found: dict[str, list[str]] = {}
    for field, texts in (("include", recipe.include), ("exclude", recipe.exclude)):
        reached: set[str] = set()
        for i, text in enumerate(texts):
            reached.update(select(Selector.parse(text, f"recipe.{field}[{i}]"), units))
        if texts:
            found[field] = [unit for unit in units if (unit in reached) == (field == "exclude")]
    return found
