"""Images of the parents and of the merge beside each other, and grids over a recipe's numbers.

Each model is loaded, paints every seed and is let go before the next, so that memory is that of one
model. The merge is painted from its recipe: no file is written.
"""

from __future__ import annotations

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import Cancelled, RecipeError, SubmergeError
from submerge.files import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from submerge.recipe import Recipe
    from submerge.studio.jobs import Job

__all__ = ["Painting", "grid_of", "images_of", "painter"]

_NEEDED = ("torch", "diffusers", "transformers", "accelerate")
_MOST = 16


def painter() -> dict[str, Any]:
    """Return whether this process can paint, and what is missing if not; imports nothing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    hint = "pip install 'submerge[diffusers]'" if missing else ""
    return {"available": not missing, "missing": missing, "hint": hint}


class Painting(NamedTuple):
    """What is painted, as it was asked for on the page.

    Attributes:
        prompt: a text.
        seeds: of every model.
        options: of `InferenceOptions`, those that were given.
        load: keywords of `load_model`.
        sides: the axes of a grid by side, as `submerge grid` takes them.
    """

    prompt: str
    seeds: list[int]
    options: dict[str, Any]
    load: dict[str, Any]
    sides: dict[str, str]

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Painting:
        """Read what was asked for.

        Raises:
            RecipeError: no prompt, no seeds or too many, or a number that is none.
            SubmergeError: there is nothing to paint with.
        """
        if not (found := painter())["available"]:
            raise SubmergeError(
                f"images: {', '.join(found['missing'])} not installed, expected a painter",
                hint=found["hint"],
            )
        prompt = asked.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise RecipeError("prompt: expected a text, got nothing", hint="say what to paint")
        given = {name: asked[name] for name in ("steps", "width", "height") if asked.get(name)}
        options: dict[str, Any] = {name: _whole(raw, name) for name, raw in given.items()}
        load: dict[str, Any] = {
            name: options[name] for name in ("width", "height") if name in options
        }
        if components := asked.get("components"):
            load["components"] = components
        sides = {side: str(asked[side]) for side in ("x", "y") if asked.get(side)}
        return cls(prompt, _seeds(asked.get("seeds")), options, load, sides)


def images_of(
    recipe: Recipe, asked: Mapping[str, Any], folder: Path
) -> Callable[[Job], Mapping[str, Any]]:
    """Return the job that paints every model of a recipe and its merge into a folder.

    Raises:
        RecipeError, SubmergeError: as `Painting.of`.
    """
    return partial(_images, recipe, Painting.of(asked), folder)


def grid_of(
    recipe: Recipe, asked: Mapping[str, Any], folder: Path
) -> Callable[[Job], Mapping[str, Any]]:
    """Return the job that paints a grid over the sides `x` and `y` of what was asked for.

    Raises:
        RecipeError, SubmergeError: as `Painting.of`; no side.
    """
    painting = Painting.of(asked)
    if not painting.sides:
        raise RecipeError(
            "across: expected what changes across or down, got nothing", hint="`alpha=0.2,0.5,0.8`"
        )
    return partial(_grid, recipe, painting, folder)


def _whole(raw: object, where: str) -> int:
    try:
        return int(str(raw))
    except ValueError as error:
        raise RecipeError(f"{where}: expected a whole number, got {raw!r}") from error


def _seeds(raw: object) -> list[int]:
    words = re.split(r"[\s,;]+", str(raw).strip()) if isinstance(raw, str) and raw.strip() else raw
    listed = words if isinstance(words, list) else [0 if words in (None, "") else words]
    seeds = [_whole(word, "seeds") for word in listed]
    if not 1 <= len(seeds) <= _MOST:
        raise RecipeError(f"seeds: expected 1 to {_MOST}, got {len(seeds)}")
    return seeds


def _images(recipe: Recipe, painting: Painting, folder: Path, job: Job) -> dict[str, Any]:
    from submerge.inference import InferenceOptions, load_model, run_inference

    options = InferenceOptions.of({**painting.options, "seeds": painting.seeds})
    pipelines = [m.path for m in recipe.models.values() if _is_pipeline(m.path)]
    images: list[dict[str, Any]] = []
    for at, name in enumerate((*recipe.models, "merge")):
        job.say(f"loading {name}")
        load = dict(painting.load)
        source: Any = recipe
        if name != "merge":
            source = recipe.models[name].path
            if pipelines and not _is_pipeline(source):
                load.setdefault("components", pipelines[0])
        with load_model(source, **load) as model:
            if job.token.cancelled:
                raise Cancelled("images: stopped by the user")
            job.say(f"painting {name}")
            into = folder / f"{at}"
            done = run_inference(
                model, painting.prompt, options, output=into, callback=job.progress
            )
        images += (
            {
                "model": name,
                "seed": image.seed,
                "file": "" if image.path is None else f"{at}/{image.path.name}",
                "seconds": round(image.seconds, 2),
            }
            for image in done
        )
    return {"images": images, "prompt": painting.prompt}


def _grid(recipe: Recipe, painting: Painting, folder: Path, job: Job) -> dict[str, Any]:
    from submerge.grid import grid

    job.say("painting a grid")
    more: Any = {
        **painting.sides,
        "options": {**painting.options, "seed": painting.seeds[0]},
        "load": _of_grid(painting),
        "callback": job.progress,
    }
    made = grid(recipe, painting.prompt, output=folder, **more)
    return {
        "axes": {axis["side"]: [axis["name"], axis["labels"]] for axis in made.data["axes"]},
        "cells": [
            {"at": cell["at"], "file": cell["path"], "recipe": cell["recipe"]}
            for cell in made.data["cells"]
        ],
        "recipes": made.data["recipes"],
        "prompt": painting.prompt,
    }


def _of_grid(painting: Painting) -> dict[str, Any]:
    """Return how a grid's model is loaded; its size is that of the options."""
    return {name: raw for name, raw in painting.load.items() if name == "components"}


def _is_pipeline(path: str) -> bool:
    return (expanded(Path(path)) / "model_index.json").is_file()
