"""Models that nobody changed for a while, the statistics cache beside them, and merges of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import factory
import submerge
from submerge import statistics

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from submerge import Report


def settle() -> None:
    """Wait until the clock of the files has ticked: two changes in one tick look like one."""
    time.sleep(0.02)


def trusting(patch: pytest.MonkeyPatch) -> None:
    """Take files for settled at once, which else takes two seconds."""
    patch.setattr(statistics, "_SETTLED_NS", 0)


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
        settle()
        return {f"m{i}": {"path": str(p), "layout": "generic"} for i, p in enumerate(paths)}


def random(seed: int, *shapes: tuple[int, ...]) -> dict[str, Any]:
    made = np.random.default_rng(seed)
    return {f"t{i}": made.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
