"""Recipes from other tools' presets, with every ratio turned into the second model's share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from submerge.errors import RecipeError
from submerge.given import PATH, load_json, load_text, read_text
from submerge.recipe.importers.comfy import import_workflow
from submerge.recipe.importers.mecha import import_mecha
from submerge.recipe.importers.mecha.instructions import looks_like_mecha
from submerge.recipe.importers.mergekit import import_mergekit, looks_like_mergekit
from submerge.recipe.importers.metadata import import_metadata, looks_like_metadata
from submerge.recipe.importers.preset import Imported
from submerge.recipe.importers.supermerger import import_vector
from submerge.recipe.saved import is_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Imported", "import_recipe", "import_text", "kind_of"]

Kind: TypeAlias = Literal["comfy", "mecha", "mergekit", "metadata", "supermerger"]

# A vector names no files; these stand for them until the user puts paths in their place.
_UNNAMED = {"a": "model_a.safetensors", "b": "model_b.safetensors"}
_OWN_MODELS = {"comfy": "a workflow", "mecha": "sd-mecha", "mergekit": "mergekit"}


def import_recipe(
    source: str | os.PathLike[str],
    kind: Literal["auto"] | Kind = "auto",
    *,
    models: Mapping[str, str] | None = None,
    node: str | None = None,
) -> Imported:
    """Read what another tool merges by.

    That is a ComfyUI workflow (editor or API format), mergekit YAML, an sd-mecha recipe, a
    supermerger FLUX.1 vector, or what a merged checkpoint's header says of its making.

    Args:
        source: a file, a checkpoint, or the text itself: JSON, YAML, or numbers parted by commas.
        kind: which tool it is from; `auto` tells by how the text begins.
        models: for a vector and for metadata, the paths of A, B (and C) by the names they get in
            the recipe.
        node: for a workflow and for sd-mecha, the id of the node to read; None for the last.

    Returns:
        The recipe, and notes on the direction of ratios and on all that was not carried over.

    Raises:
        RecipeError: the preset cannot be expressed, or is malformed.
        CheckpointError: a `.safetensors` file that is damaged.
        OSError: the file cannot be read.
    """
    if _is_checkpoint(source):
        from submerge.checkpoint import open_checkpoint

        found = open_checkpoint(source).files[0].metadata
        return import_metadata(found, os.fspath(source), models, node)
    text, name = _text(source)
    return import_text(text, name, kind, models=models, node=node)


def import_text(
    text: str,
    name: str,
    kind: Literal["auto"] | Kind = "auto",
    *,
    models: Mapping[str, str] | None = None,
    node: str | None = None,
) -> Imported:
    """Read a text as `import_recipe` does; `name` stands for it in errors."""
    kind = kind_of(text, name) if kind == "auto" else kind
    if models is not None and kind in _OWN_MODELS:
        raise RecipeError(
            f"{name}: {_OWN_MODELS[kind]} names its models itself, expected no `models`"
        )
    match kind:
        case "comfy":
            return import_workflow(load_json(text, name), name, node)
        case "mecha":
            return import_mecha(text, name, node)
        case "metadata":
            return import_metadata(load_json(text, name), name, models, node)
        case _ if node is not None:
            noun = "mergekit" if kind == "mergekit" else "a vector"
            raise RecipeError(f"{name}: {noun} has no nodes, expected no `node`")
        case "mergekit":
            return import_mergekit(load_text(text, name), name)
        case _:
            pass
    imported = import_vector(text, name, _UNNAMED if models is None else models)
    if models is None:
        imported.notes.append(
            "a vector names no models: put the paths of A and B in place of the two under `models`"
        )
    return imported


def kind_of(text: str, name: str) -> Kind:
    """Return which tool a text is from; one that is from no other is taken as a vector."""
    if text.lstrip().startswith("{"):
        return "metadata" if looks_like_metadata(load_json(text, name)) else "comfy"
    if looks_like_mecha(text):
        return "mecha"
    return "mergekit" if looks_like_mergekit(text) else "supermerger"


def _is_checkpoint(source: str | os.PathLike[str]) -> bool:
    path = source if isinstance(source, str) else PATH.read(source, "preset")
    return "\n" not in path and is_checkpoint(Path(path))


def _text(source: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the text and its name; a text is told by its brace, commas or line breaks."""
    if isinstance(source, str) and (
        source.lstrip().startswith("{") or "\n" in source or source.count(",") > 1
    ):
        return source, "preset"
    return read_text(source), os.fspath(source)
