"""The result of a grid: its images in files, one document, one page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from submerge import documents
from submerge.errors import RecipeError
from submerge.files import write_whole
from submerge.grid.page import page_of
from submerge.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from submerge.documents import GridDocument
    from submerge.documents.grid import GridCell

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """What was painted.

    Attributes:
        folder: where images, `grid.json` and `index.html` lie.
        data: everything but the pictures, as `grid.json` holds it.
        painted: how many images were painted now; the others were there already.
    """

    folder: Path
    data: GridDocument
    painted: int

    @property
    def page(self) -> Path:
        """The page with every image."""
        return self.folder / "index.html"

    def __len__(self) -> int:
        return len(self.data["cells"])

    def cell(self, prompt: int = 0, **at: int) -> GridCell:
        """Return a cell by its place: `grid.cell(x=1, y=0)`; sides left out are 0.

        Raises:
            RecipeError: there is no such cell.
        """
        where = {axis["side"]: 0 for axis in self.data["axes"]} | at
        for cell in self.data["cells"]:
            if cell["at"] == where and cell["prompt"] == prompt:
                return cell
        sides = ", ".join(f"{a['side']} 0..{len(a['values']) - 1}" for a in self.data["axes"])
        raise RecipeError(
            f"grid: expected a place within {sides} and {len(self.data['prompts'])} prompts, "
            f"got {where} and prompt {prompt}"
        )

    def recipe(self, prompt: int = 0, **at: int) -> Recipe:
        """Return the recipe of a cell, for `merge` or `open`."""
        return Recipe.load(self.data["recipes"][self.cell(prompt, **at)["recipe"]])

    def to_dict(self) -> GridDocument:
        """Return everything but the pictures."""
        return self.data

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return what `grid.json` holds."""
        return documents.text(self.data, indent=indent)

    def save(self) -> None:
        """Write `grid.json`, then the page and its Markdown.

        Raises:
            OSError: the folder cannot be written to.
        """
        write_whole(self.folder / "grid.json", self.to_json() + "\n")
        page = page_of(self.data, self.folder)
        write_whole(self.folder / "index.md", page.markdown())
        write_whole(self.page, page.html())

    def __repr__(self) -> str:
        names = " x ".join(f"{len(a['values'])} {a['name']}" for a in self.data["axes"])
        return f"<Grid of {names}: {len(self)} images in {self.folder}>"
