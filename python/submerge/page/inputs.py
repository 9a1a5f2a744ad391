"""What a report is built from: the JSON that merge, analyze, test and measure write.

The files may come from anybody, so what is used of them is checked here, with the path of the field
in the message; what is not known is ignored, so that newer files can be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submerge.errors import RecipeError, listing, quoted
from submerge.files import path_of

if TYPE_CHECKING:
    import os
    from typing import TypeAlias

    Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]

# Sums and squares of what is shown stay finite.
_LARGEST = 1e100

__all__ = ["items", "load", "number", "text"]

# Of each input: the format it names, and the lists of objects a report reads.
_EXPECTED: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "merge": (None, ("rows", "parents")),
    "analysis": ("submerge-analysis/1", ("blocks",)),
    "evaluation": ("submerge-evaluation/1", ("models", "prompts", "images")),
    "measure": ("submerge-measure/1", ("results",)),
}


def load(kind: str, source: Source) -> tuple[dict[str, Any], Path]:
    """Return an input as plain data, and the folder its paths are relative to.

    Args:
        kind: `merge`, `analysis`, `evaluation` or `measure`.
        source: the JSON file, the folder of an evaluation, or the data itself.

    Raises:
        RecipeError: not JSON, of another format, or without what a report of it needs.
        OSError: the file cannot be read.
    """
    if isinstance(source, Mapping):
        data, folder, where = dict(source), Path(), kind
    else:
        path = path_of(source, kind)
        path = path / f"{kind}.json" if path.is_dir() else path
        data, folder, where = _read(path), path.parent, str(path)
    form, lists = _EXPECTED[kind]
    if form is not None and data.get("format") != form:
        raise RecipeError(
            f"{where}: expected the format `{form}`, got {quoted(str(data.get('format')))}",
            hint=f"this is not what submerge writes for `{kind}`, or another version wrote it",
        )
    missing = [name for name in lists if not isinstance(data.get(name), list)]
    if missing:
        raise RecipeError(
            f"{where}: expected lists under {listing(missing, noun='name')}, got none"
        )
    return data, folder


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a JSON object, got a {type(data).__name__}")
    return data


def items(data: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the objects of a list, or none where the list is absent; the rest is left out."""
    found = data.get(name)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def number(value: Any) -> float | None:
    """Return a number that a chart can hold, or None for what is none or beyond all measure."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _LARGEST else None


def text(value: Any) -> str:
    """Return anything as text; None is nothing."""
    return "" if value is None else str(value)
