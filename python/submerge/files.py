"""Paths as users write them, and small files that appear complete or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    import os

__all__ = ["expanded", "write_whole"]


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path whose `~` stands for the home directory, where there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody of that name
        return Path(path)


def write_whole(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write a file beside its target and rename it into place; text is written as UTF-8.

    Raises:
        OSError: the folder cannot be written to; what was at `path` is still there.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        beside.write_bytes(data.encode() if isinstance(data, str) else data)
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
