"""Methods as recipes write them: `{name: {parameter: value}}`, or `name` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from submerge.errors import RecipeError, quoted
from submerge.given import Definitions, Kind, inside, meant, one_of, shared, shown
from submerge.methods.base import Method
from submerge.methods.registry import METHODS

__all__ = ["METHOD", "parse_method", "plain_method"]


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
            f"{where}: unknown method {quoted(str(name))}, expected one of {one_of(METHODS)}",
            hint=meant(name, METHODS),
        )
    kind = METHODS[name]
    where = inside(where, name)
    if given is not None and not isinstance(given, Mapping):
        raise RecipeError(
            f"{where}: expected a mapping of parameters, got {shown(given)}",
            hint=f"`{name}` takes {one_of(kind.parameters())}",
        )
    return kind.parse(given or {}, where)


def plain_method(method: Method) -> dict[str, Any]:
    """Return `{name: {parameter: value}}` in the form `parse_method` reads, defaults left out."""
    return {method.name: method.written()}


def _schema(definitions: Definitions) -> dict[str, Any]:
    spelled = [
        {
            "type": "object",
            "properties": {name: {**kind.json_schema(definitions), "type": ["object", "null"]}},
            "required": [name],
            "additionalProperties": False,
        }
        for name, kind in METHODS.items()
    ]
    return {"anyOf": [{"enum": list(METHODS)}, *spelled]}


METHOD = Kind(parse_method, shared("Method", _schema))
