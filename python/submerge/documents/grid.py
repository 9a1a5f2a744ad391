"""The document about a grid of images."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

__all__ = ["GridAxis", "GridCell", "GridDocument", "GridScore"]


class GridAxis(TypedDict):
    """One side of a grid.

    Attributes:
        side: `x` runs across, `y` down, `z` from table to table.
        name: `alpha`, `set:SELECTOR`, `adapter:NAME`, or an option of painting.
        values: what it takes in turn, as a recipe or the options have them.
        labels: the same as one reads it.
    """

    side: Literal["x", "y", "z"]
    name: str
    values: list[Any]
    labels: list[str]


class GridCell(TypedDict):
    """One image of a grid.

    Attributes:
        at: index into the values of each side.
        prompt: index into the prompts.
        recipe: index into the recipes.
        seed: of its start noise.
        options: what it was painted with.
        path: the image's file, relative to the document.
        sha256: of the image's file.
        seconds: what painting took; 0 of one that was there already.
    """

    at: dict[str, int]
    prompt: int
    recipe: int
    seed: int
    options: dict[str, Any]
    path: str
    sha256: str
    seconds: float


class GridScore(TypedDict):
    """A score of an image; `cell` is its index, `better` is higher, lower or none."""

    scorer: str
    unit: str
    better: str
    cell: int
    value: float | None


class GridDocument(TypedDict):
    """What `submerge grid` writes as `grid.json`.

    Attributes:
        title: of the page.
        axes: the sides.
        prompts: their texts.
        recipes: of every merge that was painted with.
        cells: the images.
        scores: of the images; one that does not apply is left out.
        notes: what is worth telling.
        environment: what it was made with.
    """

    format: Literal["submerge-grid/1"]
    title: str
    axes: list[GridAxis]
    prompts: list[str]
    recipes: list[dict[str, Any]]
    cells: list[GridCell]
    scores: list[GridScore]
    notes: list[str]
    environment: dict[str, Any]
