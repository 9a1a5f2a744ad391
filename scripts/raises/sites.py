"""The places in submerge's Python that raise, and how they tell that they were reached.

A place is a `raise` with something behind it, or a call that makes one of submerge's errors
elsewhere; not an `InternalError`, which tells of a defect that nobody can ask for. Modules loaded
after `watch` write each place and each message once to a file of their process, so that processes
that are killed have told, too.
"""

from __future__ import annotations

import ast
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType, ModuleType

__all__ = ["FOLDER", "places", "watch"]

# Where processes write what they reached.
FOLDER = "SUBMERGE_RAISES"
_PACKAGE = "submerge"
_HIT = "__raised_here__"
_ERRORS = {"AdapterError", "CheckpointError", "LayoutError", "PlanError", "RecipeError"}


class _Marker(ast.NodeTransformer):
    """Wraps what is raised in a call that notes the line."""

    def __init__(self) -> None:
        self.lines: list[int] = []

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if node.exc is not None and _name(node.exc) != "InternalError":
            kept = node.exc
            for child in ast.iter_fields(kept) if isinstance(kept, ast.Call) else ():
                if child[0] != "func":
                    self._within(child[1])
            node.exc = self._noted(kept, node.lineno)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return self._noted(node, node.lineno) if _name(node) in _ERRORS else node

    def _within(self, value: Any) -> None:
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                self.generic_visit(child)

    def _noted(self, value: ast.expr, line: int) -> ast.expr:
        self.lines.append(line)
        name = ast.copy_location(ast.Name(_HIT, ast.Load()), value)
        number = ast.copy_location(ast.Constant(line), value)
        return ast.copy_location(ast.Call(name, [value, number], []), value)


def _name(made: ast.expr) -> str:
    """Return what a plain call calls."""
    return made.func.id if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) else ""


def _marked(source: bytes, path: str) -> tuple[ast.Module, list[int]]:
    marker = _Marker()
    tree = marker.visit(ast.parse(source, path))
    return ast.fix_missing_locations(tree), sorted(marker.lines)


def places(package: Path) -> set[str]:
    """Return every place under a package's folder as `plan/guidance.py:57`."""
    return {
        f"{path.relative_to(package).as_posix()}:{line}"
        for path in package.rglob("*.py")
        for line in _marked(path.read_bytes(), str(path))[1]
    }


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        # Never from a cache, and never into one.
        path = self.get_filename(fullname)
        tree, _ = _marked(self.get_data(path), path)
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        name = _inside(self.path)
        setattr(module, _HIT, functools.partial(_note, name))
        super().exec_module(module)
        if module.__name__ == f"{_PACKAGE}.errors":
            _listen(module.SubmergeError)
            _listen_to_the_core(importlib.import_module(f"{_PACKAGE}._core"))


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != _PACKAGE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def _inside(path: str) -> str:
    parts = Path(path).parts
    at = len(parts) - parts[::-1].index(_PACKAGE)
    return "/".join(parts[at:])


def _note(module: str, raised: Any, line: int) -> Any:
    _tell("place", f"{module}:{line}")
    return raised


def _listen(errors: type) -> None:
    """Note the message of every error, whoever makes it."""
    first: Callable[..., None] = errors.__init__  # type: ignore[misc]

    @functools.wraps(first)
    def told(self: Exception, message: str, **more: Any) -> None:
        _tell("message", str(message))
        first(self, message, **more)

    errors.__init__ = told  # type: ignore[misc]


def _listen_to_the_core(core: ModuleType) -> None:
    """Note what the system refuses the core: those errors are not submerge's own."""
    for name in ("execute", "read_header"):
        first: Callable[..., str] = getattr(core, name)

        @functools.wraps(first)
        def told(*arguments: Any, first: Callable[..., str] = first) -> str:
            try:
                return first(*arguments)
            except OSError as error:
                _tell("message", str(error.strerror))
                raise

        setattr(core, name, told)


@functools.cache
def _tell(kind: str, text: str) -> None:
    folder = os.environ.get(FOLDER)
    # A test may have left no room to write: what it reached is told by no other, then.
    with suppress(OSError):
        if folder:
            with (Path(folder) / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({kind: text[:2000]}) + "\n")


def watch() -> None:
    """From now on, submerge's modules are loaded from source and tell what they raise."""
    sys.meta_path.insert(0, _Finder())
