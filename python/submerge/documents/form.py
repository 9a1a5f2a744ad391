"""What the types of documents mean for JSON: how they are checked, and their JSON Schema.

A document is a `TypedDict`. Its field `format` is a `Literal` such as `submerge-analysis/1`, which
names kind and version in one place. A figure that cannot be said is NaN in Python and null in
JSON: `Figure`. Fields that are not known are kept and ignored, so that later ones may be added.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeAlias,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from submerge.errors import RecipeError, listing, quoted
from submerge.given import inside, shown

__all__ = ["Figure", "checked", "format_of", "plain", "schema"]

Figure: TypeAlias = Annotated[float, "null where it cannot be said"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# No size, count or seed has more.
_BITS = 64
_SCALARS: dict[Any, tuple[str, str]] = {
    str: ("string", "a text"),
    bool: ("boolean", "true or false"),
    int: ("integer", "a whole number"),
    float: ("number", "a number"),
}


@functools.cache
def fields(form: Any) -> dict[str, tuple[Any, bool]]:
    """Return the fields of a type: name to its kind and whether it must be there."""
    hints = get_type_hints(form, include_extras=True)
    return {
        name: (get_args(hint)[0], False) if get_origin(hint) is NotRequired else (hint, True)
        for name, hint in hints.items()
    }


def format_of(form: Any) -> str:
    """Return the format a type of document names: `submerge-analysis/1`."""
    (name,) = get_args(fields(form)["format"][0])
    return cast(str, name)


def checked(kind: Any, raw: Any, where: str) -> Any:
    """Return plain data as a type says it is, null figures as NaN.

    Raises:
        RecipeError: a field is missing or of another kind; `where` and its path say which.
    """
    if is_typeddict(kind):
        return _record(kind, _of(raw, dict, "an object", where), where)
    if kind == Figure:
        return math.nan if raw is None else checked(float, raw, where)
    if kind in _SCALARS:
        return _scalar(kind, raw, where)
    return _several(kind, raw, where)


def _several(kind: Any, raw: Any, where: str) -> Any:
    """Read a list, an object of any names, one of several kinds or words, or anything."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        items = _of(raw, list, "a list", where)
        return [checked(arguments[0], item, inside(where, i)) for i, item in enumerate(items)]
    if origin is dict:
        pairs = _of(raw, dict, "an object", where).items()
        return {key: checked(arguments[1], item, inside(where, key)) for key, item in pairs}
    if origin is Literal:
        if raw not in arguments:
            words = " or ".join(quoted(str(word)) for word in arguments)
            raise RecipeError(f"{where}: expected {words}, got {shown(raw)}")
        return raw
    return raw if kind is Any else _either(arguments, raw, where)


def _of(raw: Any, kind: type, words: str, where: str) -> Any:
    if not isinstance(raw, kind):
        raise RecipeError(f"{where}: expected {words}, got {shown(raw)}")
    return raw


def _record(kind: Any, raw: dict[str, Any], where: str) -> dict[str, Any]:
    known = fields(kind)
    missing = [name for name, (_, needed) in known.items() if needed and name not in raw]
    if missing:
        raise RecipeError(f"{where}: expected {listing(missing, noun='field')}, got none")
    read = {
        name: checked(of, raw[name], f"{where}.{name}")
        for name, (of, _) in known.items()
        if name in raw
    }
    return {**raw, **read}


def _either(kinds: tuple[Any, ...], raw: Any, where: str) -> Any:
    """Read one of several kinds: the first that takes the value, else the last one's complaint."""
    if raw is None and type(None) in kinds:
        return None
    some = [kind for kind in kinds if kind is not type(None)]
    for kind in some[:-1]:
        try:
            return checked(kind, raw, where)
        except RecipeError:
            continue
    return checked(some[-1], raw, where)


def _scalar(kind: Any, raw: Any, where: str) -> Any:
    good = (int, float) if kind is float else (kind,)
    odd = isinstance(raw, bool) and kind is not bool
    if odd or not isinstance(raw, good):
        raise RecipeError(f"{where}: expected {_SCALARS[kind][1]}, got {shown(raw)}")
    if isinstance(raw, int) and raw.bit_length() > _BITS:
        raise RecipeError(f"{where}: expected {_SCALARS[kind][1]}, got a huge integer")
    return raw


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: what is not a finite number is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int) else str(value)


def schema(form: Any) -> dict[str, Any]:
    """Return the JSON Schema of a document; types within are written once and referred to."""
    shared: dict[str, Any] = {}
    made = _object(form, shared)
    return {"$schema": _DIALECT, "title": format_of(form), **made, "$defs": shared}


def _object(form: Any, shared: dict[str, Any]) -> dict[str, Any]:
    said, words = _described(form)
    known = fields(form)
    return {
        "description": said,
        "type": "object",
        "properties": {
            name: ({"description": words[name]} if name in words else {}) | _schema(kind, shared)
            for name, (kind, _) in known.items()
        },
        "required": [name for name, (_, needed) in known.items() if needed],
    }


def _schema(kind: Any, shared: dict[str, Any]) -> dict[str, Any]:
    if is_typeddict(kind):
        if kind.__name__ not in shared:
            shared[kind.__name__] = {}  # a place in the order it is met
            shared[kind.__name__] = _object(kind, shared)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if kind == Figure:
        return {"type": ["number", "null"]}
    origin, arguments = get_origin(kind), get_args(kind)
    made: dict[str, Any]
    if origin is list:
        made = {"type": "array", "items": _schema(arguments[0], shared)}
    elif origin is dict:
        made = {"type": "object", "additionalProperties": _schema(arguments[1], shared)}
    elif origin is Literal:
        made = {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    elif kind is Any:
        made = {}
    elif arguments:
        made = {"anyOf": [_schema(one, shared) for one in arguments]}
    else:
        made = {"type": "null" if kind is type(None) else _SCALARS[kind][0]}
    return made


def _described(form: Any) -> tuple[str, dict[str, str]]:
    """Return what a type's description says of it, and of each field under `Attributes:`."""
    said, _, listed = inspect.cleandoc(form.__doc__ or "").partition("\n\nAttributes:\n")
    entries = re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    words = {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}
    return " ".join(said.split()), words
