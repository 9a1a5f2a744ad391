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

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from submerge.errors import RecipeError, listing
from submerge.files import path_of
from submerge.given import (
    PROMPTS,
    Count,
    Filled,
    Kind,
    Record,
    choice,
    kind_of,
    load_json,
    read_text,
    shown,
)

if TYPE_CHECKING:
    import os

    from submerge.documents.evaluation import PromptRow

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
Colour = Annotated[str, choice(*COLOURS)]


def _identifier(raw: object, where: str) -> str:
    if isinstance(raw, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", raw):
        return raw
    raise RecipeError(
        f"{where}: expected up to 80 letters, digits, `-` and `_`, got {shown(raw)}",
        hint="an id names the image's file",
    )


def _relation(raw: object, where: str) -> tuple[str, str, str]:
    found = kind_of(tuple[Filled, ...]).read(raw, where)
    if len(found) != 3:
        raise RecipeError(f"{where}: expected [a, relation, b], got {shown(raw)}")
    choice(*RELATIONS).read(found[1], f"{where}[1]")
    return found[0], found[1], found[2]


class _Written(Record):
    """What may hold null for a field that is left out, as programs write it."""

    none_is_given: ClassVar[bool] = True


@dataclass(frozen=True)
class Item(_Written):
    """An object that should be seen: how often (None: at least once), in which colour."""

    name: Filled
    count: Count | None = None
    colour: Colour | None = None


@dataclass(frozen=True)
class _Expected(_Written):
    """What an image should hold, as prompts are written."""

    text: Filled | None = None
    objects: tuple[Item, ...] = ()
    relation: (
        Annotated[tuple[str, str, str], Kind(_relation, lambda _: {"type": "array", "minItems": 3})]
        | None
    ) = None
    colours: tuple[Colour, ...] = ()

    def check_together(self, where: str) -> None:
        """Refuse words that nobody can see."""
        if self.text is not None and not self.text.strip():
            raise RecipeError(f"{where}.text: expected words to read, got only spaces")


@dataclass(frozen=True)
class _Prompt(_Written):
    """A prompt as it is written."""

    text: str
    id: Annotated[str, Kind(_identifier, lambda _: {"type": "string"})] | None = None
    tags: tuple[str, ...] = ()
    expect: _Expected = _Expected()


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
            raw = {"text": raw}
        read = _Prompt.parse(raw, where)
        return cls(
            id=name if read.id is None else read.id,
            text=read.text,
            tags=read.tags,
            writes=read.expect.text,
            objects=read.expect.objects,
            relation=read.expect.relation,
            colours=read.expect.colours,
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
    path = path_of(path, "prompts")
    # Not splitlines: a prompt may hold any of Unicode's line ends.
    lines = read_text(path, PROMPTS).split("\n")
    rows: list[Prompt] = []
    for number, line in enumerate(lines, start=1):
        where, name = f"{path}:{number}", f"p{len(rows):03}"
        if not line.strip():
            continue
        raw = (
            load_json(line, str(path), PROMPTS, line=number)
            if path.suffix == ".jsonl"
            else line.strip()
        )
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
