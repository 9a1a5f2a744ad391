"""The recipe that an output carries in its metadata, to be merged or verified again.

An output names its models and says no path, so that its bytes do not depend on where they lay. Who
uses the recipe again has them beside the output or in the current folder, or writes the paths in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from submerge.checkpoint import open_checkpoint
from submerge.checkpoint.names import ENDINGS, format_of
from submerge.errors import RecipeError, quoted
from submerge.given import load_json, plain_copy

__all__ = ["KEY", "find_models", "is_checkpoint", "saved_recipe"]

KEY = "submerge.recipe"
_SUFFIXES = ("", *ENDINGS)


def is_checkpoint(path: Path) -> bool:
    """Tell whether a path is a model's, by what it is called."""
    name = path.name.lower()
    is_file = format_of(name) is not None or name.endswith(".safetensors.index.json")
    # Not `Path.is_dir`, which raises for a text that is no path.
    return is_file or os.path.isdir(path)  # noqa: PTH112


def saved_recipe(path: Path) -> dict[str, Any]:
    """Return the recipe of an output, its models called by what they were called then.

    Raises:
        RecipeError: it carries none.
        CheckpointError, OSError: it cannot be read.
    """
    text = open_checkpoint(path).files[0].metadata.get(KEY)
    if text is None:
        raise RecipeError(
            f"{path}: a checkpoint without a recipe of submerge in it, expected a recipe in YAML "
            "or JSON, or an output of submerge",
            hint="a checkpoint belongs under `models:` of a recipe",
        )
    where = f"{path}: {quoted(KEY)}"
    found: dict[str, Any] = plain_copy(load_json(text, where), where)
    return found


def find_models(recipe: dict[str, Any], output: Path) -> dict[str, Any]:
    """Return the recipe of an output with the paths of what it names, looked for by name.

    Raises:
        RecipeError: a model lies neither beside the output nor in the current folder.
    """
    models = {}
    for name, source in recipe["models"].items():
        fields = {"path": source} if isinstance(source, str) else dict(source)
        models[name] = {**fields, "path": _found(fields["path"], output, f"models.{name}")}
    adapters = []
    for i, source in enumerate(recipe.get("adapters", ())):
        fields = {"path": source} if isinstance(source, str) else dict(source)
        path = _found(fields["path"], output, f"adapters[{i}]")
        adapters.append({**fields, "path": path})
    written = dict(recipe.get("output", {}))
    for field in ("pipeline_from", "scheduler_from"):
        if field in written and written[field] not in models:
            written[field] = _found(written[field], output, f"output.{field}")
    return (
        recipe
        | {"models": models}
        | ({"adapters": adapters} if adapters else {})
        | ({"output": written} if written else {})
    )


def _found(label: str, output: Path, field: str) -> str:
    """Return where something lies that an output calls by a hub id or a base name."""
    own = output.absolute()
    for folder in (own.parent, Path.cwd()):
        for name in dict.fromkeys((label, label.rpartition("/")[2])):
            for suffix in _SUFFIXES:
                path = folder / (name + suffix)
                if path != own and path.exists():
                    return os.fspath(path)
    raise RecipeError(
        f"{output}: {quoted(KEY)}: {field}: {quoted(label)} without a path, expected it beside the "
        "output or in the current folder",
        hint=f"`submerge recipe import {output}` prints the recipe; put the paths in and use that",
    )
