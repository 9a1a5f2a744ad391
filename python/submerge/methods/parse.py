"""Methods as recipes write them: `{name: {parameter: value}}`, or `name` alone.

The types of a method's fields say how its parameters are read; errors and the JSON Schema follow.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from submerge.errors import RecipeError, quoted
from submerge.methods.base import Method, names, near
from submerge.methods.registry import METHODS
from submerge.values import number, shown

__all__ = ["method_schema", "parse_method", "plain_default", "plain_method"]

_SCHEMAS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": 1},
    float: {"type": "number"},
    str: {"type": "string", "minLength": 1},
}


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
            f"{where}: unknown method {quoted(str(name))}, expected one of {names(METHODS)}",
            hint=near(str(name), METHODS),
        )
    kind = METHODS[name]
    where = f"{where}.{name}"
    if given is None:
        return kind()
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"{where}: expected a mapping of parameters, got {shown(given)}",
            hint=f"`{name}` takes {names(_parameters(kind))}",
        )
    return kind(**_arguments(kind, given, where))


def _arguments(kind: type[Method], given: Mapping[Any, object], where: str) -> dict[str, Any]:
    parameters = _parameters(kind)
    fields = kind.parameters()
    arguments = {}
    for key, raw in given.items():
        if key not in parameters:
            raise RecipeError(
                f"{where}: unknown parameter {quoted(str(key))}, "
                f"`{kind.name}` takes {names(parameters)}",
                hint=near(str(key), parameters),
            )
        arguments[fields[key].name] = _parameter(parameters[key], raw, f"{where}.{key}")
    return arguments


def _parameters(kind: type[Method]) -> dict[str, Any]:
    """Return the parameters of a method and the type that reads each."""
    hints = typing.get_type_hints(kind)
    return {name: _plain_type(hints[field.name]) for name, field in kind.parameters().items()}


def _plain_type(hint: Any) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        return hint
    (kind,) = (part for part in typing.get_args(hint) or (hint,) if part is not types.NoneType)
    return kind


def _parameter(kind: Any, raw: object, where: str) -> object:
    if typing.get_origin(kind) is typing.Literal:
        words = typing.get_args(kind)
        if raw not in words:
            expected = ", ".join(map(quoted, words))
            raise RecipeError(f"{where}: expected one of {expected}, got {shown(raw)}")
        return raw
    if kind not in _SCHEMAS:
        return kind.parse(raw, where)
    if kind is float:
        return number(raw, where)
    if type(raw) is not kind or (isinstance(raw, int) and kind is int and not 0 < raw < 2**31):
        wanted = {bool: "true or false", int: "a whole number above 0", str: "a model's name"}
        raise RecipeError(f"{where}: expected {wanted[kind]}, got {shown(raw)}")
    return raw


def _schema_of(kind: Any) -> dict[str, Any]:
    if typing.get_origin(kind) is typing.Literal:
        return {"enum": list(typing.get_args(kind))}
    found: dict[str, Any] = _SCHEMAS[kind] if kind in _SCHEMAS else kind.schema()
    return found


def plain_default(field: dataclasses.Field[Any]) -> Any:
    """Return a parameter's default as recipes write it; None where it has none."""
    value = None if field.default is dataclasses.MISSING else field.default
    return value if value is None or type(value) in _SCHEMAS else value.plain()


def plain_method(method: Method) -> dict[str, Any]:
    """Return `{name: {parameter: value}}` in the form `parse_method` reads, defaults left out."""
    written: dict[str, Any] = {}
    for name, field in method.parameters().items():
        value = getattr(method, field.name)
        if value != field.default:
            written[name] = value if type(value) in _SCHEMAS else value.plain()
    return {method.name: written}


def method_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of what `parse_method` accepts."""
    spelled = []
    for name, kind in METHODS.items():
        parameters = {key: _schema_of(hint) for key, hint in _parameters(kind).items()}
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
