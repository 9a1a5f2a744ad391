"""Kinds of values: how each is read, and the JSON Schema of what is read.

The type of a field says its kind: `kind_of(int | None)`. Bounds are written beside the type, as in
`Annotated[int, whole(1)]`.
"""

from __future__ import annotations

import functools
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, TypeAlias

from submerge.errors import RecipeError, counted
from submerge.given.faults import Faults, inside, meant, one_of, shown

__all__ = [
    "ANY",
    "PATH",
    "SIZE",
    "Count",
    "Definitions",
    "Filled",
    "Kind",
    "Seed",
    "choice",
    "clean",
    "clean_path",
    "hinted",
    "kind_of",
    "listed",
    "made",
    "mapping",
    "named",
    "number",
    "ranged",
    "shared",
    "size",
    "whole",
]

Definitions: TypeAlias = dict[str, Any]
"""JSON Schemas by name, of what several fields take."""

_LARGEST = 1 << 63  # no file and no memory is as large
_NARROW = 1 << 20  # a range up to here is told whole
_SIZE = re.compile(r"(?P<count>[0-9]{1,18}(?:\.[0-9]{1,9})?) ?(?P<unit>[KMGT]i?B|B)", re.IGNORECASE)
_SIZE_UNITS = {"b": 1} | {
    f"{letter}{suffix}b": (1024 if suffix else 1000) ** power
    for power, letter in enumerate("kmgt", start=1)
    for suffix in ("", "i")
}
_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {
            "type": "string",
            "pattern": r"^\s*[0-9]{1,18}(\.[0-9]{1,9})? ?([KMGTkmgt][iI]?)?[Bb]\s*$",
        },
    ]
}


class Kind(NamedTuple):
    """What a field takes.

    Attributes:
        read: `read(raw, where)` returns the value, or raises RecipeError with the path `where`.
        schema: returns the JSON Schema (2020-12) of what `read` accepts; what it refers to is put
            among the definitions.
    """

    read: Callable[[Any, str], Any]
    schema: Callable[[Definitions], dict[str, Any]]


def _wrong(expected: str, raw: object, where: str, hint: str | None = None) -> RecipeError:
    return RecipeError(f"{where}: expected {expected}, got {shown(raw)}", hint=hint)


# -- single values --------------------------------------------------------------------------------


def clean(text: str, where: str, hint: str = "write it in UTF-8, without NUL") -> str:
    """Refuse text that no file name and no UTF-8 file can hold.

    Raises:
        RecipeError: NUL, or half a surrogate pair, as Python reads a byte that is not UTF-8.
    """
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise RecipeError(
            f"{where}: {shown(text)} holds NUL, or bytes that are not UTF-8", hint=hint
        )
    return text


def clean_path(path: str, where: str) -> str:
    """Refuse a name that no plan can hold, as `clean` does."""
    return clean(path, where, "name the file, and the folders it lies in, in UTF-8")


def _text(raw: object, where: str) -> str:
    if not isinstance(raw, str):
        raise _wrong("text", raw, where)
    return clean(raw, where)


def _filled(raw: object, where: str) -> str:
    if _text(raw, where) == "":
        raise _wrong("at least one character", raw, where)
    return _text(raw, where)


def _path(raw: object, where: str) -> str:
    text = os.fspath(raw) if isinstance(raw, os.PathLike) else raw
    if not isinstance(text, str) or not text:
        raise _wrong("a path", raw, where)
    return clean_path(text, where)


def _flag(raw: object, where: str) -> bool:
    if not isinstance(raw, bool):
        raise _wrong("true or false", raw, where)
    return raw


def number(raw: object, where: str, expected: str = "a number") -> float:
    """Return `raw` as a finite float; a bool, a text and a non-finite number are refused."""
    if isinstance(raw, bool) or not isinstance(raw, numbers.Real):
        raise _wrong(expected, raw, where, _number_hint(raw))
    try:
        value = float(raw)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _wrong("a finite number", raw, where, "write it out: 0.8, say")
    return value + 0.0  # -0.0 and 0.0 are one recipe


