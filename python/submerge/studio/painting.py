"""Images of the parents and of the merge beside each other, where there is something to paint with.

Each is loaded, paints every seed and is let go before the next, so that memory is that of one
model. The merge is painted from its recipe: no file is written.
"""

from __future__ import annotations

import re
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from submerge.errors import Cancelled, RecipeError, SubmergeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from submerge.recipe import Recipe
    from submerge.studio.jobs import Job

__all__ = ["paint", "painter"]

_NEEDED = ("torch", "diffusers", "transformers", "accelerate")
_OPTIONS = ("steps", "guidance", "width", "height")
_MOST = 16


def painter() -> dict[str, Any]:
    """Return whether this process can paint, and what is missing if not; imports nothing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    hint = "pip install 'submerge[diffusers]'" if missing else ""
    return {"available": not missing, "missing": missing, "hint": hint}


def paint(
    recipe: Recipe, asked: Mapping[str, Any], folder: Path
) -> Callable[[Job], Mapping[str, Any]]:
    """Return the job that paints; `asked` has `prompt`, `seeds`, `components`, steps and sizes.

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
    options = {name: asked[name] for name in _OPTIONS if asked.get(name) not in (None, "")}
    seeds = _seeds(asked.get("seeds"))
    shown = [
        name
        for name in (*recipe.models, "merge")
        if name in (asked.get("shown") or (*recipe.models, "merge"))
    ]
    given = {"prompt": prompt, "components": asked.get("components"), "shown": shown}
    return partial(_paint, recipe, given, options | {"seeds": seeds}, folder)


def _seeds(raw: object) -> list[int]:
    words = re.split(r"[\s,;]+", raw.strip()) if isinstance(raw, str) else raw or [0]
    try:
        seeds = [int(word) for word in words]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise RecipeError(f"seeds: expected whole numbers, got {raw!r}") from error
    if not 1 <= len(seeds) <= _MOST:
        raise RecipeError(f"seeds: expected 1 to {_MOST}, got {len(seeds)}")
    return seeds


def _paint(
    recipe: Recipe,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    folder: Path,
    job: Job,
) -> dict[str, Any]:
    from submerge.inference import InferenceOptions, load_model, run_inference

    wanted = InferenceOptions.of(options)
    sizes = {n: options[n] for n in ("width", "height") if n in options}
    images: list[dict[str, Any]] = []
    for at, name in enumerate(given["shown"]):
        job.say(f"loading {name}")
        source = recipe if name == "merge" else recipe.models[name].path
        with load_model(source, components=given["components"], **sizes) as model:
            if job.token.cancelled:
                raise Cancelled("images: stopped by the user")
            job.say(f"painting {name}")
            into = folder / f"{at}"
            into.mkdir(parents=True, exist_ok=True)
            done = run_inference(model, given["prompt"], wanted, output=into, callback=job.progress)
            images += (
                {
                    "model": name,
                    "seed": image.seed,
                    "file": f"{at}/{image.path.name}" if image.path else "",
                    "seconds": round(image.seconds, 2),
                }
                for image in done
            )
    return {"images": images, "prompt": given["prompt"], "options": dict(options)}
