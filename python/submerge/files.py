"""Files as users name them and as bytes: small ones that appear complete or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from submerge.given import PATH

if TYPE_CHECKING:
    import os

__all__ = ["expanded", "path_of", "same_bytes", "write_whole"]

_STEP = 1 << 20


def path_of(raw: object, where: str) -> Path:
    """Return an argument as a path.

    Raises:
        RecipeError: bytes, something else, or a name that no plan can hold: with NUL, not UTF-8.
    """
    return Path(PATH.read(raw, where))


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path whose `~` stands for the home directory, where there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody of that name
        return Path(path)


def same_bytes(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to files of equal bytes; what is no file equals none.

    Raises:
        OSError: a file cannot be read.
    """
    if not (one.is_file() and other.is_file()):
        return False
    if one.samefile(other):
        return True
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while piece := first.read(_STEP):
            if piece != second.read(_STEP):
                return False
    return True


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
