"""Merge methods: one frozen dataclass each, and the only place where their defaults live.

A method is written `{name: {parameter: value}}`, or `name` alone. Adding one takes a dataclass
here, whose field types say how its parameters are read, and a line in `METHODS`; the errors and the
JSON Schema follow.

Ratios are shares of the SECOND model: `alpha: 0.3` means `0.7 * first + 0.3 * second`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from submerge.errors import RecipeError, counted, nearest, quoted
from submerge.values import Number, PerModel, Selection, Value, shown

__all__ = [
    "METHODS",
    "Linear",
    "Method",
    "Take",
    "Weights",
    "method_schema",
    "notes_on",
    "parse_method",
    "plain_method",
]

# A sum this small against its largest weight is a cancellation, not a scale anybody meant.
_CANCELLED = 1e-12
# Sums of decimal weights miss 1 by a few ulp; anything beyond is the user's intent and is reported.
_UNITY = 1e-9

Weights: TypeAlias = dict[str, dict[str, float]]
"""Unit name to model name to weight, models in the recipe's order, f64, every model present."""


class Method(ABC):
    """A merge formula with its parameters.

    Attributes:
        name: the word recipes use.
        op: the core's operation that executes it.
    """

    __slots__ = ()
    name: ClassVar[str]
    op: ClassVar[str]

    @abstractmethod
    def check(self, models: Sequence[str], where: str) -> None:
        """Refuse parameters that do not fit these models; needs no units.

        Args:
            models: the recipe's model names, in order.
            where: the method's path in the recipe; a parameter's is `<where>.<name>`.

        Raises:
            RecipeError: with the path of the offending parameter.
        """

    @abstractmethod
    def weights(self, models: Sequence[str], selection: Selection, where: str) -> Weights:
        """Return the weight of every model in every wanted unit of `selection`.

        Raises:
            RecipeError: as `check`, and for values that do not fit the selection.
        """


@dataclass(frozen=True, slots=True)
class Linear(Method):
    """The weighted sum `w_1 x_1 + ... + w_n x_n`, element by element.

    Attributes:
        alpha: two models: the share of the second, `(1 - alpha) * first + alpha * second`. Shares
            outside 0..1 extrapolate. 0.5 where neither `alpha` nor `weight` is given.
        weight: any number of models: a weight for each by name; models left out have 0.
        normalize: divide the weights by their sum (`weight` only; those of `alpha` sum to 1).
    """

    name: ClassVar[str] = "linear"
    op: ClassVar[str] = "linear"
    EVEN: ClassVar[Value] = Number(0.5)

    alpha: Value | None = None
    weight: PerModel | None = None
    normalize: bool = True

    def check(self, models: Sequence[str], where: str) -> None:
        """Refuse `alpha` for other than two models, unknown names, and both parameters at once."""
        if self.weight is not None:
            if self.alpha is not None:
                raise RecipeError(
                    f"{where}: both `alpha` and `weight` are given, expected one of them"
                )
            for model, _ in self.weight.entries:
                _known(model, models, f"{where}.weight")
        elif len(models) != 2 and (self.alpha is not None or len(models) > 2):
            raise RecipeError(
                f"{where}.alpha: the share of the second model, expected two models, "
                f"got {len(models)}",
                hint="name them: `weight: {"
                + ", ".join(f"{model}: 1" for model in models[:10])
                + "}`",
            )

    def weights(self, models: Sequence[str], selection: Selection, where: str) -> Weights:
        """Return `1 - alpha` and `alpha`, or the named weights over their sum."""
        self.check(models, where)
        if self.weight is not None:
            return self._named(self.weight, models, selection, f"{where}.weight")
        if len(models) == 1:
            return {unit: {models[0]: 1.0} for unit in selection.wanted}
        first, second = models
        shares = (self.alpha or self.EVEN).table(selection, f"{where}.alpha")
        return {
            unit: {first: 1.0 - shares[unit], second: shares[unit]} for unit in selection.wanted
        }

    def _named(
        self, weight: PerModel, models: Sequence[str], selection: Selection, where: str
    ) -> Weights:
        values = dict(weight.entries)
        tables = {
            model: values[model].table(selection, f"{where}.{model}")
            for model in models
            if model in values
        }
        result: Weights = {}
        for unit in selection.wanted:
            row = {model: tables[model][unit] if model in tables else 0.0 for model in models}
            result[unit] = self._normalized(row, unit, where) if self.normalize else row
        return result

    def _normalized(self, row: dict[str, float], unit: str, where: str) -> dict[str, float]:
        try:
            total = math.fsum(row.values())
        except OverflowError:
            total = math.inf
        largest = max(abs(weight) for weight in row.values())
        if abs(total) <= _CANCELLED * largest:
            raise RecipeError(
                f"{where}: the weights of {quoted(unit)} cannot be normalised, "
                f"expected a sum other than 0, got {total:g}",
                hint="`method: {linear: {weight: ..., normalize: false}}` uses them as they are",
            )
        scaled = {model: weight / total for model, weight in row.items()}
        if not math.isfinite(total) or not all(map(math.isfinite, scaled.values())):
            raise RecipeError(f"{where}: the weights of {quoted(unit)} are too large to normalise")
        return scaled


