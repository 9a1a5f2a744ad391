"""Names inside a model: blocks, reporting parts, and the selectors users write.

A unit's canonical name is dot-separated: `double.7.img.attn.q.weight`. An index belongs to the
segment before it, so that name has the segments `double[7]`, `img`, `attn`, `q`, `weight`.

A selector is matched segment by segment from the start, never as a substring:

- `double[0:8].img.attn` reaches the image attention of the first eight double blocks. Slices are
  half open as in Python; `double[3]`, `double[0,5,7]`, `double[*]` and bare `double` work too.
- `*` and `?` are wildcards within one segment; `**` matches any number of segments.
- A selector that matches a leading part of a name covers everything below it.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from typing import TYPE_CHECKING, NamedTuple

from submerge.errors import RecipeError, nearest, quoted
from submerge.layout.family import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from submerge.layout.family import Family

__all__ = [
    "Block",
    "Selector",
    "beyond",
    "block_of",
    "blocks_of",
    "execution_key",
    "is_behind_blocks",
    "part_of",
    "parts_in_order",
    "place_of",
    "position",
    "select",
    "stream_of",
]

# ("double", 7) or ("single", 37): a stack of the family, and an index.
Block = tuple[str, int]

# A segment of a unit's name: its word, and the index that follows it, if any.
_Segment = tuple[str, int | None]

# The rank of names that no family has, behind all others.
_LAST = 1_000
_PIECE = re.compile(r"(?P<word>[^\[\]]+)(?:\[(?P<indices>[^\[\]]*)\])?")
_SLICE = re.compile(r"(?P<start>[0-9]{0,5}):(?P<stop>[0-9]{0,5})(?::(?P<step>[0-9]{1,5}))?")
_INDEX = re.compile(r"[0-9]{1,5}")
_LONGEST = 2000


class _Slice(NamedTuple):
    """The indices `start`, `start + step`, ... below `stop`; None means without end."""

    start: int
    stop: int | None
    step: int

    def holds(self, index: int) -> bool:
        below = self.stop is None or index < self.stop
        return below and index >= self.start and (index - self.start) % self.step == 0


class _Piece(NamedTuple):
    """One segment of a selector: a glob for the word, and the indices it takes (None: any)."""

    word: str
    indices: tuple[_Slice, ...] | None

    def matches(self, segment: _Segment) -> bool:
        word, index = segment
        if not fnmatch.fnmatchcase(word, self.word):
            return False
        return self.indices is None or (
            index is not None and any(s.holds(index) for s in self.indices)
        )


class Selector(NamedTuple):
    """A parsed selector; `text` is what the user wrote and `where` the field it stands in."""

    text: str
    where: str
    pieces: tuple[_Piece, ...]

    @classmethod
    def parse(cls, text: str, where: str) -> Selector:
        """Parse a selector.

        Raises:
            RecipeError: empty, an empty segment, unbalanced brackets, or indices that are not
                non-negative numbers and slices.
        """
        segments = _split(text.strip(), where)
        return cls(text, where, tuple(_piece(segment, text, where) for segment in segments))

    def matches(self, unit_name: str) -> bool:
        """Tell whether the selector matches the unit's name or a leading part of it."""
        return _covers(self.pieces, _segments(unit_name))

    def __str__(self) -> str:
        return self.text


def select(selector: Selector, unit_names: Iterable[str]) -> list[str]:
    """Return the units a selector reaches, in the order given.

    Raises:
        RecipeError: it reaches none; the hint says which names come nearest.
    """
    names = list(unit_names)
    selected = [name for name in names if selector.matches(name)]
    if selected:
        return selected
    raise RecipeError(
        f"{selector.where}: the selector {quoted(selector.text)} matches nothing, expected it to "
        f"match at least one of {len(names):,} units",
        hint=_advice(selector, names),
    )


def beyond(selector: Selector, unit_names: Iterable[str]) -> str | None:
    """Return what there is, where a selector names indices that no unit has; else None.

    A selector may reach other units all the same: `double[0:99]` reaches every double block.
    """
    for at, piece in enumerate(selector.pieces):
        if piece.word == "**":
            return None
        found: dict[str, int] = {}
        for segments in map(_segments, unit_names):
            if len(segments) <= at or not _covers(selector.pieces[:at], segments[:at]):
                continue
            word, index = segments[at]
            if index is not None and fnmatch.fnmatchcase(word, piece.word):
                found[word] = max(found.get(word, 0), index)
        last = max(found.values(), default=0)
        if found and any(s.start > last or (s.stop or 0) > last + 1 for s in piece.indices or ()):
            return ", ".join(
                f"{quoted(word)} has the indices 0 to {n}" for word, n in found.items()
            )
    return None


