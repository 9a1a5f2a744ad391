"""What a report is built from: the documents that merge, analyze, test and measure write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from submerge.documents import read
from submerge.files import path_of

if TYPE_CHECKING:
    from submerge.documents import Source

__all__ = ["known", "load"]

Document = TypeVar("Document")

# Sums and squares of what is drawn stay finite.
_LARGEST = 1e100


def load(form: type[Document], source: Source, name: str) -> tuple[Document, Path]:
    """Return an input, and the folder its paths are relative to.

    Args:
        form: the type of the document.
        source: the JSON file, a folder that holds `name`, or the data itself.
        name: of the file in a folder.

    Raises:
        RecipeError: not such a document, see `documents.read`.
        OSError: the file cannot be read.
    """
    if isinstance(source, Mapping):
        return read(form, source), Path()
    path = path_of(source, "report")
    path = path / name if path.is_dir() else path
    return read(form, path), path.parent


def known(value: float | None) -> float | None:
    """Return a figure that can be drawn, or None for one that is unknown or beyond all measure."""
    return value if value is not None and abs(value) < _LARGEST and math.isfinite(value) else None
