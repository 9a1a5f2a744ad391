"""The folders that the studio may read from and write into, and what lies in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from submerge.errors import RecipeError, quoted
from submerge.files import expanded, path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from submerge.recipe import Recipe

__all__ = ["Entry", "Places"]

_MODELS = (".safetensors", ".sft", ".gguf")
_MOST = 2000


class Entry(NamedTuple):
    """What stands in a folder: `kind` is `folder`, `model` (a folder, too) or `file`."""

    name: str
    path: str
    kind: str
    bytes: int


class Places:
    """Some folders of this machine; whatever is named outside of them is refused.

    A name is taken as it is written: a link that somebody put into one of the folders is followed.

    Raises:
        RecipeError: a root is no folder.
    """

    def __init__(self, roots: Sequence[str | os.PathLike[str]]) -> None:
        self.roots = tuple(_absolute(root) for root in roots)
        self._fetched: set[Path] = set()
        for root in self.roots:
            if not root.is_dir():
                raise RecipeError(f"{root}: expected a folder that is there")

    def admit(self, path: Path) -> None:
        """Allow a folder or file that the studio fetched itself."""
        self._fetched.add(_absolute(path))

    def inside(self, raw: object, where: str) -> Path:
        """Return a path as an absolute one.

        Raises:
            RecipeError: it is none, or lies outside of all roots.
        """
        path = _absolute(path_of(raw, where))
        if not any(path.is_relative_to(root) for root in (*self.roots, *self._fetched)):
            roots = ", ".join(quoted(str(root)) for root in self.roots)
            raise RecipeError(
                f"{where}: {quoted(str(path))} lies outside of what the studio may touch, expected "
                f"a path in {roots}",
                hint="name a folder above it when the studio is started: `submerge studio FOLDER`",
            )
        return path

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that reads anything from outside.

        Raises:
            RecipeError: naming the field.
        """
        for name, source in recipe.models.items():
            self.inside(source.path, f"recipe.models.{name}")
        for at, adapter in enumerate(recipe.adapters):
            self.inside(adapter.path, f"recipe.adapters[{at}]")
        for field in ("pipeline_from", "scheduler_from"):
            named = getattr(recipe.output, field)
            if named is not None and named not in recipe.models:
                self.inside(named, f"recipe.output.{field}")

    def listing(self, raw: object = None) -> dict[str, Any]:
        """Return what lies in a folder: subfolders and weights; without one the roots.

        Raises:
            RecipeError: the folder lies outside.
            OSError: it cannot be read.
        """
        if raw is None:
            found = [Entry(str(root), str(root), "folder", 0) for root in self.roots]
            return {"path": None, "parent": None, "entries": [e._asdict() for e in found]}
        path = self.inside(raw, "path")
        parent = None if path in self.roots else str(path.parent)
        entries = sorted(_entries(path), key=lambda e: (e.kind != "folder", e.name.lower()))
        return {
            "path": str(path),
            "parent": parent,
            "entries": [entry._asdict() for entry in entries[:_MOST]],
            "more": max(0, len(entries) - _MOST),
        }


def _entries(folder: Path) -> Iterable[Entry]:
    with os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    kind = "model" if _is_model(Path(entry.path)) else "folder"
                    yield Entry(entry.name, entry.path, kind, 0)
                elif entry.name.lower().endswith(_MODELS):
                    yield Entry(entry.name, entry.path, "file", entry.stat().st_size)
            except OSError:  # gone meanwhile, or a link to nowhere
                continue


def _is_model(folder: Path) -> bool:
    if (folder / "model_index.json").is_file():
        return True
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _absolute(path: str | os.PathLike[str]) -> Path:
    # Without following links: what stands in a root is what the user put there.
    return Path(os.path.abspath(expanded(path)))  # noqa: PTH100
