"""The JSON Schema of recipes, for editors and other tools."""

from __future__ import annotations

import json
from typing import Any

from submerge.values import PerModel, Value

__all__ = ["published", "tidy"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Written once and referred to, instead of repeated in every field that takes them.
_SHARED = {"Value": Value.schema(), "PerModel": PerModel.schema()}


def tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Return pydantic's schema without what it adds for its own sake, shared parts by reference.

    Dropped: None as a value (empty fields are refused), defaults that are objects, titles made from
    field names.
    """
    found = _walk(schema)
    shared = {
        name: {key: _walk(item) for key, item in part.items()} for name, part in _SHARED.items()
    }
    return {"$schema": _DIALECT, **found, "$defs": {**found.get("$defs", {}), **shared}}


def _walk(node: Any) -> Any:
    if isinstance(node, list):
        return [_walk(item) for item in node]
    if not isinstance(node, dict):
        return node
    described = {"description": node["description"]} if "description" in node else {}
    node = {key: item for key, item in node.items() if not _noise(key, item)}
    if "anyOf" in node:
        choices = [item for item in node["anyOf"] if item != {"type": "null"}]
        rest = {key: item for key, item in node.items() if key != "anyOf"}
        node = {**rest, **choices[0]} if len(choices) == 1 else {**rest, "anyOf": choices}
    bare = {key: item for key, item in node.items() if key != "description"}
    for name, part in _SHARED.items():
        if bare == part:
            return {**described, "$ref": f"#/$defs/{name}"}
    return {
        key: _untitled(item) if key == "properties" else _walk(item) for key, item in node.items()
    }


def _noise(key: str, item: object) -> bool:
    return key == "default" and (item is None or isinstance(item, dict))


def _untitled(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: part for key, part in _walk(item).items() if key != "title"}
        for name, item in properties.items()
    }


def published() -> str:
    """Return the schema as the text of docs/recipe.schema.json."""
    from submerge.recipe.model import Recipe

    return json.dumps(Recipe.schema(), indent=2) + "\n"