def block_of(unit_name: str) -> Block | None:
    """Return the block a unit lies in: ("double", 7) for `double.7.img.mod.bias`, else None."""
    word, index = _segments(unit_name)[0]
    if index is None:
        return None
    family = _family_of(word)
    return None if family is None or word not in family.by_stack else (word, index)


def blocks_of(unit_names: Iterable[str]) -> list[Block]:
    """Return the blocks the units lie in, each once, in execution order."""
    found = {block for name in unit_names if (block := block_of(name)) is not None}
    return sorted(found, key=lambda block: (_rank(block[0]), *block))


def execution_key(name: str) -> tuple[int, int, str]:
    """Return what sorts units, or `<block>.<part>`, in the order the model runs them."""
    word, index = _segments(name)[0]
    return (_rank(word), index or 0, name)


def is_behind_blocks(unit_name: str) -> bool:
    """Tell whether a unit runs after all blocks."""
    word = _segments(unit_name)[0][0]
    family = _family_of(word)
    return family is not None and word in family.behind


def parts_in_order() -> tuple[str, ...]:
    """Return the parts inside blocks, in the order in which they are told."""
    return tuple(dict.fromkeys(part for family in FAMILIES.values() for part in family.parts))


def _family_of(word: str) -> Family | None:
    """Return the family in which the names of units begin with this word."""
    for family in FAMILIES.values():
        if word in family.order:
            return family
    return None


def _rank(word: str) -> int:
    """Return the place in execution order of names that begin with a word, unknown ones last."""
    family = _family_of(word)
    return _LAST if family is None else family.order[word]


def part_of(unit_name: str) -> str:
    """Return the part a unit is reported under.

    Inside a block one of the family's parts, of FLUX.1 `attn.q`, `attn.k`, `attn.v`, `attn.out`,
    `mlp`, `mod`, `norm` and `out` (the joint output layer of a single block); outside the first
    word of its name (`embed`, `guidance`, `final`); else `other`.
    """
    words = [word for word, _ in _segments(unit_name)]
    family, block = _family_of(words[0]), block_of(unit_name)
    if family is None:
        return "other"
    if block is None:
        return words[0] if words[0] not in family.by_stack else "other"
    streams = family.by_stack[block[0]].streams
    inner = ".".join(words[2:] if words[1:2] and words[1] in streams else words[1:]) + "."
    return next((part for part in family.parts if inner.startswith(part + ".")), "other")


def stream_of(unit_name: str) -> str:
    """Return which stream of its block a unit works on, `img` or `txt` of FLUX.1; else nothing."""
    words, block = [word for word, _ in _segments(unit_name)], block_of(unit_name)
    family = _family_of(words[0])
    if family is None or block is None or len(words) < 2:
        return ""
    return words[1] if words[1] in family.by_stack[block[0]].streams else ""


def place_of(unit: str) -> tuple[str, str]:
    """Return the block and the part a unit is reported under: `double.7` and `attn.q`."""
    block, part = block_of(unit), part_of(unit)
    return (f"{block[0]}.{block[1]}" if block else part), part


def position(unit_name: str, blocks: Sequence[Block]) -> float:
    """Return where a unit stands along the selected blocks, from 0.0 (first) to 1.0 (last).

    `blocks` are the selected blocks in execution order. Units before the blocks (embedders,
    guidance) stand at 0, the final layer at 1. A single selected block stands at 0.

    Raises:
        ValueError: the unit lies in a block that is not among the selected.
    """
    block = block_of(unit_name)
    if block is None:
        return 1.0 if is_behind_blocks(unit_name) else 0.0
    return blocks.index(block) / max(1, len(blocks) - 1)


@functools.lru_cache(maxsize=8192)
def _segments(name: str) -> tuple[_Segment, ...]:
    """Split a name at its dots; a number joins the segment before it as its index."""
    segments: list[_Segment] = []
    for word in name.split("."):
        if segments and segments[-1][1] is None and _INDEX.fullmatch(word):
            segments[-1] = (segments[-1][0], int(word))
        else:
            segments.append((word, None))
    return tuple(segments)


