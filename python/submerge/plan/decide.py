"""Which models go into each unit, and with what weight: the recipe's rules, applied once.

Order of decision: `include` and `exclude` first (a unit they shut out is the first model's, as it
is), then the first rule whose selector reaches the unit, then the top level of the recipe. What
becomes of guidance in models without it is decided afterwards, in `guidance`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from submerge.blocks import Selector, select
from submerge.errors import quoted
from submerge.methods import Blend, Linear, Take, notes_on, weighted_words
from submerge.values import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from submerge.layout import Model
    from submerge.recipe import Recipe, Step

__all__ = ["Choice", "Decided", "alone", "decide", "execution_key", "union"]

_ORDER = ("embed", "guidance", "double", "single", "final")


@dataclass(frozen=True, slots=True)
class Choice:
    """What goes into one unit.

    Attributes:
        weights: the models with a weight other than 0, in the recipe's order; under a `blend` those
            of the weighted sum that stands in for it.
        reason: the field that decided: `method`, `rules[0]`, `include`, `exclude` or `guidance`.
        step: index of the rule, or None.
        take: whether one model's bytes were asked for by name.
        blend: what the unit is made by, if not by a weighted sum.
    """

    weights: Mapping[str, float]
    reason: str
    step: int | None = None
    take: bool = False
    blend: Blend | None = None

    @property
    def formula(self) -> str:
        """The formula in words: `0.70 * schnell + 0.30 * krea`; a whole model is its name."""
        return weighted_words(self.weights) if self.blend is None else self.blend.words

    @property
    def models(self) -> tuple[str, ...]:
        """The models the unit is made of."""
        return tuple(self.weights) if self.blend is None else self.blend.models

    def summed(self, weights: Mapping[str, float] | None = None) -> Choice:
        """Return the weighted sum that stands in for a blend, or one with other weights."""
        return replace(self, weights=self.weights if weights is None else weights, blend=None)


class Decided(NamedTuple):
    """The choice for every unit, and remarks on unusual ones."""

    choices: dict[str, Choice]
    notes: tuple[str, ...]


def alone(model: str, reason: str) -> Choice:
    """Return the choice of one model's bytes."""
    return Choice({model: 1.0}, reason, take=True)


def execution_key(unit: str) -> tuple[int, int, str]:
    """Return the key that sorts units in the order the model runs them."""
    words = unit.split(".")
    stack = _ORDER.index(words[0]) if words[0] in _ORDER else len(_ORDER)
    index = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
    return (stack, index, unit)


def union(models: Mapping[str, Model]) -> list[str]:
    """Return the units of all models in execution order, whatever the order of their files."""
    return sorted({unit for model in models.values() for unit in model.units}, key=execution_key)


def decide(recipe: Recipe, units: Sequence[str]) -> Decided:
    """Return what the recipe says of every unit.

    Raises:
        RecipeError: a selector that matches nothing, or values that do not fit the selection.
    """
    setting = recipe.setting()
    choices = _fenced(recipe, units)
    notes = []
    for index, step in enumerate(recipe.steps()):
        reached = units if step.where is None else _reached(step, index, units)
        rule = None if step.where is None else index
        wanted = [unit for unit in reached if unit not in choices]
        if not wanted:
            notes += _idle(step, index, reached, choices)
            continue
        inside = [u for u in reached if u not in choices or choices[u].step is not None]
        mixtures = step.method.mixtures(setting, Selection.of(inside, wanted), step.path)
        reason = "method" if rule is None else f"rules[{rule}]"
        if isinstance(step.method, Linear):
            rows = {u: row for u, row in mixtures.items() if not isinstance(row, Blend)}
            notes += notes_on(rows, step.path)
        for unit, mixture in mixtures.items():
            choices[unit] = _choice(mixture, reason, rule, take=isinstance(step.method, Take))
    return Decided(choices, tuple(notes))


def _choice(
    mixture: dict[str, float] | Blend, reason: str, rule: int | None, *, take: bool
) -> Choice:
    if isinstance(mixture, Blend):
        return Choice(mixture.among(mixture.models), reason, rule, take, mixture)
    chosen = {model: weight for model, weight in mixture.items() if weight != 0}
    return Choice(chosen, reason, rule, take)


def _reached(step: Step, index: int, units: Sequence[str]) -> list[str]:
    return select(Selector.parse(step.where or "", f"recipe.rules[{index}].where"), units)


def _fenced(recipe: Recipe, units: Sequence[str]) -> dict[str, Choice]:
    """Return the units that `include` and `exclude` leave to the first model."""
    first = next(iter(recipe.models))
    included = _any("include", recipe.include, units) if recipe.include else set(units)
    excluded = _any("exclude", recipe.exclude, units)
    choices = {unit: alone(first, "include") for unit in units if unit not in included}
    choices |= {unit: alone(first, "exclude") for unit in units if unit in excluded}
    return choices


def _any(field: str, texts: Iterable[str], units: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for index, text in enumerate(texts):
        found.update(select(Selector.parse(text, f"recipe.{field}[{index}]"), units))
    return found


def _idle(
    step: Step, index: int, reached: Sequence[str], choices: Mapping[str, Choice]
) -> list[str]:
    """Return the remark on a rule that others leave nothing to do; the top level may be idle."""
    if step.where is None:
        return []
    by = sorted({choices[unit].reason for unit in reached})
    return [f"rules[{index}] ({quoted(step.where)}) never applies: {', '.join(by)} decide(s) first"]
