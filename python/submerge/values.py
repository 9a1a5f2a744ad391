"""Parameter values: one number, or numbers that differ from block to block.

A parameter of a merge method, `alpha` say, may be written as

- a number, the same everywhere: `0.5`;
- a list with exactly one number per selected block, in execution order: `[0.1, 0.2, 0.3]`;
- a gradient over the selected blocks: `{from: 0.2, to: 0.8}`;
- a mapping from selectors to any of these:
  `{"double[0:8]": 0.2, single: {from: 0, to: 1}, default: 0.5}`; the first selector that matches a
  unit decides, `default` takes the rest.

Execution order is embedders and guidance, double blocks, single blocks, final layer. Under a list
or a gradient, units before the blocks take its first number and units after them its last.

Every function raises `RecipeError` with the path of the offending field.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

from submerge.blocks import Block, Selector, blocks_of, position, select
from submerge.errors import RecipeError, listing, quoted
from submerge.given import Definitions, Faults, inside, keyed, kind_of, mapping, number, shown

__all__ = [
    "Gradient",
    "Listed",
    "Mapped",
    "Number",
    "PerModel",
    "Selection",
    "Value",
    "entries_of",
]

T = TypeVar("T")
_FORMS = "a number, a list, {from, to} or a mapping of selectors"


class Selection(NamedTuple):
    """The units a value speaks of.

    Attributes:
        units: every unit selected; lists and gradients run over the blocks these lie in.
        wanted: the units that must end up with a number (the rest may be decided elsewhere).
        blocks: the blocks of `units`, in execution order, each once.
    """

    units: tuple[str, ...]
    wanted: tuple[str, ...]
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, units: Iterable[str], wanted: Iterable[str] | None = None) -> Self:
        """Select `units`; `wanted` defaults to all of them."""
        names = tuple(units)
        return cls(names, names if wanted is None else tuple(wanted), tuple(blocks_of(names)))


class Value(ABC):
    """A number for every selected unit; see the module's description for the forms."""

    __slots__ = ()

    @staticmethod
    def parse(raw: object, where: str) -> Value:
        """Read a value from what YAML, JSON or a dict holds."""
        if isinstance(raw, Value):
            return raw
        if isinstance(raw, Mapping):
            gradient = {"from", "to"} & set(raw)
            return Gradient.read(raw, where) if gradient else Mapped.read(raw, where)
        if isinstance(raw, list | tuple):
            if not raw:
                raise RecipeError(
                    f"{where}: expected one number per selected block, got an empty list"
                )
            return Listed(_numbers({inside(where, i): item for i, item in enumerate(raw)}))
        return Number(number(raw, where, _FORMS))

    @abstractmethod
    def plain(self) -> Any:
        """Return the value as numbers, lists and dicts, in the form `parse` reads."""

    @abstractmethod
    def table(self, selection: Selection, where: str) -> dict[str, float]:
        """Return the number of every unit of `selection` that this value speaks of.

        Raises:
            RecipeError: a list of the wrong length, a selector that matches nothing, a wanted unit
                without a number.
        """

    @staticmethod
    def json_schema(definitions: Definitions) -> dict[str, Any]:  # noqa: ARG004
        """Return the JSON Schema (2020-12) of the forms `parse` accepts."""
        gradient = {
            "type": "object",
            "properties": {"from": {"type": "number"}, "to": {"type": "number"}},
            "required": ["from", "to"],
            "additionalProperties": False,
        }
        simple = [
            {"type": "number"},
            {"type": "array", "items": {"type": "number"}, "minItems": 1},
            gradient,
        ]
        mapping = {
            "type": "object",
            "propertyNames": {"not": {"enum": ["from", "to"]}},
            "additionalProperties": {"anyOf": simple},
            "minProperties": 1,
        }
        return {"anyOf": [*simple, mapping]}


@dataclass(frozen=True, slots=True)
class Number(Value):
    """The same number everywhere."""

    value: float

    def plain(self) -> Any:
        """Return the number."""
        return self.value

    def table(self, selection: Selection, where: str) -> dict[str, float]:  # noqa: ARG002
        """Return the number for every unit."""
        return dict.fromkeys(selection.units, self.value)


@dataclass(frozen=True, slots=True)
class Listed(Value):
    """One number per selected block, in execution order."""

    values: tuple[float, ...]

    def plain(self) -> Any:
        """Return the numbers as a list."""
        return list(self.values)

    def table(self, selection: Selection, where: str) -> dict[str, float]:
        """Return the block's number for each of its units; the ends' for units outside blocks."""
        blocks = selection.blocks
        if len(self.values) != len(blocks):
            raise RecipeError(
                f"{where}: a list takes one number per selected block, "
                f"expected {len(blocks)}, got {len(self.values)}",
                hint="write `{from: a, to: b}` for numbers that fit any count of blocks"
                if blocks
                else None,
            )
        last = len(blocks) - 1
        return {name: self.values[round(position(name, blocks) * last)] for name in selection.units}