def _covers(pieces: Sequence[_Piece], segments: Sequence[_Segment]) -> bool:
    """Tell whether the pieces match a leading part of the segments; `**` stands for any number."""
    # Positions in the name that the pieces so far can reach.
    reached = {0}
    for piece in pieces:
        if piece.word == "**":
            reached = set(range(min(reached), len(segments) + 1))
        else:
            reached = {
                at + 1 for at in reached if at < len(segments) and piece.matches(segments[at])
            }
        if not reached:
            return False
    return True


def _split(text: str, where: str) -> list[str]:
    """Split a selector at the dots outside brackets; `double.7` is read as `double[7]`."""
    if not text:
        raise RecipeError(f"{where}: the selector is empty", hint="write `**` to select everything")
    if len(text) > _LONGEST:
        raise RecipeError(
            f"{where}: a selector of {len(text):,} characters, expected at most {_LONGEST:,}",
            hint="write several rules",
        )
    parts = re.split(r"\.(?![^\[]*\])", text)
    if "" in parts:
        raise RecipeError(f"{where}: the selector {quoted(text)} has an empty segment between dots")
    segments: list[str] = []
    for part in parts:
        if segments and _INDEX.fullmatch(part) and not segments[-1].endswith("]"):
            segments[-1] += f"[{part}]"
        else:
            segments.append(part)
    return segments


def _piece(segment: str, text: str, where: str) -> _Piece:
    """Parse one segment: a glob, or a word with indices in brackets."""
    if segment == "**":
        return _Piece(segment, None)
    match = _PIECE.fullmatch(segment)
    if match is None or "**" in segment:
        raise RecipeError(
            f"{where}: the selector {quoted(text)} has a malformed segment {quoted(segment)}",
            hint="write segments like `img`, `*`, `**`, `double[3]` or `single[0:8]`",
        )
    if match["indices"] is None:
        return _Piece(match["word"], None)
    slices = [_slice(item.strip(), text, where) for item in match["indices"].split(",")]
    return _Piece(match["word"], tuple(slices))


def _slice(item: str, text: str, where: str) -> _Slice:
    """Parse what stands between brackets and commas: `3`, `0:8`, `:8`, `8:`, `0:8:2` or `*`."""
    if item == "*":
        return _Slice(0, None, 1)
    if _INDEX.fullmatch(item):
        return _Slice(int(item), int(item) + 1, 1)
    match = _SLICE.fullmatch(item)
    if match is None:
        raise RecipeError(
            f"{where}: the selector {quoted(text)} has the indices {quoted(item)}, expected "
            "numbers from 0 or slices",
            hint="write `double[3]`, `double[0:8]`, `double[0,5,7]` or `double[*]`; "
            "slices exclude their end",
        )
    start, step = int(match["start"] or 0), int(match["step"] or 1)
    stop = int(match["stop"]) if match["stop"] else None
    if step == 0 or (stop is not None and stop <= start):
        raise RecipeError(
            f"{where}: the selector {quoted(text)} has the slice {quoted(item)}, which is empty",
            hint="slices exclude their end: `[3:4]` selects block 3 alone",
        )
    return _Slice(start, stop, step)


def _advice(selector: Selector, names: Sequence[str]) -> str:
    """Say what a selector without a match may have meant."""
    if selector.text in names:
        spelled = re.sub(r"[\[\]]", "?", selector.text)
        return f"write `?` for the brackets of a name: {quoted(spelled)}"
    leads: dict[str, list[int]] = {}
    for name in names:
        lead = ""
        for word, index in _segments(name):
            lead += ("." if lead else "") + word + ("" if index is None else "[*]")
            leads.setdefault(lead, []).append(-1 if index is None else index)
    anywhere = re.sub(r"\[[^\]]*\]", "[*]", ".".join(_split(selector.text.strip(), selector.where)))
    widened = Selector.parse(anywhere, selector.where)
    if anywhere != selector.text and any(widened.matches(name) for name in names):
        stacks = [lead for lead in leads if lead.endswith("[*]") and anywhere.startswith(lead)]
        ranges = [f"{quoted(lead[:-3])} has the indices 0 to {max(leads[lead])}" for lead in stacks]
        return "; ".join(ranges) or f"{quoted(anywhere)} would match"
    near = nearest(anywhere, leads)
    if near:
        return f"did you mean {' or '.join(map(quoted, near))}?"
    first = sorted({lead for lead in leads if "." not in lead})[:10]
    return f"names begin with {', '.join(map(quoted, first))}"