def _number_hint(raw: object) -> str | None:
    try:
        float(raw if isinstance(raw, str) else "no number")
    except ValueError:
        return None
    return f"remove the quotes: {str(raw).strip()}"


def size(raw: object, where: str) -> int:
    """Return bytes from a whole number or a text like `10GB` (decimal) or `64MiB` (binary).

    Raises:
        RecipeError: neither, not at least one byte, or more than any file has.
    """
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 < raw < _LARGEST:
        return raw
    match = _SIZE.fullmatch(raw.strip()) if isinstance(raw, str) else None
    found = int(float(match["count"]) * _SIZE_UNITS[match["unit"].lower()]) if match else 0
    if not 0 < found < _LARGEST:
        raise _wrong("bytes or a size", raw, where, "for example `10GB` or `64MiB`")
    return found


def whole(least: int = 0, below: int | None = None) -> Kind:
    """Take whole numbers from `least`, below `below`."""
    narrow = below is not None and below <= _NARROW

    def read(raw: object, where: str) -> int:
        if isinstance(raw, bool) or not isinstance(raw, numbers.Integral):
            raise _wrong("a whole number", raw, where)
        value = int(raw)
        if value < least or (below is not None and value >= below):
            bound = f"at least {least}" if below is None or value < least else _most(below)
            between = f"from {least} to {(below or 0) - 1}" if narrow else f"of {bound}"
            raise _wrong(f"a whole number {between}", raw, where)
        return value

    schema = {"type": "integer", "minimum": least}
    return Kind(read, lambda _: schema if below is None else {**schema, "exclusiveMaximum": below})


def _most(below: int) -> str:
    """Return the number before a power of 2 in words."""
    return f"at most 2^{below.bit_length() - 1} - 1"


def ranged(least: float | None = None, most: float | None = None) -> Kind:
    """Take numbers from `least` to `most`, both included."""
    bounds = {"minimum": least, "maximum": most}
    said = " ".join(
        f"{word} {bound:g}" for word, bound in (("from", least), ("to", most)) if bound is not None
    )

    def read(raw: object, where: str) -> float:
        found = number(raw, where)
        if (least is not None and found < least) or (most is not None and found > most):
            raise _wrong(f"a number {said}", raw, where)
        return found

    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return Kind(read, lambda _: {"type": "number", **given})


def choice(*names: str) -> Kind:
    """Take one of these words."""

    def read(raw: object, where: str) -> str:
        if isinstance(raw, str) and raw in names:
            return raw
        hint = meant(raw.lower(), names) if isinstance(raw, str) else None
        raise _wrong(f"one of {one_of(names)}", raw, where, hint)

    return Kind(read, lambda _: {"type": "string", "enum": list(names)})


ANY = Kind(lambda raw, _: raw, lambda _: {})
_SIMPLE: dict[Any, Kind] = {
    Any: ANY,
    object: ANY,
    bool: Kind(_flag, lambda _: {"type": "boolean"}),
    float: Kind(number, lambda _: {"type": "number"}),
    int: whole(),
    str: Kind(_text, lambda _: {"type": "string"}),
}

Count = Annotated[int, whole(1, 1 << 31)]
Seed = Annotated[int, whole(below=1 << 63)]
Filled = Annotated[str, Kind(_filled, lambda _: {"type": "string", "minLength": 1})]
PATH = Kind(_path, lambda _: {"type": "string", "minLength": 1})
SIZE = Kind(size, lambda _: _SIZE_SCHEMA)


# -- several values -------------------------------------------------------------------------------


def mapping(raw: object, where: str) -> Mapping[str, Any]:
    """Refuse what is no mapping, or has keys that are not text."""
    if not isinstance(raw, Mapping):
        raise _wrong("a mapping", raw, where)
    for key in raw:
        if not isinstance(key, str):
            raise RecipeError(
                f"{where}: the key {shown(key)} is not text, expected names as keys",
                hint=f'quote it: "{key}"' if isinstance(key, int | float) else None,
            )
    return raw


