"""Paint a grid: one model, merged anew in place from cell to cell."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import submerge.view
from submerge.errors import RecipeError
from submerge.evaluate.prompts import Prompt
from submerge.evaluate.scorers.catalogue import scorers_of
from submerge.files import path_of
from submerge.given import shown
from submerge.grid.axes import axes_of, points_of, view_at
from submerge.grid.made import Grid
from submerge.inference import InferenceOptions, load_model, run_inference
from submerge.inference.jobs import is_painted, jobs_of
from submerge.inference.options import defaults_for
from submerge.inference.parts import find_parts
from submerge.profile import environment
from submerge.view import View

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    from submerge.documents.grid import GridCell, GridScore
    from submerge.evaluate.scorers.base import Scorer
    from submerge.grid.axes import Axis, Point, Side
    from submerge.inference import InferenceOptionsDict, LoadedModel
    from submerge.inference.jobs import Job
    from submerge.inference.options import Defaults
    from submerge.recipe import Recipe

__all__ = ["GridArguments", "grid"]


class GridArguments(TypedDict, total=False):
    """Further keywords of `grid`.

    Attributes:
        options: of painting, `InferenceOptions`; what an axis sets is set by the axis.
        load: keywords of `load_model`.
        scorers: as `evaluate_guidance` takes them; scorers of pixels always run.
        title: of the page; by default the names of the models.
        callback: called as `callback(done_steps, total_steps)`; returning False stops.
    """

    options: InferenceOptions | InferenceOptionsDict | None
    load: Mapping[str, Any]
    scorers: str | Scorer | Sequence[str | Scorer]
    title: str | None
    callback: Callable[[int, int], object] | None


@dataclass
class _Shot:
    """What is painted in one go: every prompt at one point."""

    point: Point
    view: View
    options: InferenceOptions
    folder: Path
    jobs: Sequence[Job] = ()
    seconds: dict[int, float] = field(default_factory=dict)


@dataclass
class _Work:
    """What the steps of one run share."""

    prompts: list[str]
    shots: list[_Shot]
    callback: Callable[[int, int], object] | None
    done: int = 0
    total: int = 0
    painted: int = 0
    notes: dict[str, None] = field(default_factory=dict)

    def counting(self) -> Callable[[int, int], object]:
        """Return a callback of one painting that counts on from where the last one ended."""
        base = self.done

        def counted(done: int, _: int) -> object:
            self.done = base + done
            return None if self.callback is None else self.callback(self.done, self.total)

        return counted


def grid(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe | View,
    prompts: str | Sequence[str],
    *,
    output: str | os.PathLike[str],
    x: Side | None = None,
    y: Side | None = None,
    z: Side | None = None,
    **how: Unpack[GridArguments],
) -> Grid:
    """Paint every prompt at every point of up to three axes, and lay the images out in one page.

    Args:
        recipe: what is merged: a recipe's file, text or mapping, or a view.
        prompts: one text or several.
        output: a folder for images, `grid.json` and `index.html`. Images already there, of the
            same merge and options, are not painted again.
        x: what runs across: `NAME=VALUE,VALUE` or `{name: values}`. Names are `alpha`,
            `set:SELECTOR` (an alpha of some blocks), `adapter:NAME` (its scale), `seed`, `steps`,
            `guidance`, `true_cfg` and `shift`; a value of the recipe may be a gradient over the
            blocks, `0.2..0.8`.
        y: what runs down.
        z: what runs from table to table.
        **how: see `GridArguments`.

    Raises:
        RecipeError: an axis, the recipe at a point, an option or a prompt is malformed; all are
            read before anything is loaded.
        Cancelled: the callback returned False; images already written stay.
        SubmergeError: as `load_model`.
        OSError: a file cannot be read or written.
    """
    axes = axes_of({"x": x, "y": y, "z": z})
    texts = _texts(prompts)
    scorers, _ = scorers_of(how.get("scorers", ()), {})
    target = path_of(output, "output")
    base = recipe if isinstance(recipe, View) else submerge.view.open(recipe)
    asked = InferenceOptions.of(how.get("options"))
    work = _Work(texts, _shots(axes, base, asked, target), how.get("callback"))
    sides = {"width": asked.width, "height": asked.height, "batch": asked.batch}
    load = {k: v for k, v in sides.items() if v is not None} | dict(how.get("load", {}))
    machine = _paint(work, load, target)
    cells, recipes = _cells(work, target)
    made = Grid(
        target,
        {
            "format": "submerge-grid/1",
            "title": how.get("title") or " and ".join(base.recipe.models),
            "axes": [
                {"side": a.side, "name": a.name, "values": list(a.values), "labels": a.labels}  # type: ignore[typeddict-item]
                for a in axes
            ],
            "prompts": texts,
            "recipes": recipes,
            "cells": cells,
            "scores": _scores(work, scorers),
            "notes": list(work.notes),
            "environment": machine,
        },
        work.painted,
    )
    made.save()
    return made


def _texts(prompts: str | Sequence[str]) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise RecipeError("prompts: expected at least one, got none")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise RecipeError(f"prompts[{index}]: expected a text, got {shown(text)}")
    return texts


def _shots(axes: list[Axis], base: View, asked: InferenceOptions, target: Path) -> list[_Shot]:
    """Return what is painted, checked; the merges of one recipe are one view."""
    if len(asked.all_seeds) > 1:
        raise RecipeError(
            f"options: expected one image of each prompt, got {len(asked.all_seeds)} seeds",
            hint="seeds may be an axis: `seed=0,1,2`",
        )
    views: dict[str, View] = {}
    shots = []
    for point in points_of(axes):
        key = json.dumps(point.recipe)
        if key not in views:
            views[key] = view_at(base, point.recipe)
        view = views[key]
        chosen = asked.with_(**point.options) if point.options else asked
        name = _digest(view.recipe.to_json(), chosen.to_dict())
        shots.append(_Shot(point, view, chosen, target / "images" / name))
    return shots


def _digest(recipe: str, options: Mapping[str, Any]) -> str:
    """Return the name of a point's folder, which another grid with the same point shares."""
    text = recipe + json.dumps(options, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _paint(work: _Work, load: Mapping[str, Any], target: Path) -> dict[str, Any]:
    """Paint what is missing, and return what it was painted with.

    A share of 0 or 1 may lose the guidance embedder: such a merge is another architecture, and is
    loaded anew instead of merged in place.
    """
    kinds: dict[Any, list[_Shot]] = {}
    for shot in work.shots:
        kinds.setdefault(shot.view.model.arch, []).append(shot)
    for shots in kinds.values():
        defaults = _defaults(shots[0].view, load)
        for shot in shots:
            shot.options = shot.options.filled(defaults)
            work.total += (shot.options.steps or 0) * len(work.prompts)
    machine: dict[str, Any] = {}
    texts: dict[tuple[str, int], Any] = {}
    for shots in kinds.values():
        with load_model(shots[0].view, **load) as model:
            target.mkdir(parents=True, exist_ok=True)
            model.texts |= texts
            _paint_with(model, work, shots)
            texts = model.texts
            machine = environment(device=str(model.device), dtype=model.plan.dtype)
    return machine


def _defaults(view: View, load: Mapping[str, Any]) -> Defaults:
    parts = find_parts(view, load.get("components"), load.get("adapters", ()))
    return defaults_for(
        guided=parts.guided, few_step_parent=parts.few_step_parent, size=parts.default_size()
    )


def _paint_with(model: LoadedModel, work: _Work, shots: Sequence[_Shot]) -> None:
    """Paint what is missing; a merge of which everything is there is not made."""
    todo = []
    for shot in shots:
        parts = model.parts_of(shot.view)
        shot.jobs = jobs_of(model, parts, shot.options, work.prompts, shot.folder)
        missing = sum(not is_painted(job) for job in shot.jobs)
        todo += [shot] if missing else []
        work.painted += missing
        work.total -= (len(shot.jobs) - missing) * (shot.options.steps or 0)
    for shot in todo:
        if model.parts.view is not shot.view:
            model.remerge(shot.view)
        found = run_inference(
            model, work.prompts, shot.options, output=shot.folder, callback=work.counting()
        )
        work.notes |= dict.fromkeys(found.notes)
        shot.seconds = {
            job.place: image.seconds for job, image in zip(shot.jobs, found, strict=True)
        }


def _cells(work: _Work, target: Path) -> tuple[list[GridCell], list[dict[str, Any]]]:
    """Return a row for each image, in the order of the axes, and the recipes they name."""
    recipes: dict[str, int] = {}
    cells: list[GridCell] = []
    for shot, job, path in _images(work):
        recipe = recipes.setdefault(shot.view.recipe.to_json(), len(recipes))
        cells.append(
            {
                "at": dict(shot.point.at),
                "prompt": job.prompt_index,
                "recipe": recipe,
                "seed": job.seed,
                "options": dict(job.metadata["options"]),
                "path": path.relative_to(target).as_posix(),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "seconds": shot.seconds.get(job.place, 0.0),
            }
        )
    return cells, [json.loads(text) for text in recipes]


def _images(work: _Work) -> Iterator[tuple[_Shot, Job, Path]]:
    return (
        (shot, job, job.path) for shot in work.shots for job in shot.jobs if job.path is not None
    )


def _scores(work: _Work, scorers: Sequence[Scorer]) -> list[GridScore]:
    """Score the images, those of one point together; what does not apply is left out."""
    from PIL import Image

    rows: list[GridScore] = []
    index = 0
    for shot in work.shots:
        images = [Image.open(job.path).convert("RGB") for job in shot.jobs if job.path]
        prompts = [Prompt(f"{job.prompt_index}", job.prompt) for job in shot.jobs]
        for scorer in scorers:
            for at, value in enumerate(scorer.score(images, prompts)):
                if not math.isnan(value):
                    rows.append(
                        {
                            "scorer": scorer.name,
                            "unit": scorer.unit,
                            "better": scorer.better,
                            "cell": index + at,
                            "value": float(value),
                        }
                    )
        index += len(shot.jobs)
    return rows
