"""What is wrong with what was written: where, in which words, and all of it at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from submerge.errors import RecipeError, counted, nearest, quoted

__all__ = ["Faults", "inside", "keyed", "meant", "one_of", "shown"]

T = TypeVar("T")
_TEXT_LIMIT = 40


class Faults:
    """Collects what is wrong, so that all of it is told at once."""

    def __init__(self) -> None:
        self.found: list[RecipeError] = []

    def add(self, message: str, hint: str | None = None) -> None:
        """Note a fault."""
        self.found.append(RecipeError(message, hint=hint))

    def read(self, read: Callable[[Any, str], T], raw: object, where: str) -> T | None:
        """Return what is read; when that is wrong, note why and return None."""
        try:
            return read(raw, where)
        except RecipeError as error:
            self.found += error.faults or (error,)
        return None

    def refuse(self) -> None:
        """Raise what was noted, if anything was."""
        if self.found:
            raise RecipeError.of(self.found)


def inside(where: str, key: object) -> str:
    """Return the path of a field: `recipe.output`, `recipe.alpha["double[0:8]"]`, `rules[3]`."""
    if isinstance(key, int):
        return f"{where}[{key}]"
    if isinstance(key, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,79}", key):
        return f"{where}.{key}" if where else key
    return keyed(where, str(key))


def keyed(where: str, key: str) -> str:
    """Return the path of what stands under a selector: `alpha["double"]`."""
    return f'{where}["{quoted(key)[1:-1]}"]'


def shown(raw: object) -> str:
    """Return how a value that a user wrote reads in an error message."""
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
        case list() | tuple():
            return f"a list of {counted(len(raw), 'item')}"
        case _:
            return f"a {type(raw).__name__}"


def one_of(choices: Iterable[str]) -> str:
    """Return names to choose from: ten at most, in backticks."""
    names = list(choices)
    rest = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(quoted, names[:10])) + rest


def meant(name: object, choices: Iterable[str]) -> str | None:
    """Return the hint that names the nearest choice, if one is near."""
    close = nearest(str(name), choices)
    return f"did you mean {quoted(close[0])}?" if close else None
