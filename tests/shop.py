"""Models that nobody changed for a while, the statistics cache beside them, and merges of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import factory
import submerge

if TYPE_CHECKING:
    from pathlib import Path

    from submerge import Report


def settle(*paths: Path) -> None:
    """A file that changed a moment ago may change again unseen: these did not."""
    for path in paths:
        then = path.stat().st_mtime_ns - 3_600_000_000_000
        os.utime(path, ns=(then, then))


@dataclass
class Shop:
    """A folder with models, the cache beside them, and merges of the models."""

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def files(self) -> list[Path]:
        return sorted(self.cache.glob("*")) if self.cache.exists() else []

    def merge(self, made: dict[str, Any], **run: Any) -> tuple[bytes, Report]:
        out = self.folder / "out.safetensors"
        how: Any = {"statistics_cache": self.cache, "overwrite": True} | run
        report = submerge.merge(made, out, **how)
        return out.read_bytes(), report

    def models(self, *files: dict[str, Any]) -> dict[str, Any]:
        paths = [factory.write(self.folder / f"m{i}.safetensors", f) for i, f in enumerate(files)]
        settle(*paths)
        return {f"m{i}": {"path": str(p), "layout": "generic"} for i, p in enumerate(paths)}


def random(seed: int, *shapes: tuple[int, ...]) -> dict[str, Any]:
    made = np.random.default_rng(seed)
    return {f"t{i}": made.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
