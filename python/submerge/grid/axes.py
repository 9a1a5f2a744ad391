"""What runs along the sides of a grid: numbers of the recipe, or of painting."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import RecipeError, listing, nearest, quoted
from submerge.given import shown
from submerge.values import Value

if TYPE_CHECKING:
    from typing import TypeAlias

    from submerge.view import View

    Side: TypeAlias = str | Mapping[str, Any]

__all__ = ["Axis", "Point", "Side", "axes_of", "points_of", "view_at"]

# What is painted differently with the same weights: name -> what its values are.
_PAINTING = {"seed": int, "steps": int, "guidance": float, "true_cfg": float, "shift": float}
_HINT = "write `alpha=0,0.25,0.5`, `set:single[*].mlp=0.2..0.8,0.5`, `seed=1,2` or `adapter:NAME=`"
_SIDES = ("x", "y", "z")
# More points than this are a mistake rather than a plan for an afternoon.
_MOST = 400


class Axis(NamedTuple):
    """One side of a grid.

    Attributes:
        side: `x` runs across, `y` down, `z` from table to table.
        name: `alpha`, `set:SELECTOR`, `adapter:NAME`, or an option of painting.
        values: what it takes in turn, as a recipe or `InferenceOptions` has them.
    """

    side: str
    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """The values as one reads them: `0.25`, `0.2..0.8`."""
        return [_label(value) for value in self.values]

    @property
    def of_recipe(self) -> bool:
        """Whether its values are different weights, not different ways of painting."""
        return self.name not in _PAINTING


class Point(NamedTuple):
    """Where a cell stands, by index along each side, and what is particular there."""

    at: Mapping[str, int]
    recipe: Mapping[str, Any]
    options: Mapping[str, Any]


def axes_of(sides: Mapping[str, Side | None]) -> list[Axis]:
    """Read the sides of a grid.

    Args:
        sides: `x`, `y`, `z`: `NAME=VALUE,VALUE` as on the command line, or `{name: values}`;
            None where there is none.

    Raises:
        RecipeError: malformed, a name that is unknown or there twice, too many points.
    """
    axes = [_read(side, sides[side]) for side in _SIDES if sides.get(side) is not None]
    if not axes:
        raise RecipeError("grid: expected an axis, got none", hint=_HINT)
    names = [axis.name for axis in axes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"grid: expected each axis once, got {quoted(twice[0])} twice")
    points = 1
    for axis in axes:
        points *= len(axis.values)
    if points > _MOST:
        raise RecipeError(f"grid: expected at most {_MOST} points, got {points:,}")
    return axes


def points_of(axes: list[Axis]) -> list[Point]:
    """Return every point, those of one recipe in a row."""
    found = [Point({}, {}, {})]
    for axis in sorted(axes, key=lambda axis: not axis.of_recipe):
        found = [_moved(p, axis, index) for p in found for index in range(len(axis.values))]
    return found


def _moved(point: Point, axis: Axis, index: int) -> Point:
    at = {**point.at, axis.side: index}
    one = {axis.name: axis.values[index]}
    if axis.of_recipe:
        return Point(at, {**point.recipe, **one}, point.options)
    return Point(at, point.recipe, {**point.options, **one})


def view_at(view: View, changes: Mapping[str, Any]) -> View:
    """Return the merge of a point: the view with the values of its axes.

    Raises:
        RecipeError: a value is malformed, a selector matches nothing, there is no such adapter.
    """
    fields: dict[str, Any] = {}
    rules: dict[str, Any] = {}
    given = view.recipe.to_dict().get("adapters", ())
    adapters = [{"path": a} if isinstance(a, str) else dict(a) for a in given]
    for name, value in changes.items():
        kind, _, what = name.partition(":")
        if kind == "set":
            rules[what] = value
        elif kind == "adapter":
            adapters[_adapter(what, adapters)]["scale"] = value
            fields["adapters"] = adapters
        else:
            fields[name] = value
    return view.with_(set=rules, **fields) if changes else view


def _adapter(name: str, adapters: list[dict[str, Any]]) -> int:
    """Return which adapter of a recipe is meant, by its file's name with or without the ending."""
    paths = [Path(str(a["path"])) for a in adapters]
    found = [at for at, path in enumerate(paths) if name in (path.name, path.stem)]
    if len(found) != 1:
        known = [path.stem for path in paths]
        near = nearest(name, known)
        raise RecipeError(
            f"grid: adapter {quoted(name)}: expected the name of one of the recipe's adapters, "
            f"{listing(known, noun='adapter')}",
            hint=f"did you mean {quoted(near[0])}?" if near else "add it to the recipe first",
        )
    return found[0]


def _read(side: str, given: Any) -> Axis:
    where = f"grid.{side}"
    if isinstance(given, str):
        name, equals, text = given.rpartition("=")
        if not equals or not name.strip():
            raise RecipeError(f"{where}: expected NAME=VALUE,..., got {quoted(given)}", hint=_HINT)
        raw: Any = [_value(part.strip(), where) for part in text.split(",")]
    elif isinstance(given, Mapping) and len(given) == 1 and isinstance(next(iter(given)), str):
        name, raw = next(iter(given.items()))
    else:
        raise RecipeError(f"{where}: expected one name and its values, got {shown(given)}")
    if isinstance(raw, str | Mapping) or not isinstance(raw, Iterable):
        raise RecipeError(f"{where}: expected a list of values, got {shown(given)}")
    name = _known(name.strip(), where)
    values = tuple(_checked(name, value, f"{where}.{name}") for value in raw)
    if not values:
        raise RecipeError(f"{where}: expected values of {quoted(name)}, got none", hint=_HINT)
    if len({_label(value) for value in values}) < len(values):
        raise RecipeError(f"{where}: expected each value of {quoted(name)} once, got one twice")
    return Axis(side, name, values)


def _known(name: str, where: str) -> str:
    kind, colon, what = name.partition(":")
    if name in _PAINTING or name == "alpha" or (kind in ("set", "adapter") and colon and what):
        return name
    near = nearest(kind, ["alpha", "set", "adapter", *_PAINTING])
    raise RecipeError(
        f"{where}: expected `alpha`, `set:SELECTOR`, `adapter:NAME`, `seed`, `steps`, `guidance`, "
        f"`true_cfg` or `shift`, got {quoted(name)}",
        hint=f"did you mean `{near[0]}`?" if near else _HINT,
    )


def _value(text: str, where: str) -> Any:
    """Read `0.3`, or `0.3..0.8` as a gradient over the blocks."""
    start, dots, end = text.partition("..")
    try:
        if dots:
            return {"from": float(start), "to": float(end)}
        return int(text) if re.fullmatch(r"[0-9]+", text) else float(text)
    except ValueError:
        raise RecipeError(
            f"{where}: expected a number or FROM..TO, got {quoted(text)}", hint=_HINT
        ) from None


def _checked(name: str, value: Any, where: str) -> Any:
    kind = _PAINTING.get(name)
    if kind is None:
        Value.parse(value, where)
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (kind is float and isinstance(value, float)):
        noun = "a whole number" if kind is int else "a number"
        raise RecipeError(f"{where}: expected {noun}, got {shown(value)}")
    return kind(value)


def _label(value: Any) -> str:
    if isinstance(value, Mapping) and value.keys() == {"from", "to"}:
        return f"{value['from']:g}..{value['to']:g}"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(value)
