"""pydantic's errors in submerge's words: `recipe.rules[0].alpha: expected ..., got ...`."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from submerge.errors import RecipeError, nearest, quoted
from submerge.values import shown

if typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["translate"]

_SHOWN_ERRORS = 10
# What a field takes, by the kind of pydantic's error.
_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}


def translate(error: ValidationError, form: type[BaseModel], where: str = "recipe") -> RecipeError:
    """Return one RecipeError for everything wrong: a line each, and the first hint."""
    found = [_one(item, form, where) for item in error.errors(include_url=False)]
    lines = [failure.message for failure in found[:_SHOWN_ERRORS]]
    if len(found) > _SHOWN_ERRORS:
        lines.append(f"and {len(found) - _SHOWN_ERRORS} more")
    hint = next((failure.hint for failure in found if failure.hint), None)
    return RecipeError("\n".join(lines), hint=hint)


def _one(item: Mapping[str, Any], form: type[BaseModel], where: str) -> RecipeError:
    location, kind, context = item["loc"], item["type"], item.get("ctx", {})
    path = where + "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in location
    )
    raised = context.get("error")
    if isinstance(raised, RecipeError):
        return RecipeError(path + raised.message, hint=raised.hint)
    if kind == "extra_forbidden":
        return _unknown_field(path, location, form)
    if kind == "missing":
        return RecipeError(f"{path}: missing, expected it to be given")
    if kind == "literal_error":
        return _not_a_choice(path, item["input"], context["expected"])
    if kind in _EXPECTED:
        return RecipeError(f"{path}: expected {_EXPECTED[kind]}, got {shown(item['input'])}")
    return RecipeError(
        f"{path}: {item['msg'][:1].lower()}{item['msg'][1:]}, got {shown(item['input'])}"
    )


def _unknown_field(path: str, location: Sequence[int | str], form: type[BaseModel]) -> RecipeError:
    owner = _owner(form, location[:-1])
    known = list(owner.model_fields) if owner is not None else []
    name = str(location[-1])
    close = nearest(name, known)
    parent = path.removesuffix(f".{name}")
    return RecipeError(
        f"{parent}: unknown field {quoted(name)}, expected one of {', '.join(map(quoted, known))}",
        hint=f"did you mean {quoted(close[0])}?" if close else None,
    )


def _not_a_choice(path: str, got: object, expected: str) -> RecipeError:
    choices = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
    close = nearest(got.lower(), choices) if isinstance(got, str) else []
    return RecipeError(
        f"{path}: expected one of {', '.join(map(quoted, choices))}, got {shown(got)}",
        hint=f"did you mean {quoted(close[0])}?" if close else None,
    )


def _owner(form: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """Return the model that an error's location leads into."""
    owner: type[BaseModel] | None = form
    for step in location:
        if owner is None or not isinstance(step, str) or step not in owner.model_fields:
            continue  # an index of a list, or a name in a mapping: still the model found last
        owner = _model_in(owner.model_fields[step].annotation) or owner
    return owner


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part))), None)
