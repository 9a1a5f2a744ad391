"""The plan of a recipe while it is being written: headers are read once and kept.

What a plan says is what the page shows: formulas, sizes, memory, licence, notes. A file that was
written meanwhile is read again.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from submerge.adapters import open_adapter
from submerge.checkpoint import open_checkpoint
from submerge.errors import counted
from submerge.files import expanded
from submerge.layout import identify
from submerge.plan import Plan, compile_plan
from submerge.plan.sizes import bytes_in_words
from submerge.run import RunOptions, fit
from submerge.studio.shares import sliders

if TYPE_CHECKING:
    from collections.abc import Callable

    from submerge.adapters import Adapter
    from submerge.layout import Model
    from submerge.recipe import Recipe
    from submerge.recipe.fields import ModelSource

T = TypeVar("T")

__all__ = ["Planner", "summary"]

_KEPT = 16
_SHOWN = 40


class Planner:
    """Makes plans from headers that it keeps; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: OrderedDict[object, Model] = OrderedDict()
        self._adapters: OrderedDict[object, Adapter] = OrderedDict()

    def plan(self, recipe: Recipe, target: Path) -> Plan:
        """Return what writing a recipe into `target` would do; raises as `submerge.plan`."""
        with self._lock:
            models = {name: self._model(source) for name, source in recipe.models.items()}
            adapters = [self._adapter(Path(source.path)) for source in recipe.adapters]
        return compile_plan(recipe, models, target, adapters)

    def _model(self, source: ModelSource) -> Model:
        path = expanded(source.path)
        key = (path, source.layout, source.nvfp4, _stamp(path))
        return _kept(
            self._models,
            key,
            lambda: identify(open_checkpoint(path), layout=source.layout, nvfp4=source.nvfp4),
        )

    def _adapter(self, path: Path) -> Adapter:
        return _kept(self._adapters, (path, _stamp(expanded(path))), lambda: open_adapter(path))


def summary(plan: Plan) -> dict[str, Any]:
    """Return what a page shows of a plan, as plain data."""
    about = plan.about
    memory = fit(plan, RunOptions())
    return {
        "title": about.title,
        "formulas": [
            {"formula": formula, "where": ", ".join(where[:_SHOWN])}
            for formula, where in plan.formulas[:_SHOWN]
        ],
        "formula_count": len(plan.formulas),
        "facts": {
            "size": f"{bytes_in_words(plan.output_bytes)} in {counted(len(plan.files), 'file')}",
            "reads": bytes_in_words(plan.read_bytes),
            "memory": f"{bytes_in_words(memory.working_bytes)} of buffers, "
            f"{counted(memory.threads, 'thread')}",
            "layout": f"{about.layout}, {about.dtype}",
            "guidance": about.guidance,
            "licence": about.license,
        },
        "parents": [parent._asdict() for parent in about.parents],
        "adapters": [adapter._asdict() for adapter in about.adapters],
        "notes": list(about.notes),
        "unused": [
            f"{u.model}: {counted(len(u.tensors), 'tensor')}, {u.reason}" for u in about.unused
        ],
        "sliders": [slider._asdict() for slider in sliders(plan)],
    }


def _kept(kept: OrderedDict[object, T], key: object, make: Callable[[], T]) -> T:
    """Return what is kept under a key, or make it and forget what was not used for long."""
    if key not in kept:
        kept[key] = make()
        while len(kept) > _KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


def _stamp(path: Path) -> object:
    """Return what changes when a file, or a file in a folder, is written."""
    try:
        if not path.is_dir():
            found = path.stat()
            return (found.st_ino, found.st_size, found.st_mtime_ns)
        folders = [path, *(folder for folder in path.iterdir() if folder.is_dir())]
        files = [entry for folder in folders for entry in os.scandir(folder) if entry.is_file()]
        return tuple(sorted((e.path, e.stat().st_size, e.stat().st_mtime_ns) for e in files))
    except OSError:  # opening it says why
        return None
