"""The JSON Schema of recipes, for editors and other tools, from what the fields declare."""

from __future__ import annotations

import inspect
import json
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any

from submerge.recipe.fields import Guidance, ModelSource, Output, Rule
from submerge.values import PerModel, Value

if TYPE_CHECKING:
    from submerge.recipe.kinds import Part

__all__ = ["published", "schema_of"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(recipe: type[Part]) -> dict[str, Any]:
    """Return the schema of a recipe; what several fields take is written once and referred to."""
    # Value comes first: PerModel holds it.
    shared = {"Value": Value.schema(), "PerModel": PerModel.schema()}
    parts = {part.__name__: _part(part) for part in (ModelSource, Output, Rule)}
    definitions = {
        name: {key: _referring(item, shared) for key, item in schema.items()}
        for name, schema in (parts | shared).items()
    }
    return {
        "$schema": _DIALECT,
        "title": "submerge recipe",
        **_referring(_part(recipe), shared),
        "$defs": definitions,
    }


def _part(part: type[Part]) -> dict[str, Any]:
    declared = part.declared()
    required = [name for name, field in declared.items() if field.default is MISSING]
    return {
        "description": inspect.cleandoc(part.__doc__ or ""),
        "type": "object",
        "properties": {
            name: {
                "description": field.metadata["description"],
                **_default(field.default),
                **field.metadata["kind"].schema(),
            }
            for name, field in declared.items()
        },
        **({"required": required} if required else {}),
        "additionalProperties": False,
        **part.schema_also,
    }


def _default(value: object) -> dict[str, Any]:
    """Return a default as it is written; a part's are those of its fields."""
    match value:
        case Guidance():
            return {"default": value.plain()}
        case tuple():
            return {"default": list(value)}
        case str() | int():
            return {"default": value}
        case _:
            return {}


def _referring(node: Any, shared: dict[str, dict[str, Any]]) -> Any:
    """Return a schema with references in place of the shared ones."""
    if isinstance(node, list):
        return [_referring(item, shared) for item in node]
    if not isinstance(node, dict):
        return node
    for name, schema in shared.items():
        if schema.items() <= node.items():
            rest = {key: item for key, item in node.items() if key not in schema}
            return {**rest, "$ref": f"#/$defs/{name}"}
    return {key: _referring(item, shared) for key, item in node.items()}


def published() -> str:
    """Return the schema as the text of docs/recipe.schema.json."""
    from submerge.recipe.model import Recipe

    return json.dumps(Recipe.schema(), indent=2) + "\n"
