"""Prompts and what is expected of their images: the battery that ships, and files of one's own.

A prompt may say what its image should hold, so that a scorer can check it:

- `text`: words that should be readable;
- `objects`: what should be seen, each with a `count` and a `colour` or without;
- `relation`: `[a, left of | right of | above | below, b]`;
- `colours`: colours that should be noticeable.

A file is JSON Lines (one `{"id", "text", "tags", "expect"}` a line; only `text` is required) or
plain text with one prompt a line.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from submerge.errors import RecipeError, listing, nearest, quoted

if TYPE_CHECKING:
    import os

    from submerge.documents.painting import PromptRow

__all__ = ["COLOURS", "RELATIONS", "Item", "Prompt", "battery", "prompts_of", "read_prompts"]

RELATIONS = ("left of", "right of", "above", "below")

# The ten colours of GenEval (Ghosh et al. 2023, MIT), with grey, as sRGB.
COLOURS = {
    "red": (200, 30, 35),
    "orange": (240, 130, 30),
    "yellow": (240, 215, 50),
    "green": (50, 150, 60),
    "blue": (40, 85, 190),
    "purple": (125, 50, 150),
    "pink": (240, 140, 175),
    "brown": (115, 70, 35),
    "black": (20, 20, 20),
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
}

_SHIPPED = Path(__file__).with_name("battery.jsonl")
_FIELDS = {"id", "text", "tags", "expect"}
_EXPECTED = {"text", "objects", "relation", "colours"}


@dataclass(frozen=True, slots=True)
class Item:
    """An object that should be seen: how often (None: at least once), in which colour."""

    name: str
    count: int | None = None
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and what is expected of its image.

    Attributes:
        id: names the prompt in files and tables; letters, digits, `-` and `_`.
        text: the words, which may be none.
        tags: themes, such as `text` or `edge`.
        writes: words that should be readable in the image, or None.
        objects: what should be seen.
        relation: `(a, where, b)`, names of two objects and one of `RELATIONS`, or None.
        colours: colours that should be noticeable.
    """

    id: str
    text: str
    tags: tuple[str, ...] = ()
    writes: str | None = None
    objects: tuple[Item, ...] = ()
    relation: tuple[str, str, str] | None = None
    colours: tuple[str, ...] = ()

    @classmethod
    def parse(cls, raw: object, where: str, name: str) -> Self:
        """Read a text or a mapping; `name` is the id of one that has none.

        Raises:
            RecipeError: a field is unknown or malformed.
        """
        if isinstance(raw, str):
            return cls(name, raw)
        fields = _mapping(raw, where, _FIELDS)
        if not isinstance(fields.get("text"), str):
            raise RecipeError(f"{where}.text: expected a text, got {_kind(fields.get('text'))}")
        here = f"{where}.expect"
        expect = _mapping(fields.get("expect", {}), here, _EXPECTED)
        writes = expect.get("text")
        if writes is not None and (not isinstance(writes, str) or not writes.strip()):
            raise RecipeError(f"{here}.text: expected words to read, got {_kind(writes)}")
        colours = _texts(expect.get("colours", []), f"{here}.colours")
        objects = expect.get("objects", [])
        if not isinstance(objects, list):
            raise RecipeError(f"{here}.objects: expected a list, got {_kind(objects)}")
        return cls(
            id=_identifier(fields.get("id", name), f"{where}.id"),
            text=fields["text"],
            tags=_texts(fields.get("tags", []), f"{where}.tags"),
            writes=writes,
            objects=tuple(_item(item, f"{here}.objects[{i}]") for i, item in enumerate(objects)),
            relation=_relation(expect.get("relation"), f"{here}.relation"),
            colours=tuple(_colour(colour, f"{here}.colours") for colour in colours),
        )

    def to_dict(self) -> PromptRow:
        """Return id, text and tags, as `evaluation.json` lists them."""
        return {"id": self.id, "text": self.text, "tags": list(self.tags)}


def battery() -> tuple[Prompt, ...]:
    """Return the 64 prompts that ship with submerge."""
    return read_prompts(_SHIPPED)


