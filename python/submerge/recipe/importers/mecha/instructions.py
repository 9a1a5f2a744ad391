"""sd-mecha's `.mecha` text read into instructions.

The first line names the version; each of the others makes one value, which later lines refer to as
`&0`, `&1`, ...: `dict`, `literal`, `model` or `merge`, then arguments parted by spaces and named
ones as `name=value`. An argument is a reference, a quoted text, a number, `true`, `false` or
`null`. The last line is the result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from submerge.errors import RecipeError, quoted
from submerge.recipe.importers.preset import LARGEST

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "VERSION",
    "Argument",
    "Instruction",
    "Reference",
    "looks_like_mecha",
    "read_text_of",
]

VERSION = "0.1.0"
_COMMANDS = ("dict", "literal", "model", "merge")
_CONSTANTS = {"null": None, "true": True, "false": False}
_NUMBER = re.compile(r"[-+]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][-+]?[0-9]{1,3})?")
_MAX_LINES = 20_000


class Reference(NamedTuple):
    """`&3`: the value the fourth instruction makes."""

    at: int


Argument: TypeAlias = Reference | Fraction | str | bool | None


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line.

    Attributes:
        index: what others refer to it by.
        line: the line of the file, from 1.
        command: one of the four commands.
        given: its arguments in order.
        named: its arguments by name.
    """

    index: int
    line: int
    command: str
    given: tuple[Argument, ...]
    named: dict[str, Argument]

    @property
    def method(self) -> str:
        """The merge method's name; empty for the other commands."""
        first = self.given[0] if self.given else None
        return first if self.command == "merge" and isinstance(first, str) else ""

    @property
    def uses(self) -> list[int]:
        """The instructions whose values it takes."""
        return [x.at for x in (*self.given, *self.named.values()) if isinstance(x, Reference)]

    def __str__(self) -> str:
        return f"line {self.line} ({quoted(self.method or self.command)})"


def looks_like_mecha(text: str) -> bool:
    """Tell whether a text begins as every `.mecha` file does."""
    return re.match(r"version [0-9]", text) is not None


def read_text_of(text: str, name: str) -> list[Instruction]:
    """Read a `.mecha` text.

    Args:
        text: the file's content.
        name: what to call it in errors.

    Raises:
        RecipeError: another version, or a line that is malformed; located by its number.
    """
    lines = text.splitlines()
    version = lines[0].split() if lines else []
    if version != ["version", VERSION]:
        got = quoted(lines[0]) if lines else "an empty text"
        raise RecipeError(f"{name}:1: expected `version {VERSION}`, got {got}")
    if len(lines) > _MAX_LINES:
        raise RecipeError(f"{name}: more than {_MAX_LINES:,} lines, expected a recipe")
    found: list[Instruction] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found.append(_instruction(line, number, len(found), f"{name}:{number}"))
    if not found:
        raise RecipeError(f"{name}: no instructions, expected at least one model")
    return found


def _instruction(line: str, number: int, index: int, where: str) -> Instruction:
    (key, command, _), *words = [*_words(line, where), ("", "", False)]
    if key or command not in _COMMANDS:
        expected = ", ".join(map(quoted, _COMMANDS))
        raise RecipeError(f"{where}: expected one of {expected}, got {quoted(command)}")
    given: list[Argument] = []
    named: dict[str, Argument] = {}
    for key, word, is_text in words[:-1]:
        value = word if is_text else _value(word, index, where)
        if not key:
            given.append(value)
        elif key in named:
            raise RecipeError(f"{where}: {quoted(key)} is given twice, expected each name once")
        else:
            named[key] = value
    return Instruction(index, number, command, tuple(given), named)


def _words(line: str, where: str) -> Iterator[tuple[str, str, bool]]:
    """Yield each argument's name (or nothing), its text, and whether that was in quotes."""
    key = ""
    word: list[str] = []  # letters: a text that grows would be copied for each of them
    is_text = inside = escaped = False
    for char in line.strip() + " ":
        if escaped:
            word.append(char)
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"':
            inside, is_text = not inside, True
        elif char == " " and not inside:
            if word or key or is_text:
                yield key, "".join(word), is_text
            key, word, is_text = "", [], False
        elif char == "=" and not inside and not is_text and not key:
            key, word = "".join(word), []
        else:
            word.append(char)
    if inside or escaped:
        raise RecipeError(f"{where}: a quote that is not closed")


def _value(word: str, index: int, where: str) -> Argument:
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if word.startswith("&"):
        target = int(word[1:]) if re.fullmatch(r"&[0-9]{1,9}", word) else index
        if target >= index:
            raise RecipeError(
                f"{where}: {quoted(word)} refers to no line before it, expected `&0` to "
                f"`&{index - 1}`"
            )
        return Reference(target)
    if not _NUMBER.fullmatch(word):
        raise RecipeError(f"{where}: expected a number, a reference or a text, got {quoted(word)}")
    number = Fraction(word)
    if abs(number) > LARGEST:
        raise RecipeError(f"{where}: expected a finite number, got {quoted(word)}")
    return number
