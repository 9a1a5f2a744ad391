"""What makes each unit: the recipe's rules, applied once.

Order of decision: `include` and `exclude` first (a unit they shut out is the first model's, as it
is), then the first rule whose selector reaches the unit, then the top level of the recipe. What
becomes of guidance in models without it is decided afterwards, in `guidance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from submerge.blocks import Selector, beyond, execution_key, select
from submerge.errors import quoted
from submerge.methods import Linear, copied, notes_on
from submerge.plan.form import Unit
from submerge.values import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from submerge.layout import Model
    from submerge.recipe import Recipe, Step

__all__ = ["decide", "union"]


def union(models: Mapping[str, Model]) -> list[str]:
    """Return the units of all models in execution order, whatever the order of their files."""
    return sorted({unit for model in models.values() for unit in model.units}, key=execution_key)


def decide(recipe: Recipe, names: Sequence[str]) -> tuple[dict[str, Unit], list[str]]:
    """Return what the recipe makes of every unit, and remarks on what is unusual.

    Raises:
        RecipeError: a selector that matches nothing, or values that do not fit the selection.
    """
    setting = recipe.setting()
    units = _outside(recipe, names)
    # Lists and gradients of a rule run over all blocks it reaches, also where another came first.
    closed = set(units)
    notes: list[str] = []
    for index, step in enumerate(recipe.steps()):
        field = f"rules[{index}].where"
        reached = names if step.where is None else _reached(step.where, field, names)
        wanted = [name for name in reached if name not in units]
        if not wanted:
            notes += _idle(step, index, [units[name] for name in reached])
            continue
        selection = Selection.of([name for name in reached if name not in closed], wanted)
        blends = step.method.blends(setting, selection, step.path)
        if isinstance(step.method, Linear):
            notes += notes_on({name: blend.shares for name, blend in blends.items()}, step.path)
        reason = "method" if step.where is None else f"rules[{index}]"
        units |= {name: Unit(name, reason, blend) for name, blend in blends.items()}
    return units, [*notes, *_beyond(recipe, names)]


def _beyond(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Return a remark on each selector that names blocks the models do not have."""
    found = [
        (f"{field}[{i}]", text)
        for field in ("include", "exclude")
        for i, text in enumerate(getattr(recipe, field))
    ]
    for step in recipe.steps():
        rule = step.path.removeprefix("recipe.").partition(".")[0]
        found += [] if step.where is None else [(rule, step.where)]
        found += _keys(step.method.written(), step.path)
    notes = []
    for field, text in found:
        where = field.removeprefix("recipe.")
        what = beyond(Selector.parse(text, where), names)
        if what is not None:
            notes.append(f"{where} ({quoted(text)}) goes beyond the model: {what}")
    return notes


def _keys(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Yield the selectors with indices that are keys of a method's parameters."""
    if isinstance(value, Mapping):
        for key, inside in value.items():
            if isinstance(key, str) and "[" in key:
                yield where, key
            yield from _keys(inside, f"{where}.{key}")


def _outside(recipe: Recipe, names: Sequence[str]) -> dict[str, Unit]:
    """Return the units that `include` and `exclude` leave to the first model."""
    first = copied(next(iter(recipe.models)))
    included = _any("include", recipe.include, names) if recipe.include else set(names)
    excluded = _any("exclude", recipe.exclude, names)
    units = {name: Unit(name, "include", first) for name in names if name not in included}
    return units | {name: Unit(name, "exclude", first) for name in names if name in excluded}


def _any(field: str, texts: Iterable[str], names: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for index, text in enumerate(texts):
        found.update(_reached(text, f"{field}[{index}]", names))
    return found


def _reached(text: str, field: str, names: Sequence[str]) -> list[str]:
    return select(Selector.parse(text, f"recipe.{field}"), names)


def _idle(step: Step, index: int, units: Sequence[Unit]) -> list[str]:
    """Return the remark on a rule that others leave nothing to do; the top level may be idle."""
    if step.where is None:
        return []
    by = sorted({unit.reason for unit in units})
    return [f"rules[{index}] ({quoted(step.where)}) never applies: {', '.join(by)} decide(s) first"]
