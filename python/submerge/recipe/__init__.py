"""Recipes: what to merge, validated with field paths; see docs/recipes.md.

Importing this package imports pydantic and the YAML reader, which `import submerge` does not.
"""

from submerge.recipe.fields import Action, Guidance, ModelSource, Output, Rule, Strict
from submerge.recipe.model import Recipe, Step

__all__ = [
    "Action",
    "Guidance",
    "ModelSource",
    "Output",
    "Recipe",
    "Rule",
    "Step",
    "Strict",
]