def listed(kind: Kind, *, least: int = 0, distinct: bool = False) -> Kind:
    """Take a list of at least so many items of one kind, all different if they have to be."""

    def read(raw: object, where: str) -> tuple[Any, ...]:
        if not isinstance(raw, list | tuple | range):
            raise _wrong("a list", raw, where)
        faults = Faults()
        items = tuple(faults.read(kind.read, item, inside(where, i)) for i, item in enumerate(raw))
        faults.refuse()
        if len(items) < least:
            raise RecipeError(
                f"{where}: expected at least {counted(least, 'item')}, got {len(items)}"
            )
        if distinct and len(set(items)) < len(items):
            twice = next(item for item in items if items.count(item) > 1)
            raise RecipeError(f"{where}: expected different items, got {shown(twice)} twice")
        return items

    also: dict[str, Any] = ({"minItems": least} if least else {}) | (
        {"uniqueItems": True} if distinct else {}
    )
    return Kind(read, lambda defs: {"type": "array", "items": kind.schema(defs), **also})


def named(kind: Kind, noun: str = "entry", names: Mapping[str, Any] | None = None) -> Kind:
    """Take a mapping of names to values of one kind.

    Args:
        kind: of the values.
        noun: what a value is, for messages.
        names: the JSON Schema of the names, whom whoever holds the field checks; a mapping with
            such names must not be empty.
    """

    def read(raw: object, where: str) -> dict[str, Any]:
        if names is not None and not mapping(raw, where):
            raise RecipeError(f"{where}: expected at least one {noun}, got an empty mapping")
        faults = Faults()
        values = {
            name: faults.read(kind.read, item, inside(where, name))
            for name, item in mapping(raw, where).items()
        }
        faults.refuse()
        return values

    also = {} if names is None else {"propertyNames": dict(names), "minProperties": 1}
    return Kind(
        read, lambda defs: {"type": "object", "additionalProperties": kind.schema(defs), **also}
    )


def shared(
    name: str, schema: Callable[[Definitions], dict[str, Any]]
) -> Callable[[Definitions], Any]:
    """Return a schema that is written once, among the definitions, and referred to."""

    def refer(definitions: Definitions) -> dict[str, Any]:
        if name not in definitions:
            definitions[name] = {}  # keeps the place, and ends a circle
            definitions[name] = schema(definitions)
        return {"$ref": f"#/$defs/{name}"}

    return refer


def hinted(kind: Kind, hint: str) -> Kind:
    """Add a hint to what is said of wrong values that have none."""

    def read(raw: object, where: str) -> Any:
        try:
            return kind.read(raw, where)
        except RecipeError as error:
            if error.faults or error.hint:
                raise
            raise RecipeError(error.message, hint=hint) from None

    return Kind(read, kind.schema)


def made(expected: str, fits: Callable[[Any], bool]) -> Kind:
    """Take objects that only Python can hand over, such as a function."""

    def read(raw: object, where: str) -> object:
        if not fits(raw):
            raise _wrong(expected, raw, where)
        return raw

    return Kind(read, lambda _: {})


@functools.cache
def kind_of(hint: Any) -> Kind:
    """Return the kind of a type; of `X | None` it is that of `X`.

    A class is read by its `parse(raw, where)` and described by its `json_schema(definitions)`.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return next(item for item in arguments if isinstance(item, Kind))
    if origin in (typing.Union, types.UnionType):
        (alone,) = (item for item in arguments if item is not type(None))
        return kind_of(alone)
    if origin is typing.Literal:
        kind = choice(*arguments)
    elif origin is tuple and arguments[1] is ...:
        kind = listed(kind_of(arguments[0]))
    elif origin in (dict, Mapping):
        kind = named(kind_of(arguments[1]))
    elif hint in _SIMPLE:
        kind = _SIMPLE[hint]
    else:
        kind = Kind(hint.parse, shared(hint.__name__, hint.json_schema))
    return kind
