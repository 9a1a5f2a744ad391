"""What a report is made of: blocks that say themselves in HTML and in Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from submerge.pictures.markup import Markup, coded, join, markdown, tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from submerge.documents.evaluation import Verdict

__all__ = [
    "Block",
    "Cell",
    "Code",
    "Details",
    "Facts",
    "Notes",
    "Prose",
    "Section",
    "Table",
    "badge",
]

_SIGNS: Mapping[Verdict, str] = {
    "good": "\u2713",
    "mixed": "\u2248",
    "bad": "\u2717",
    "unknown": "?",
}


class Block(Protocol):
    """A piece of a section."""

    def html(self) -> Markup:
        """Return it for the page."""

    def markdown(self) -> str:
        """Return it for the Markdown file."""


class Cell(NamedTuple):
    """A table's cell that the page shows otherwise than Markdown does."""

    text: str
    html: Markup


def badge(verdict: Verdict, count: int | None = None) -> Cell:
    """Return a verdict as a coloured word."""
    words = verdict if count is None else f"{count} {verdict}"
    sign = tag("span", _SIGNS[verdict], aria_hidden="true")
    return Cell(words, tag("span", sign, Markup(" "), words, class_=f"badge {verdict}"))


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph."""

    text: str
    kind: str | None = None

    def html(self) -> Markup:
        """Return the paragraph."""
        return tag("p", coded(self.text), class_=self.kind)

    def markdown(self) -> str:
        """Return the paragraph."""
        return markdown(self.text)


@dataclass(frozen=True, slots=True)
class Notes:
    """What a reader should know, a line each; words in backticks are code."""

    lines: Sequence[str]

    def html(self) -> Markup:
        """Return a list that cannot be missed."""
        return tag("ul", *(tag("li", coded(line)) for line in self.lines), class_="notes")

    def markdown(self) -> str:
        """Return a list."""
        return "\n".join(f"- {markdown(line)}" for line in self.lines)


@dataclass(frozen=True, slots=True)
class Code:
    """Text as it is, a recipe for example."""

    text: str

    def html(self) -> Markup:
        """Return preformatted text, which can be scrolled by keyboard."""
        return tag("pre", tag("code", self.text), tabindex="0")

    def markdown(self) -> str:
        """Return a fenced block, fenced by more backticks than it holds."""
        fence = "```"
        while fence in self.text:
            fence += "`"
        return f"{fence}\n{self.text}\n{fence}"


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what is said of them."""

    pairs: Sequence[tuple[str, str]]

    def html(self) -> Markup:
        """Return a description list."""
        items = (tag("div", tag("dt", name), tag("dd", said)) for name, said in self.pairs)
        return tag("dl", *items, class_="facts")

    def markdown(self) -> str:
        """Return a list."""
        return "\n".join(f"- **{markdown(name)}**: {markdown(said)}" for name, said in self.pairs)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns.

    Attributes:
        columns: their names; those from `figures` on hold numbers and stand flush right.
        rows: cells, text or `Cell`.
        figures: index of the first column of numbers; None where there is none.
        narrow: whether it fits a narrow screen as it is; others turn into cards there.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    figures: int | None = None
    narrow: bool = False

    def html(self) -> Markup:
        """Return the table; on a narrow screen each row becomes a card of named values."""
        head = tag(
            "tr",
            *(tag("th", c, scope="col", class_=self._kind(i)) for i, c in enumerate(self.columns)),
        )
        body = (tag("tr", *self._cells(row)) for row in self.rows)
        return tag(
            "table",
            tag("thead", head),
            tag("tbody", *body),
            class_=None if self.narrow else "cards",
        )

    def _cells(self, row: Sequence[str | Cell]) -> Iterable[Markup]:
        for i, (column, cell) in enumerate(zip(self.columns, row, strict=True)):
            shown = cell.html if isinstance(cell, Cell) else cell
            if i == 0:
                yield tag("th", shown, scope="row")
            else:
                yield tag("td", tag("span", shown), data_label=column, class_=self._kind(i))

    def _kind(self, column: int) -> str | None:
        return "figure" if self.figures is not None and column >= self.figures else None

    def markdown(self) -> str:
        """Return the table."""
        rule = ["---" if self._kind(i) is None else "---:" for i in range(len(self.columns))]
        texts = (
            [cell.text if isinstance(cell, Cell) else cell for cell in row] for row in self.rows
        )
        lines = [
            list(map(markdown, self.columns)),
            rule,
            *(list(map(markdown, row)) for row in texts),
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks folded away under a line."""

    summary: str
    blocks: Sequence[Block]

    def html(self) -> Markup:
        """Return what opens without a script."""
        return tag(
            "details", tag("summary", self.summary), *(block.html() for block in self.blocks)
        )

    def markdown(self) -> str:
        """Return the line and the blocks."""
        return "\n\n".join([f"**{markdown(self.summary)}**", *(b.markdown() for b in self.blocks)])


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report under a heading; `key` is its anchor."""

    key: str
    title: str
    blocks: Sequence[Block]

    def html(self) -> Markup:
        """Return the section."""
        inside = join(*(block.html() for block in self.blocks))
        heading = tag("h2", self.title, id=f"{self.key}-title")
        return tag("section", heading, inside, id=self.key, aria_labelledby=f"{self.key}-title")

    def markdown(self) -> str:
        """Return the section."""
        return "\n\n".join([f"## {markdown(self.title)}", *(b.markdown() for b in self.blocks)])
