"""What imports of other tools' presets share: coefficients per FLUX.1 group, written as a recipe.

A preset is a linear form for each of the 63 groups that ComfyUI's node and supermerger's vectors
tell apart: `group -> model -> coefficient`. Coefficients are exact fractions, so that 1 - 0.7 is
written 0.3.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeAlias

from submerge.errors import RecipeError
from submerge.recipe.model import Recipe

__all__ = [
    "DOUBLE",
    "GROUPS",
    "LARGEST",
    "SINGLE",
    "Form",
    "Imported",
    "decimal",
    "model_names",
    "to_recipe",
]

DOUBLE, SINGLE = 19, 38
# Of f32: merges compute in it, and what is larger is infinite there.
LARGEST = 3.4028235e38
_EMBEDDERS = ("img", "time", "vector", "txt")
GROUPS = (
    *(f"embed.{part}" for part in _EMBEDDERS),
    "guidance",
    *(f"double[{i}]" for i in range(DOUBLE)),
    *(f"single[{i}]" for i in range(SINGLE)),
    "final",
)

Form: TypeAlias = dict[str, dict[str, Fraction]]


class Imported(NamedTuple):
    """A recipe from another tool's preset.

    Attributes:
        recipe: what the preset says.
        notes: how it was read: the direction of its ratios, and all that was not carried over.
    """

    recipe: Recipe
    notes: list[str]


def decimal(coefficient: Fraction) -> float:
    """Return a coefficient as recipes write it.

    Raises:
        RecipeError: no finite number is as large.
    """
    if abs(coefficient) > LARGEST:
        raise RecipeError(
            f"preset: a coefficient above {LARGEST:g} comes out, expected numbers that f32 holds"
        )
    return float(coefficient)


def model_names(paths: list[str]) -> dict[str, str]:
    """Return a distinct name for each file, by path: `flux1-dev` for `flux1-dev.safetensors`."""
    names: dict[str, str] = {}
    for path in paths:
        stem = PurePosixPath(path.replace("\\", "/")).name.removesuffix(".safetensors")
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "model"
        base = base if re.match(r"[A-Za-z_]", base) else f"model-{base}"
        name, count = base, 2
        while name in names.values() or name in ("drop", "same", "default"):
            name, count = f"{base}-{count}", count + 1
        names[path] = name
    return names


def to_recipe(models: dict[str, str], form: Form) -> Recipe:
    """Return the recipe of a form: `alpha` for two models whose shares sum to 1, else `weight`.

    Args:
        models: paths by name, in order.
        form: a coefficient for every group and model; one left out is 0.
    """
    names = list(models)
    columns = {
        name: {group: form[group].get(name, Fraction(0)) for group in GROUPS} for name in names
    }
    even = all(sum(form[group].values()) == 1 for group in GROUPS)
    parameters: dict[str, Any]
    if len(names) == 2 and even:
        parameters = {"alpha": _value(columns[names[1]])}
    else:
        parameters = {"weight": {name: _value(column) for name, column in columns.items()}}
        if not even:
            parameters["normalize"] = False
    return Recipe.load({"models": models, "method": {"linear": parameters}})


def _value(column: dict[str, Fraction]) -> Any:
    """Return a number, or a mapping of selectors whose default is the guidance embedder's number.

    The guidance embedder takes the default: some models have none, and a selector must match.
    """
    default = column["guidance"]
    if set(column.values()) == {default}:
        return decimal(default)
    embedders = {column[f"embed.{part}"] for part in _EMBEDDERS}
    if len(embedders) == 1:
        entries = {"embed": embedders.pop()}
    else:
        entries = {f"embed.{part}": column[f"embed.{part}"] for part in _EMBEDDERS}
    entries |= _runs("double", [column[f"double[{i}]"] for i in range(DOUBLE)])
    entries |= _runs("single", [column[f"single[{i}]"] for i in range(SINGLE)])
    entries["final"] = column["final"]
    written = {selector: decimal(value) for selector, value in entries.items() if value != default}
    return {**written, "default": decimal(default)}


def _runs(stack: str, values: list[Fraction]) -> dict[str, Fraction]:
    """Return selectors for runs of equal numbers: `double[0:8]`, `double[8]`, `double` for all."""
    found: dict[str, Fraction] = {}
    start = 0
    for end in range(1, len(values) + 1):
        if end < len(values) and values[end] == values[start]:
            continue
        indices = str(start) if end == start + 1 else f"{start}:{end}"
        found[stack if end - start == len(values) else f"{stack}[{indices}]"] = values[start]
        start = end
    return found
