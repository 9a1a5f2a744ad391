"""Mappings with declared fields: what may be written, and what it means left out.

A record is a frozen dataclass: the types of its fields say how each is read, their defaults what is
meant where nothing is said. Reading, errors and the JSON Schema follow from that alone.
"""

# Not pydantic: importing it costs more than all of `submerge merge` up to the first byte read, and
# its messages would be replaced one by one: field paths, nearest names, hints.

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Mapping  # noqa: TC003 - read with the types of the fields
from dataclasses import MISSING
from typing import Any, ClassVar, NamedTuple, Self

from submerge.errors import quoted
from submerge.given.faults import Faults, inside, meant, one_of
from submerge.given.kinds import Definitions, Kind, kind_of, mapping

__all__ = ["Declared", "Options", "Record", "declare", "declared"]


def declare(description: str, default: Any = MISSING) -> Any:
    """Declare a field with what it means; one without a default must be given."""
    return dataclasses.field(default=default, metadata={"description": description})


class Declared(NamedTuple):
    """A field of a record.

    Attributes:
        attribute: its name in Python: a word of the language gets an underscore, `lambda_`.
        hint: its type.
        kind: how it is read.
        optional: whether it may be None.
        default: what it means left out; `MISSING` if it must be given.
        description: what it means, where that is declared.
    """

    attribute: str
    hint: Any
    kind: Kind
    optional: bool
    default: Any
    description: str

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING


def declared(record: type) -> Mapping[str, Declared]:
    """Return the fields of a dataclass by the names users write."""
    return _declared(typing.cast("Any", record))


@functools.cache
def _declared(record: Any) -> Mapping[str, Declared]:
    hints = typing.get_type_hints(record, include_extras=True)
    return {
        field.name.rstrip("_"): Declared(
            field.name,
            hints[field.name],
            kind_of(hints[field.name]),
            type(None) in typing.get_args(hints[field.name]),
            field.default if field.default_factory is MISSING else field.default_factory(),
            field.metadata.get("description", ""),
        )
        for field in dataclasses.fields(record)
        if field.init
    }


class Record:
    """A mapping with known fields; a subclass is a frozen dataclass.

    Attributes:
        noun: what a field is called in messages.
        open: whether fields that are not declared are left aside instead of refused.
        passes_on: the field that takes whatever else another record declares, and that record.
        none_is_given: whether None is a value of optional fields. In files it is a slip: `alpha:`
            with nothing after it, read as "not given", would mean 0.5.
        schema_also: what the JSON Schema says beside the fields.
    """

    __slots__ = ()
    noun: ClassVar[str] = "field"
    open: ClassVar[bool] = False
    passes_on: ClassVar[tuple[str, type[Record]] | None] = None
    none_is_given: ClassVar[bool] = False
    schema_also: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def parse(cls, raw: object, where: str) -> Self:
        """Read a mapping, and tell everything wrong with it at once.

        Raises:
            RecipeError: no mapping, or fields that are empty, missing, unknown or wrong.
        """
        if isinstance(raw, cls):
            return raw
        given, known = mapping(raw, where), declared(cls)
        faults, values = Faults(), {}
        for name, field in known.items():
            if name in given:
                value = cls._value(field, given[name], inside(where, name), faults)
                values[field.attribute] = value
            elif field.required:
                faults.add(f"{inside(where, name)}: missing, expected it to be given")
        rest = {name: value for name, value in given.items() if name not in known}
        if cls.passes_on is not None:
            field_name, other = cls.passes_on
            theirs = {name: rest.pop(name) for name in list(rest) if name in declared(other)}
            faults.read(other.parse, theirs, where)
            values[field_name] = {**(values.get(field_name) or {}), **theirs}
            known = {**known, **declared(other)}
        for name in () if cls.open else rest:
            faults.add(
                f"{where}: unknown {cls.noun} {quoted(name)}, expected one of {one_of(known)}",
                cls.advice(name, given, known),
            )
        faults.refuse()
        record = cls(**values)
        record.check_together(where)
        return record

    @classmethod
    def _value(cls, field: Declared, raw: object, where: str, faults: Faults) -> Any:
        if raw is not None or (cls.none_is_given and not field.optional):
            return faults.read(field.kind.read, raw, where)
        if not cls.none_is_given:
            name = where.rpartition(".")[2]
            faults.add(f"{where}: is empty, expected a value", f"leave {quoted(name)} out")
        return None

    @classmethod
    def advice(
        cls, name: str, given: Mapping[str, Any], known: Mapping[str, Declared]
    ) -> str | None:
        """Return what to write instead of an unknown field; `given` is all that was written."""
        del given
        return meant(name, known)

    def check_together(self, where: str) -> None:
        """Refuse fields that are right by themselves and do not fit together."""

    def written(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as plain data."""
        return {
            name: plain(value)
            for name, field in declared(type(self)).items()
            if (value := getattr(self, field.attribute)) != field.default
        }

    def plain(self) -> Any:
        """Return the record as it is written."""
        return self.written()

    @classmethod
    def json_schema(cls, definitions: Definitions) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of what `parse` accepts."""
        known = declared(cls)
        required = [name for name, field in known.items() if field.required]
        return {
            "description": inspect.cleandoc(cls.__doc__ or ""),
            "type": "object",
            "properties": {name: _schema(field, definitions) for name, field in known.items()},
            **({"required": required} if required else {}),
            "additionalProperties": cls.open,
            **cls.schema_also,
        }


class Options(Record):
    """A record that is written in Python: as keywords, or as a dict.

    Attributes:
        where: what stands before the names of the fields in messages.
    """

    __slots__ = ()
    none_is_given: ClassVar[bool] = True
    where: ClassVar[str] = "options"

    def __post_init__(self) -> None:
        """Read what was given as keywords, as if it stood in a dict."""
        faults = Faults()
        for name, field in declared(type(self)).items():
            raw = getattr(self, field.attribute)
            value = self._value(field, raw, inside(self.where, name), faults)
            object.__setattr__(self, field.attribute, value)
        faults.refuse()
        self.check_together(self.where)

    @classmethod
    def of(cls, given: Self | Mapping[str, Any] | None) -> Self:
        """Return options from themselves or a dict; None gives the defaults.

        Raises:
            RecipeError: everything unknown and wrong, with the field.
        """
        return cls() if given is None else cls.parse(given, cls.where)

    def with_(self, **changes: Any) -> Self:
        """Return a copy with some options changed."""
        return typing.cast("Self", dataclasses.replace(typing.cast("Any", self), **changes))


def plain(value: Any) -> Any:
    """Return a value of a field as it is written."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value.plain() if hasattr(value, "plain") else value


def _schema(field: Declared, definitions: Definitions) -> dict[str, Any]:
    """Return the schema of a field; the default of a record is that of its fields."""
    default = None if field.required else plain(field.default)
    shown = isinstance(default, str | int | float | list)
    return {
        **({"description": field.description} if field.description else {}),
        **({"default": default} if shown else {}),
        **field.kind.schema(definitions),
    }