@dataclass(frozen=True, slots=True)
class Gradient(Value):
    """From `start` at the first selected block to `stop` at the last, in equal steps."""

    start: float
    stop: float

    @classmethod
    def read(cls, raw: Mapping[Any, Any], where: str) -> Self:
        """Read `{from: a, to: b}`."""
        if set(raw) != {"from", "to"}:
            got = ", ".join(quoted(str(key)) for key in list(raw)[:10])
            raise RecipeError(f"{where}: a gradient takes exactly `from` and `to`, got {got}")
        return cls(*_numbers({inside(where, end): raw[end] for end in ("from", "to")}))

    def plain(self) -> Any:
        """Return `{from, to}`."""
        return {"from": self.start, "to": self.stop}

    def table(self, selection: Selection, where: str) -> dict[str, float]:
        """Return `(1 - t) * start + t * stop`, t the unit's position along the blocks."""
        if not selection.blocks:
            raise RecipeError(
                f"{where}: a gradient runs over blocks, expected at least one selected, got none",
                hint="write a plain number",
            )
        return {name: self._at(position(name, selection.blocks)) for name in selection.units}

    def _at(self, t: float) -> float:
        # This form, unlike start + t * (stop - start), returns both ends exactly.
        return self.start if self.start == self.stop else (1.0 - t) * self.start + t * self.stop


@dataclass(frozen=True, slots=True)
class Mapped(Value):
    """Values by selector: the first that matches a unit decides, `default` takes the rest."""

    entries: tuple[tuple[str, Value], ...]
    default: Value | None = None

    @classmethod
    def read(cls, raw: Mapping[Any, Any], where: str) -> Self:
        """Read `{selector: value, ..., default: value}`; its values are not mappings themselves."""
        if not mapping(raw, where):
            raise RecipeError(f"{where}: expected at least one selector, got an empty mapping")
        faults = Faults()
        for key in raw:
            if key != "default":
                faults.read(Selector.parse, key, keyed(where, key))
        entries = dict(faults.read(_entries, raw, where) or ())
        faults.refuse()
        default = entries.pop("default", None)
        return cls(tuple(entries.items()), default)

    def plain(self) -> Any:
        """Return selectors in order, then the default."""
        written = {key: value.plain() for key, value in self.entries}
        return written if self.default is None else {**written, "default": self.default.plain()}

    def table(self, selection: Selection, where: str) -> dict[str, float]:
        """Return the number of the first selector that matches, else the default's."""
        numbers: dict[str, float] = {}
        for key, value in self.entries:
            here = keyed(where, key)
            reached = select(Selector.parse(key, here), selection.units)
            for name, found in value.table(Selection.of(reached, ()), here).items():
                numbers.setdefault(name, found)
        if self.default is not None:
            for name, found in self.default.table(selection, f"{where}.default").items():
                numbers.setdefault(name, found)
        missing = [name for name in selection.wanted if name not in numbers]
        if missing:
            raise RecipeError(
                f"{where}: no selector matches {listing(missing, noun='unit')}",
                hint="add `default: <number>` for the rest",
            )
        return numbers


def entries_of(raw: Mapping[str, Any], where: str) -> tuple[tuple[str, Value], ...]:
    """Read values by model, and tell everything wrong at once."""
    return _read(raw, {key: inside(where, key) for key in raw}, Value.parse)


def _entries(raw: Mapping[str, Any], where: str) -> tuple[tuple[str, Value], ...]:
    """Read values by selector, which are no mappings themselves."""

    def simple(item: object, where: str) -> Value:
        value = Value.parse(item, where)
        if isinstance(value, Mapped):
            raise RecipeError(
                f"{where}: a mapping inside a mapping, expected a number, a list or {{from, to}}"
            )
        return value

    return _read(raw, {key: keyed(where, key) for key in raw}, simple)


def _read(
    raw: Mapping[str, Any], places: Mapping[str, str], read: Callable[[object, str], T]
) -> tuple[tuple[str, T], ...]:
    faults = Faults()
    found = [(key, faults.read(read, item, places[key])) for key, item in raw.items()]
    faults.refuse()
    return tuple((key, value) for key, value in found if value is not None)


def _numbers(raw: Mapping[str, object]) -> tuple[float, ...]:
    """Read numbers by their paths."""
    return tuple(found for _, found in _read(raw, {where: where for where in raw}, number))


@dataclass(frozen=True, slots=True)
class PerModel:
    """One value per named model, for models named in the recipe; a model left out has 0."""

    entries: tuple[tuple[str, Value], ...]

    @classmethod
    def parse(cls, raw: object, where: str) -> PerModel:
        """Read `{model: value, ...}`."""
        if isinstance(raw, PerModel):
            return raw
        if not isinstance(raw, Mapping):
            hint = (
                None
                if isinstance(raw, list)
                else "write `alpha` for the second model's share, or name the models"
            )
            raise RecipeError(
                f"{where}: expected a mapping of model names to values, got {shown(raw)}", hint=hint
            )
        if not mapping(raw, where):
            raise RecipeError(f"{where}: expected at least one model, got an empty mapping")
        return cls(entries_of(raw, where))

    def plain(self) -> Any:
        """Return `{model: value}` as `parse` reads it, sorted by name: the order has no meaning."""
        return {
            name: value.plain() for name, value in sorted(self.entries, key=lambda entry: entry[0])
        }

    @staticmethod
    def json_schema(definitions: Definitions) -> dict[str, Any]:
        """Return the JSON Schema of the forms `parse` accepts."""
        value = kind_of(Value).schema(definitions)
        return {"type": "object", "additionalProperties": value, "minProperties": 1}
