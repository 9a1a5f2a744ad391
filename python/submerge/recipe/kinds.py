"""What the fields of a recipe take, said once: reading and the JSON Schema follow from it.

A part of a recipe is a frozen dataclass whose fields are declared with `given`. `Part.read` refuses
what is unknown, empty or of the wrong kind, converts nothing, and tells everything wrong at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Self

from submerge.errors import RecipeError, nearest, quoted
from submerge.values import shown

__all__ = ["FILLED", "FLAG", "TEXT", "Kind", "Part", "choice", "given", "listed", "named", "whole"]

_SHOWN_FAULTS = 10


class Kind(NamedTuple):
    """What a field takes.

    Attributes:
        read: `read(raw, where)` returns the value, or raises RecipeError with the path `where`.
        schema: returns the JSON Schema (2020-12) of what `read` accepts.
    """

    read: Callable[[Any, str], Any]
    schema: Callable[[], dict[str, Any]]


def given(kind: Kind, description: str, default: Any = MISSING) -> Any:
    """Declare a field of a part; one without a default must be given."""
    return field(default=default, metadata={"kind": kind, "description": description})


class _FaultsError(RecipeError):
    """Everything wrong: a line each, and the first hint."""

    def __init__(self, faults: Sequence[RecipeError]) -> None:
        lines = [fault.message for fault in faults[:_SHOWN_FAULTS]]
        if len(faults) > _SHOWN_FAULTS:
            lines.append(f"and {len(faults) - _SHOWN_FAULTS} more")
        hint = next((fault.hint for fault in faults if fault.hint), None)
        super().__init__("\n".join(lines), hint=hint)
        self.faults = faults


class _Reader:
    """Reads one value after another, and on after an error."""

    def __init__(self) -> None:
        self.faults: list[RecipeError] = []

    def read(self, kind: Kind, raw: object, where: str) -> Any:
        """Return the value; when it is wrong, note why and return None."""
        try:
            return kind.read(raw, where)
        except _FaultsError as error:
            self.faults += error.faults
        except RecipeError as error:
            self.faults.append(error)
        return None

    def finish(self) -> None:
        """Raise what was noted."""
        if self.faults:
            raise _FaultsError(self.faults)


@dataclass(frozen=True)
class Part:
    """A mapping with known fields, each declared with `given`.

    Attributes:
        schema_also: what the JSON Schema says beside the fields.
    """

    schema_also: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def declared(cls) -> dict[str, Field[Any]]:
        """Return the fields by name."""
        return {found.name: found for found in fields(cls)}

    @classmethod
    def read(cls, raw: object, where: str) -> Self:
        """Read a mapping.

        Raises:
            RecipeError: no mapping, or fields that are empty, missing, unknown or wrong.
        """
        if isinstance(raw, cls):
            return raw
        if not isinstance(raw, Mapping):
            raise _expected("a mapping", raw, where)
        for name, value in raw.items():
            # `alpha:` with nothing after it is a slip; read as "not given" it would mean 0.5.
            if value is None:
                raise RecipeError(
                    f"{where}.{name}: is empty, expected a value", hint=f"leave `{name}` out"
                )
        reader, known = _Reader(), cls.declared()
        values = {}
        for name, declared in known.items():
            here = f"{where}.{name}"
            if name in raw:
                values[name] = reader.read(declared.metadata["kind"], raw[name], here)
            elif declared.default is MISSING:
                reader.faults.append(RecipeError(f"{here}: missing, expected it to be given"))
        reader.faults += [_unknown(name, known, where) for name in raw if name not in known]
        reader.finish()
        part = cls(**values)
        part.check(where)
        return part

    def check(self, where: str) -> None:
        """Refuse fields that are right by themselves and do not fit together."""

    def written(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        return {
            name: value
            for name, declared in self.declared().items()
            if (value := getattr(self, name)) != declared.default
        }


def _expected(what: str, raw: object, where: str) -> RecipeError:
    return RecipeError(f"{where}: expected {what}, got {shown(raw)}")


def _unknown(name: str, known: Mapping[str, object], where: str) -> RecipeError:
    return RecipeError(
        f"{where}: unknown field {quoted(name)}, expected one of {', '.join(map(quoted, known))}",
        hint=_meant(name, known),
    )


def _meant(name: str, choices: Mapping[str, object] | Sequence[str]) -> str | None:
    close = nearest(name, choices)
    return f"did you mean {quoted(close[0])}?" if close else None


def _text(raw: object, where: str) -> str:
    if not isinstance(raw, str):
        raise _expected("text", raw, where)
    return raw


def _filled(raw: object, where: str) -> str:
    if _text(raw, where) == "":
        raise _expected("at least one character", raw, where)
    return _text(raw, where)


def _flag(raw: object, where: str) -> bool:
    if not isinstance(raw, bool):
        raise _expected("true or false", raw, where)
    return raw


TEXT = Kind(_text, lambda: {"type": "string"})
FILLED = Kind(_filled, lambda: {"type": "string", "minLength": 1})
FLAG = Kind(_flag, lambda: {"type": "boolean"})


def choice(*names: str) -> Kind:
    """Take one of these words."""

    def read(raw: object, where: str) -> str:
        if isinstance(raw, str) and raw in names:
            return raw
        raise RecipeError(
            f"{where}: expected one of {', '.join(map(quoted, names))}, got {shown(raw)}",
            hint=_meant(raw.lower(), names) if isinstance(raw, str) else None,
        )

    return Kind(read, lambda: {"type": "string", "enum": list(names)})


def whole(below: int) -> Kind:
    """Take whole numbers from 0."""

    def read(raw: object, where: str) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise _expected("a whole number", raw, where)
        if not 0 <= raw < below:
            raise _expected(f"a whole number from 0 to {below - 1}", raw, where)
        return raw

    return Kind(read, lambda: {"type": "integer", "minimum": 0, "exclusiveMaximum": below})


def listed(kind: Kind) -> Kind:
    """Take a list, every item of one kind."""

    def read(raw: object, where: str) -> tuple[Any, ...]:
        if not isinstance(raw, list | tuple):
            raise _expected("a list", raw, where)
        reader = _Reader()
        items = tuple(reader.read(kind, item, f"{where}[{i}]") for i, item in enumerate(raw))
        reader.finish()
        return items

    return Kind(read, lambda: {"type": "array", "items": kind.schema()})


def named(kind: Kind, noun: str, names: Mapping[str, Any]) -> Kind:
    """Take a mapping of at least one name to values of one kind.

    Args:
        kind: of the values.
        noun: what a value is, for messages.
        names: the JSON Schema of the names; whoever holds the field checks them.
    """

    def read(raw: object, where: str) -> dict[str, Any]:
        if not isinstance(raw, Mapping):
            raise _expected("a mapping", raw, where)
        if not raw:
            raise RecipeError(f"{where}: expected at least one {noun}, got an empty mapping")
        reader = _Reader()
        values = {name: reader.read(kind, item, f"{where}.{name}") for name, item in raw.items()}
        reader.finish()
        return values

    return Kind(
        read,
        lambda: {
            "type": "object",
            "propertyNames": dict(names),
            "additionalProperties": kind.schema(),
            "minProperties": 1,
        },
    )
