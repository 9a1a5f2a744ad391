"""The page of a grid: a table of images for each prompt, and what made each of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from submerge.documents import beside
from submerge.errors import counted
from submerge.page import Page
from submerge.page.charts import seconds_in_words
from submerge.page.content import Block, Cell, Code, Details, Notes, Section, Table
from submerge.page.images import Thumbnail, thumbnails
from submerge.page.inputs import known
from submerge.page.sections import written
from submerge.pictures.markup import Markup, join, markdown, tag

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from submerge.documents import GridDocument
    from submerge.documents.grid import GridAxis, GridCell

__all__ = ["page_of"]

# All pictures together, of the 8 MB that a page may take.
_PICTURES = 7_000_000


def page_of(data: GridDocument, folder: Path, budget: int = _PICTURES) -> Page:
    """Return the page of a grid.

    Args:
        data: what was painted.
        folder: where its images lie; one that is not there is shown as missing.
        budget: the most characters that all pictures may take.

    Raises:
        RecipeError: a path leads out of the folder, or a file is no picture.
        SubmergeError: Pillow is not installed.
    """
    files = [beside(folder, cell["path"]) for cell in data["cells"]]
    pictures = thumbnails((path for path in files if path.is_file()), budget)
    shots = [
        _Shot(cell, pictures.get(path)) for cell, path in zip(data["cells"], files, strict=True)
    ]
    sections = []
    if data["notes"]:
        sections.append(Section("notes", "Worth knowing", [Notes(data["notes"])]))
    for index, prompt in enumerate(data["prompts"]):
        mine = [shot for shot in shots if shot.cell["prompt"] == index]
        title = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
        found: list[Block] = [*_tables(data, prompt, mine)]
        sections.append(Section(f"prompt-{index}", title or "empty prompt", found))
    if data["scores"]:
        sections.append(Section("scores", "Scores", [_scores(data)]))
    sections.append(Section("recipes", "Recipes", _recipes(data)))
    facts: list[tuple[str, Cell]] = [
        (f"{axis['side']}: {axis['name']}", Cell(words, join(words)))
        for axis in data["axes"]
        for words in [", ".join(axis["labels"])]
    ]
    lead = f"{counted(len(data['cells']), 'image')}, each of its own recipe and settings"
    return Page(data["title"], facts, tuple(sections), data, lead)


@dataclass(frozen=True, slots=True)
class _Shot:
    """A cell and its picture, where the file is there."""

    cell: GridCell
    picture: Thumbnail | None


def _tables(data: GridDocument, prompt: str, shots: Sequence[_Shot]) -> list[Block]:
    """Return a table for each value of z, with the details of its images below."""
    sides = {axis["side"]: axis for axis in data["axes"]}
    found: list[Block] = []
    for index in range(len(sides["z"]["values"]) if "z" in sides else 1):
        mine = [shot for shot in shots if shot.cell["at"].get("z", 0) == index]
        caption = f"{sides['z']['name']} {sides['z']['labels'][index]}" if "z" in sides else ""
        found.append(_Grid(sides.get("x"), sides.get("y"), caption, prompt, mine))
    rows = [
        [
            *_place(data, shot.cell),
            str(shot.cell["recipe"]),
            str(shot.cell["seed"]),
            _time(shot.cell),
        ]
        for shot in shots
    ]
    columns = [*(axis["name"] for axis in data["axes"]), "recipe", "seed", "painted in"]
    return [*found, Details("the recipe, seed and time of each image", [Table(columns, rows)])]


def _place(data: GridDocument, cell: GridCell) -> list[str]:
    return [axis["labels"][cell["at"].get(axis["side"], 0)] for axis in data["axes"]]


def _time(cell: GridCell) -> str:
    return seconds_in_words(cell["seconds"]) if cell["seconds"] else "before"


@dataclass(frozen=True, slots=True)
class _Grid:
    """A table of images: x across, y down.

    Attributes:
        x: what runs across, if anything.
        y: what runs down, if anything.
        caption: what the table as a whole is.
        prompt: what is painted.
        shots: the images.
    """

    x: GridAxis | None
    y: GridAxis | None
    caption: str
    prompt: str
    shots: Sequence[_Shot]

    def _rows(self) -> list[tuple[str, list[tuple[str, _Shot | None]]]]:
        """Return label and images of each row; images with the label of their column."""
        across, down = (axis["labels"] if axis else [""] for axis in (self.x, self.y))
        found = {(s.cell["at"].get("y", 0), s.cell["at"].get("x", 0)): s for s in self.shots}
        rows: list[tuple[str, list[tuple[str, _Shot | None]]]] = [(label, []) for label in down]
        for y, x in product(range(len(down)), range(len(across))):
            rows[y][1].append((across[x], found.get((y, x))))
        return rows

    def html(self) -> Markup:
        """Return the table; an image grows when it is clicked, without a script."""
        corner = " \\ ".join(axis["name"] for axis in (self.y, self.x) if axis)
        labels = self.x["labels"] if self.x else [""]
        head = tag(
            "tr", tag("td", corner, class_="corner"), *(_heading(words, "col") for words in labels)
        )
        body = (
            tag(
                "tr",
                _heading(label, "row"),
                *(self._cell(label, words, shot) for words, shot in row),
            )
            for label, row in self._rows()
        )
        caption = tag("caption", self.caption) if self.caption else None
        grid = tag("table", caption, tag("thead", head), tag("tbody", *body), class_="xyz shots")
        return tag("div", grid, class_="wide", tabindex="0", role="region", aria_label="images")

    def _cell(self, down: str, across: str, shot: _Shot | None) -> Markup:
        if shot is None or shot.picture is None:
            return tag("td", tag("div", "no image", class_="missing"))
        named = [(self.x, across), (self.y, down)]
        where = ", ".join(f"{axis['name']} {label}" for axis, label in named if axis)
        label = f"{self.prompt or 'empty prompt'}: {where}"
        picture = tag(
            "img",
            src=shot.picture.address,
            alt=label,
            title=where,
            width=str(shot.picture.width),
            height=str(shot.picture.height),
            decoding="async",
        )
        box = tag("input", type="checkbox", aria_label=f"enlarge {label}")
        return tag("td", tag("label", box, picture))

    def markdown(self) -> str:
        """Return the table with the paths of its images."""
        labels = [markdown(words) for words in (self.x["labels"] if self.x else ["image"])]
        lines = [f"| {' | '.join(['', *labels])} |", f"|{' --- |' * (len(labels) + 1)}"]
        for label, row in self._rows():
            paths = [markdown(shot.cell["path"]) if shot else "-" for _, shot in row]
            lines.append(f"| {' | '.join([markdown(label), *paths])} |")
        table = "\n".join(lines)
        return f"{markdown(self.caption)}\n\n{table}" if self.caption else table


def _heading(words: str, scope: str) -> Markup:
    return tag("th", words, scope=scope)


def _scores(data: GridDocument) -> Block:
    """Return every score of every image."""
    names = list(dict.fromkeys(score["scorer"] for score in data["scores"]))
    values: dict[int, dict[str, str]] = {}
    for score in data["scores"]:
        if (value := known(score["value"])) is not None:
            values.setdefault(score["cell"], {})[score["scorer"]] = f"{value:.4g}"
    rows = [
        [*_place(data, cell), str(cell["prompt"]), *(values.get(i, {}).get(n, "-") for n in names)]
        for i, cell in enumerate(data["cells"])
    ]
    axes = [axis["name"] for axis in data["axes"]]
    return Table([*axes, "prompt", *names], rows, figures=len(axes) + 1)


def _recipes(data: GridDocument) -> list[Block]:
    """Return each recipe, folded away under what is particular to it."""
    found: list[Block] = []
    axes = [axis for axis in data["axes"] if axis["name"] == "alpha" or ":" in axis["name"]]
    for index, recipe in enumerate(data["recipes"]):
        cell = next(cell for cell in data["cells"] if cell["recipe"] == index)
        where = ", ".join(f"{a['name']} {a['labels'][cell['at'].get(a['side'], 0)]}" for a in axes)
        found.append(Details(f"recipe {index}: {where or 'as given'}", [Code(written(recipe))]))
    return found
