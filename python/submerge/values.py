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

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from submerge.blocks import Block, Selector, blocks_of, position, select
from submerge.errors import RecipeError, counted, listing, quoted

__all__ = [
    "Gradient",
    "Listed",
    "Mapped",
    "Number",
    "PerModel",
    "Selection",
    "Value",
    "number",
    "shown",
    "size",
]

_FORMS = "expected a number, a list, {from, to} or a mapping of selectors"
_TEXT_LIMIT = 40
_SIZE = re.compile(r"(?P<count>[0-9]{1,18}(?:\.[0-9]{1,9})?) ?(?P<unit>[KMGT]i?B|B)", re.IGNORECASE)
_SIZE_UNITS = {"b": 1} | {
    f"{letter}{suffix}b": (1024 if suffix else 1000) ** power
    for power, letter in enumerate("kmgt", start=1)
    for suffix in ("", "i")
}


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


def shown(raw: object) -> str:
    """Return how a value from a recipe reads in an error message."""
    match raw:
        case None | bool():
            return {None: "nothing", True: "true", False: "false"}[raw]
        case int() | float():
            small = isinstance(raw, float) or raw.bit_length() < 128
            return str(raw) if small else "a huge integer"
        case str():
            cut = raw if len(raw) <= _TEXT_LIMIT else raw[:_TEXT_LIMIT] + "…"
            return f"the text {quoted(cut)}"
        case Mapping():
            return f"a mapping of {counted(len(raw), 'key')}"
        case Sequence():
            return f"a list of {counted(len(raw), 'item')}"
        case _:
            return f"a {type(raw).__name__}"


def number(raw: object, where: str, expected: str = "expected a number") -> float:
    """Return `raw` as a finite float; a bool, a text and a non-finite number are refused."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise RecipeError(f"{where}: {expected}, got {shown(raw)}", hint=_number_hint(raw))
    try:
        value = float(raw)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise RecipeError(f"{where}: expected a finite number, got {shown(raw)}")
    return value + 0.0  # -0.0 and 0.0 are one recipe


def size(raw: object, where: str) -> int:
    """Return bytes from a whole number or a text like `10GB` (decimal) or `64MiB` (binary).

    Raises:
        RecipeError: neither, or not at least one byte.
    """
    if isinstance(raw, int) and not isinstance(raw, bool) and raw > 0:
        return raw
    match = _SIZE.fullmatch(raw.strip()) if isinstance(raw, str) else None
    found = int(float(match["count"]) * _SIZE_UNITS[match["unit"].lower()]) if match else 0
    if found <= 0:
        raise RecipeError(
            f"{where}: expected bytes or a size, got {shown(raw)}",
            hint="for example `10GB` or `64MiB`",
        )
    return found


def _number_hint(raw: object) -> str | None:
    if not isinstance(raw, str):
        return None
    try:
        float(raw)
    except ValueError:
        return None
    return f"remove the quotes: {raw.strip()}"


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
            return Listed(tuple(number(item, f"{where}[{i}]") for i, item in enumerate(raw)))
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
    def schema() -> dict[str, Any]:
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
        return cls(number(raw["from"], f"{where}.from"), number(raw["to"], f"{where}.to"))

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
        if not raw:
            raise RecipeError(f"{where}: expected at least one selector, got an empty mapping")
        entries: list[tuple[str, Value]] = []
        default = None
        for key, item in raw.items():
            here = f'{where}["{key}"]'
            if not isinstance(key, str):
                raise RecipeError(f"{where}: expected selectors as keys, got {shown(key)}")
            value = Value.parse(item, here)
            if isinstance(value, Mapped):
                raise RecipeError(
                    f"{here}: a mapping inside a mapping, expected a number, a list or {{from, to}}"
                )
            if key == "default":
                default = value
                continue
            Selector.parse(key, here)
            entries.append((key, value))
        return cls(tuple(entries), default)

    def plain(self) -> Any:
        """Return selectors in order, then the default."""
        written = {key: value.plain() for key, value in self.entries}
        return written if self.default is None else {**written, "default": self.default.plain()}

    def table(self, selection: Selection, where: str) -> dict[str, float]:
        """Return the number of the first selector that matches, else the default's."""
        numbers: dict[str, float] = {}
        for key, value in self.entries:
            here = f'{where}["{key}"]'
            inside = select(Selector.parse(key, here), selection.units)
            for name, found in value.table(Selection.of(inside, ()), here).items():
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
        if not raw:
            raise RecipeError(f"{where}: expected at least one model, got an empty mapping")
        return cls(
            tuple((str(key), Value.parse(item, f"{where}.{key}")) for key, item in raw.items())
        )

    def plain(self) -> Any:
        """Return `{model: value}` as `parse` reads it, sorted by name: the order has no meaning."""
        return {
            name: value.plain() for name, value in sorted(self.entries, key=lambda entry: entry[0])
        }

    @staticmethod
    def schema() -> dict[str, Any]:
        """Return the JSON Schema of the forms `parse` accepts."""
        return {"type": "object", "additionalProperties": Value.schema(), "minProperties": 1}
