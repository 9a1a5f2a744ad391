"""The jobs of the studio: what each does with a recipe, and what of it the page is told."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from submerge.errors import RecipeError
from submerge.plan.sizes import bytes_in_words
from submerge.studio.painting import grid_of, images_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from submerge.recipe import Recipe
    from submerge.studio.jobs import Job
    from submerge.studio.places import Places

__all__ = ["work_of"]

_PAINTED = {"images": images_of, "grid": grid_of}


def work_of(
    kind: str, recipe: Recipe, asked: Mapping[str, Any], places: Places, folder: Path
) -> Callable[[Job], Mapping[str, Any]]:
    """Return what to do for a try, after looking at what can be told before it begins.

    Args:
        kind: `merge`, `analysis`, `images` or `grid`.
        recipe: what is meant.
        asked: `target` of a merge; prompt, seeds, sizes and sides of images.
        places: where files may lie.
        folder: where the studio itself may put what comes of the try.

    Raises:
        RecipeError: something lies outside, is malformed or missing.
    """
    places.check(recipe)
    if kind == "merge":
        return partial(_merge, recipe, places.inside(asked.get("target"), "target"), asked)
    if kind == "analysis":
        if len(recipe.models) < 2:
            raise RecipeError("models: expected two to be compared, got one")
        return partial(_analyse, recipe, folder)
    if kind in _PAINTED:
        if (components := asked.get("components") or None) is not None:
            components = places.inside(components, "components")
        return _PAINTED[kind](recipe, {**asked, "components": components}, folder)
    raise RecipeError(f"kind: expected one of `merge`, `analysis`, `images`, `grid`, got {kind!r}")


def _merge(recipe: Recipe, target: Path, asked: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Write the model; it appears complete or not at all."""
    from submerge.merge import merge

    target.parent.mkdir(parents=True, exist_ok=True)
    overwrite = asked.get("overwrite") is True
    report = merge(recipe, target, overwrite=overwrite, progress=job.progress, cancel=job.token)
    return {
        "path": str(report.path),
        "size": bytes_in_words(sum(report.files.values())),
        "run": report.run.line(),
        "notes": list(report.summary["notes"]),
    }


def _analyse(recipe: Recipe, folder: Path, job: Job) -> dict[str, Any]:
    """Compare the first two models of a recipe and draw how they differ."""
    from submerge.analysis import analyze

    first, second = list(recipe.models.values())[:2]
    found = analyze(first.path, second.path, progress=job.progress, cancel=job.token)
    folder.mkdir(parents=True, exist_ok=True)
    found.heatmap(folder / "heatmap.svg")
    found.save(folder / "analysis.json")
    figures = found.total().figures()
    return {
        "picture": "heatmap.svg",
        "cosine": figures.get("cosine"),
        "relative_delta": figures.get("relative_delta"),
        "notes": found.remarks(),
        "models": dict(found.models),
    }
