"""Recipes: what to merge, validated with field paths; see docs/recipes.md."""

from submerge.recipe.fields import (
    Action,
    AdapterSource,
    Guidance,
    ModelSource,
    Rule,
    sources_of,
)
from submerge.recipe.model import Recipe, Step
from submerge.recipe.output import AdapterOutput, Formats, Output, Rounding

__all__ = [
    "Action",
    "AdapterOutput",
    "AdapterSource",
    "Formats",
    "Guidance",
    "ModelSource",
    "Output",
    "Recipe",
    "Rounding",
    "Rule",
    "Step",
    "sources_of",
]
