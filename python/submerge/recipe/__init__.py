"""Recipes: what to merge, validated with field paths; see docs/recipes.md."""

from submerge.recipe.fields import (
    Action,
    AdapterOutput,
    AdapterSource,
    Guidance,
    ModelSource,
    Output,
    Rule,
    sources_of,
)
from submerge.recipe.model import Recipe, Step

__all__ = [
    "Action",
    "AdapterOutput",
    "AdapterSource",
    "Guidance",
    "ModelSource",
    "Output",
    "Recipe",
    "Rule",
    "Step",
    "sources_of",
]