def prompts_of(raw: str | os.PathLike[str] | Sequence[object] | None) -> tuple[Prompt, ...]:
    """Return prompts from a list of texts, mappings or `Prompt`s, from a file, or the battery.

    Raises:
        RecipeError: no prompts, one malformed, or two of one id.
        OSError: the file cannot be read.
    """
    if raw is None:
        return battery()
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        return read_prompts(raw)
    rows = [
        item if isinstance(item, Prompt) else Prompt.parse(item, f"prompts[{i}]", f"p{i:03}")
        for i, item in enumerate(raw)
    ]
    return _checked(rows, "prompts")


def read_prompts(path: str | os.PathLike[str]) -> tuple[Prompt, ...]:
    """Read JSON Lines when the file is named `.jsonl`, else one prompt a line.

    Raises:
        RecipeError: no prompts, one malformed, or two of one id.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        # Not splitlines: a prompt may hold any of Unicode's line ends.
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: expected prompts as UTF-8 text, got other bytes") from None
    rows: list[Prompt] = []
    for number, line in enumerate(lines, start=1):
        where, name = f"{path}:{number}", f"p{len(rows):03}"
        if not line.strip():
            continue
        raw = _json(line, where) if path.suffix == ".jsonl" else line.strip()
        if not (isinstance(raw, Mapping) and "battery" in raw):  # the first line names the battery
            rows.append(Prompt.parse(raw, where, name))
    return _checked(rows, str(path))


def _checked(rows: Sequence[Prompt], where: str) -> tuple[Prompt, ...]:
    if not rows:
        raise RecipeError(f"{where}: expected at least one prompt, got none")
    twice = [name for name, times in Counter(row.id for row in rows).items() if times > 1]
    if twice:
        raise RecipeError(f"{where}: ids must differ, got {listing(twice, noun='id')} twice")
    return tuple(rows)


def _json(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: expected a JSON value, got {error}") from None


def _mapping(raw: object, where: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {_kind(raw)}")
    for key in raw:
        if key not in known:
            close = nearest(str(key), known)
            hint = f"did you mean {quoted(close[0])}?" if close else None
            fields = listing(sorted(known), noun="field")
            raise RecipeError(f"{where}: expected {fields}, got {quoted(str(key))}", hint=hint)
    return raw


def _texts(raw: object, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        raise RecipeError(f"{where}: expected a list of texts, got {_kind(raw)}")
    return tuple(raw)


def _identifier(raw: object, where: str) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", raw):
        shown = quoted(raw) if isinstance(raw, str) else _kind(raw)
        raise RecipeError(
            f"{where}: expected up to 80 letters, digits, `-` and `_`, got {shown}",
            hint="an id names the image's file",
        )
    return raw


def _item(raw: object, where: str) -> Item:
    fields = _mapping(raw, where, {"name", "count", "colour"})
    name, count, colour = fields.get("name"), fields.get("count"), fields.get("colour")
    if not isinstance(name, str) or not name:
        raise RecipeError(f"{where}.name: expected the name of an object, got {_kind(name)}")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise RecipeError(f"{where}.count: expected a whole number from 1, got {_kind(count)}")
    return Item(name, count, None if colour is None else _colour(colour, f"{where}.colour"))


def _colour(raw: object, where: str) -> str:
    if not isinstance(raw, str) or raw not in COLOURS:
        shown = quoted(raw) if isinstance(raw, str) else _kind(raw)
        names = listing(list(COLOURS), limit=len(COLOURS), noun="colour")
        raise RecipeError(f"{where}: expected one of {names}, got {shown}")
    return raw


def _relation(raw: object, where: str) -> tuple[str, str, str] | None:
    if raw is None:
        return None
    texts = _texts(raw, where)
    if len(texts) != 3 or texts[1] not in RELATIONS:
        known = ", ".join(quoted(name) for name in RELATIONS)
        raise RecipeError(f"{where}: expected [a, one of {known}, b], got {list(texts)}")
    return texts[0], texts[1], texts[2]


def _kind(raw: object) -> str:
    return "nothing" if raw is None else f"a {type(raw).__name__}"
