"""Recipes from other tools' presets, with every ratio turned into the second model's share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from submerge.errors import RecipeError
from submerge.recipe.comfy import import_workflow
from submerge.recipe.mergekit import import_mergekit, looks_like_mergekit
from submerge.recipe.parse import load_json, load_text, read_text
from submerge.recipe.preset import Imported
from submerge.recipe.supermerger import import_vector

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Imported", "import_recipe"]

# A vector names no files; these stand for them until the user puts paths in their place.
_UNNAMED = {"a": "model_a.safetensors", "b": "model_b.safetensors"}


def import_recipe(
    source: str | os.PathLike[str],
    kind: Literal["auto", "comfy", "mergekit", "supermerger"] = "auto",
    *,
    models: Mapping[str, str] | None = None,
    node: str | None = None,
) -> Imported:
    """Read a ComfyUI workflow (editor or API format), mergekit YAML or a supermerger FLUX.1 vector.

    Args:
        source: a file, or the text itself: JSON, YAML, or numbers parted by commas.
        kind: which tool it is from; `auto` tells by the first character and by `merge_method:`.
        models: for a vector, the paths of A and B by the names they get in the recipe.
        node: for a workflow, the id of the merge node; None for the last.

    Returns:
        The recipe, and notes on the direction of ratios and on all that was not carried over.

    Raises:
        RecipeError: the preset cannot be expressed, or is malformed.
        OSError: the file cannot be read.
    """
    text, name = _text(source)
    if kind == "comfy" or (kind == "auto" and text.lstrip().startswith("{")):
        if models is not None:
            raise RecipeError(f"{name}: a workflow names its models itself, expected no `models`")
        return import_workflow(load_json(text, name), name, node)
    if kind == "mergekit" or (kind == "auto" and looks_like_mergekit(text)):
        if models is not None:
            raise RecipeError(f"{name}: mergekit names its models itself, expected no `models`")
        return import_mergekit(load_text(text, name), name)
    if node is not None:
        raise RecipeError(f"{name}: a vector has no nodes, expected no `node`")
    imported = import_vector(text, name, _UNNAMED if models is None else models)
    if models is None:
        imported.notes.append(
            "a vector names no models: put the paths of A and B in place of the two under `models`"
        )
    return imported


def _text(source: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the text and its name; a text is told by its brace, commas or line breaks."""
    if isinstance(source, str) and (
        source.lstrip().startswith("{") or "\n" in source or source.count(",") > 1
    ):
        return source, "preset"
    return read_text(source), os.fspath(source)
