"""Which models take which part in a formula, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from submerge.errors import RecipeError, counted, quoted
from submerge.given import Definitions, kind_of, mapping, one_of
from submerge.methods.base import Setting, known
from submerge.values import Mapped, PerModel, Selection, Value, entries_of

__all__ = [
    "EachModel",
    "base_of",
    "deltas_of",
    "difference",
    "pair_of",
    "roles",
    "shares_of",
    "weights_of",
]

Tables = dict[str, dict[str, float]]
"""Model name to unit name to number."""


@dataclass(frozen=True, slots=True)
class EachModel:
    """One value for all models, or a mapping of model names to values.

    A mapping whose keys are names of the recipe's models is one value for each, any other one of
    selectors. Which it is cannot be told before the models are known.
    """

    shared: Value | None = None
    entries: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def parse(cls, raw: object, where: str) -> EachModel:
        """Read a value, or `{model: value, ...}`."""
        if isinstance(raw, EachModel):
            return raw
        if not isinstance(raw, Mapping) or {"from", "to"} & set(raw):
            return cls(shared=Value.parse(raw, where))
        if not mapping(raw, where):
            raise RecipeError(
                f"{where}: expected at least one model or selector, got an empty mapping"
            )
        return cls(entries=entries_of(raw, where))

    def plain(self) -> Any:
        """Return the value as numbers, lists and dicts, in the form `parse` reads."""
        if self.shared is not None:
            return self.shared.plain()
        return {key: value.plain() for key, value in self.entries}

    @staticmethod
    def json_schema(definitions: Definitions) -> dict[str, Any]:
        """Return the JSON Schema of the forms `parse` accepts."""
        return {"anyOf": [kind_of(kind).schema(definitions) for kind in (Value, PerModel)]}

    def check(self, setting: Setting, models: Sequence[str], where: str) -> None:
        """Refuse a mapping that names some models and not others."""
        self._values(setting, models, where)

    def tables(
        self, setting: Setting, models: Sequence[str], selection: Selection, where: str
    ) -> Tables:
        """Return the number of every one of `models` in every unit."""
        return {
            model: value.table(selection, at)
            for model, (value, at) in self._values(setting, models, where).items()
        }

    def _values(
        self, setting: Setting, models: Sequence[str], where: str
    ) -> dict[str, tuple[Value, str]]:
        if self.shared is not None:
            return dict.fromkeys(models, (self.shared, where))
        given = dict(self.entries)
        named = [key for key in given if key in setting.models]
        if not named:
            mapped = Mapped.read({key: value.plain() for key, value in given.items()}, where)
            return dict.fromkeys(models, (mapped, where))
        strange = [key for key in given if key not in setting.models]
        missing = [model for model in models if model not in given]
        if strange:
            known(strange[0], setting.models, where)
        if missing:
            raise RecipeError(
                f"{where}: no number for {one_of(missing)}, expected one for each model"
            )
        return {model: (given[model], f"{where}.{model}") for model in models}


def base_of(base: str | None, setting: Setting, where: str) -> str:
    """Return the base, from the method or the recipe.

    Raises:
        RecipeError: neither names one, or it is no model of the recipe.
    """
    if base is not None:
        known(base, setting.models, f"{where}.base")
        return base
    if setting.base is None:
        raise RecipeError(
            f"{where}: no base is named, expected the model that differences are taken from",
            hint=f"write `base: {setting.models[0]}` at the top of the recipe or among the "
            "method's parameters",
        )
    return setting.base


def pair_of(setting: Setting, base: str | None, where: str) -> tuple[str, str]:
    """Return the two models other than the base, in the recipe's order.

    A method without a base leaves out the recipe's, where there are more than two models.

    Raises:
        RecipeError: there are not two.
    """
    rest = [model for model in setting.models if model != base]
    if base is None and len(rest) > 2:
        rest = [model for model in rest if model != setting.base]
    if len(rest) != 2:
        beside = "" if base is None else " beside the base"
        weights = ", ".join(f"{model}: 1" for model in setting.models[:10])
        raise RecipeError(
            f"{where}: a method of two models, expected two{beside}, got {len(rest)}",
            hint=f"of any number `weight: {{{weights}}}` makes the weighted mean"
            if len(rest) > 2
            else None,
        )
    return rest[0], rest[1]


def deltas_of(
    setting: Setting, weight: PerModel | None, bases: Sequence[str], where: str
) -> tuple[str, ...]:
    """Return the models a method acts on: those with a weight, else all but the bases, by name.

    Raises:
        RecipeError: a base has a weight, a name is unknown, or none is left.
    """
    if weight is None:
        chosen = [model for model in setting.models if model not in bases]
    else:
        chosen = [model for model, _ in weight.entries]
    for model in chosen:
        known(model, setting.models, f"{where}.weight")
        if model in bases:
            raise RecipeError(
                f"{where}.weight: {quoted(model)} is the base, expected weights of the others"
            )
    if not chosen:
        raise RecipeError(f"{where}: no model beside the base, expected at least one")
    return tuple(sorted(chosen))


def weights_of(
    weight: PerModel | None, models: Sequence[str], selection: Selection, where: str
) -> Tables:
    """Return the weight of every one of `models` in every unit; 1 where none are given."""
    if weight is None:
        return {model: dict.fromkeys(selection.wanted, 1.0) for model in models}
    values = dict(weight.entries)
    return {
        model: values[model].table(selection, f"{where}.weight.{model}")
        if model in values
        else dict.fromkeys(selection.wanted, 0.0)
        for model in models
    }


def shares_of(
    each: EachModel, setting: Setting, models: Sequence[str], selection: Selection, where: str
) -> Tables:
    """Return the number of every model in every unit, between 0 and 1."""
    found = each.tables(setting, models, selection, where)
    for model, table in found.items():
        for unit in selection.wanted:
            if not 0.0 <= table[unit] <= 1.0:
                raise RecipeError(
                    f"{where}: {table[unit]:g} for {quoted(model)} in {quoted(unit)}, "
                    "expected a share from 0 to 1"
                )
    return found


def roles(
    setting: Setting, given: tuple[str | None, str | None, str | None], where: str
) -> tuple[str, str, str]:
    """Return `A, B, C` of `A + (B - C)`: those named, the rest in the recipe's order.

    The recipe's base is `C` unless another is named.

    Raises:
        RecipeError: an unknown name, one in two parts, or fewer than three models.
    """
    to, plus, minus = given
    for model, word in ((to, "to"), (plus, "plus"), (minus, "minus")):
        if model is not None:
            known(model, setting.models, f"{where}.{word}")
    if minus is None and setting.base not in (to, plus):
        minus = setting.base
    named = [model for model in (to, plus, minus) if model is not None]
    left = [model for model in setting.models if model not in named]
    if len(set(named)) < len(named) or len(named) + len(left) < 3:
        raise RecipeError(
            f"{where}: three models in `A + (B - C)`, expected three different ones, "
            f"got {counted(len(set(named)) + len(left), 'model')}"
        )
    if len(named) + len(left) > 3:
        raise RecipeError(
            f"{where}: three models in `A + (B - C)`, expected which by `to`, `plus` and `minus`, "
            f"got {counted(len(setting.models), 'model')}"
        )
    found = [model if model is not None else left.pop(0) for model in (to, plus, minus)]
    return found[0], found[1], found[2]


def difference(to: str, plus: str, minus: str, alpha: float) -> dict[str, float]:
    """Return the weights of `to + alpha * (plus - minus)`."""
    weights = {to: 1.0, plus: 0.0, minus: 0.0}
    weights[plus] += alpha
    weights[minus] -= alpha
    return weights