@dataclass(frozen=True, slots=True)
class Take(Method):
    """One model's bytes, unchanged; written `take: <model>`."""

    name: ClassVar[str] = "take"
    op: ClassVar[str] = "copy"

    model: str

    def check(self, models: Sequence[str], where: str) -> None:
        """Refuse an unknown name."""
        _known(self.model, models, f"{where}.take")

    def weights(self, models: Sequence[str], selection: Selection, where: str) -> Weights:
        """Return 1 for the model taken and 0 for the others."""
        self.check(models, where)
        return {
            unit: {model: float(model == self.model) for model in models}
            for unit in selection.wanted
        }


METHODS: dict[str, type[Method]] = {Linear.name: Linear}


def parse_method(raw: object, where: str) -> Method:
    """Read `{name: {parameter: value}}`, `{name: null}` or `name`.

    Raises:
        RecipeError: an unknown method or parameter (with the nearest known), a wrong kind.
    """
    if isinstance(raw, Method):
        return raw
    if isinstance(raw, str):
        raw = {raw: None}
    if not isinstance(raw, Mapping) or len(raw) != 1:
        raise RecipeError(
            f"{where}: expected one method with its parameters, got {shown(raw)}",
            hint="for example `method: {linear: {alpha: 0.5}}`",
        )
    ((name, given),) = raw.items()
    if name not in METHODS:
        raise RecipeError(
            f"{where}: unknown method {quoted(str(name))}, expected one of {_names(METHODS)}",
            hint=_near(str(name), METHODS),
        )
    kind = METHODS[name]
    where = f"{where}.{name}"
    if given is None:
        return kind()
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"{where}: expected a mapping of parameters, got {shown(given)}",
            hint=f"`{name}` takes {_names(_parameters(kind))}",
        )
    return kind(**_arguments(kind, given, where))


def _arguments(kind: type[Method], given: Mapping[Any, object], where: str) -> dict[str, Any]:
    parameters = _parameters(kind)
    arguments = {}
    for key, raw in given.items():
        if key not in parameters:
            raise RecipeError(
                f"{where}: unknown parameter {quoted(str(key))}, "
                f"`{kind.name}` takes {_names(parameters)}",
                hint=_near(str(key), parameters),
            )
        arguments[key] = _parameter(parameters[key], raw, f"{where}.{key}")
    return arguments


def _parameters(kind: type[Method]) -> dict[str, Any]:
    """Return the parameters of a method and the type that reads each."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: _plain_type(hints[field.name])
        for field in dataclasses.fields(typing.cast("Any", kind))
    }


def _plain_type(hint: Any) -> Any:
    (kind,) = (part for part in typing.get_args(hint) or (hint,) if part is not types.NoneType)
    return kind


def _parameter(kind: Any, raw: object, where: str) -> object:
    if kind is not bool:
        return kind.parse(raw, where)
    if not isinstance(raw, bool):
        raise RecipeError(f"{where}: expected true or false, got {shown(raw)}")
    return raw


def plain_method(method: Method) -> dict[str, Any]:
    """Return `{name: {parameter: value}}` in the form `parse_method` reads, defaults left out."""
    written: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast("Any", method)):
        value = getattr(method, field.name)
        if value != field.default:
            written[field.name] = value.plain() if isinstance(value, Value | PerModel) else value
    return {method.name: written}


def method_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of what `parse_method` accepts."""
    spelled = []
    for name, kind in METHODS.items():
        parameters = {
            key: {"type": "boolean"} if hint is bool else hint.schema()
            for key, hint in _parameters(kind).items()
        }
        body = {"type": ["object", "null"], "properties": parameters, "additionalProperties": False}
        spelled.append(
            {
                "type": "object",
                "properties": {name: body},
                "required": [name],
                "additionalProperties": False,
            }
        )
    return {"anyOf": [{"enum": list(METHODS)}, *spelled]}


def notes_on(weights: Weights, where: str) -> list[str]:
    """Return what is allowed but unusual in weights: extrapolation, sums other than 1."""
    outside = [
        row for row in weights.values() if any(not 0.0 <= weight <= 1.0 for weight in row.values())
    ]
    sums = [math.fsum(row.values()) for row in weights.values()]
    scaled = [total for total in sums if abs(total - 1.0) > _UNITY]
    found = []
    if outside:
        low = min(min(row.values()) for row in outside)
        high = max(max(row.values()) for row in outside)
        found.append(
            f"{where}: shares from {low:g} to {high:g} in {counted(len(outside), 'unit')} "
            "lie outside 0..1: the result extrapolates beyond its parents"
        )
    if scaled:
        spread = (
            f"{min(scaled):g}"
            if min(scaled) == max(scaled)
            else f"{min(scaled):g} to {max(scaled):g}"
        )
        found.append(
            f"{where}: the weights of {counted(len(scaled), 'unit')} sum to {spread}, not 1"
        )
    return found


def _known(model: str, models: Sequence[str], where: str) -> None:
    if model not in models:
        raise RecipeError(
            f"{where}: no model is called {quoted(model)}, expected one of {_names(models)}",
            hint=_near(model, models),
        )


def _names(names: typing.Iterable[str]) -> str:
    known = list(names)
    return ", ".join(quoted(name) for name in known[:10]) + (
        f" and {len(known) - 10} more" if len(known) > 10 else ""
    )


def _near(name: str, choices: typing.Iterable[str]) -> str | None:
    close = nearest(name, choices)
    return f"did you mean {quoted(close[0])}?" if close else None
