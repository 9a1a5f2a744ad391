"""ComfyUI workflows made small, and what an imported recipe gives each unit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flux_units import flux_units
from planning import weights_of
from submerge.methods import Linear
from submerge.values import Selection

if TYPE_CHECKING:
    from submerge.recipe import Recipe

UNITS = flux_units()


def shares(recipe: Recipe, units: list[str] = UNITS) -> dict[str, dict[str, float]]:
    (step,) = recipe.steps()
    assert isinstance(step.method, Linear)
    return weights_of(step.method, list(recipe.models), Selection.of(units), step.path)


def loader(path: str) -> dict[str, Any]:
    return {"class_type": "UNETLoader", "inputs": {"unet_name": path, "weight_dtype": "default"}}


def graph(**nodes: dict[str, Any]) -> str:
    return json.dumps({"a": loader("a.safetensors"), "b": loader("b.safetensors"), **nodes})
