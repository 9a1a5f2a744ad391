"""Plans by hand, for tests that speak to the core without recipe, layout or plan in between."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import factory
from submerge import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MAX_HEADER = 100_000_000
OPTIONS: dict[str, Any] = {
    "mode": "write",
    "threads": 2,
    "chunk": 1 << 20,
    "memory_budget": 64 << 20,
    "io": "auto",
    "cache": "drop",
    "overwrite": False,
    "stats": True,
    "isa": "auto",
    "max_header_bytes": MAX_HEADER,
}


def read_header(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_core.read_header(str(path), MAX_HEADER))
    return found


def source(path: Path) -> dict[str, Any]:
    stat = path.stat()
    identity = {
        "dev": stat.st_dev,
        "ino": stat.st_ino,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
    }
    return {"file": {"path": str(path), "identity": identity}}


def rows(source: int, tensor: str, start: int, end: int) -> list[dict[str, Any]]:
    """An operand of one term."""
    return [{"rows": place(source, tensor, start, end)}]


def place(source: int, tensor: str, start: int, end: int) -> dict[str, Any]:
    return {"source": source, "tensor": tensor, "start": start, "end": end}


def linear(*weights: float) -> dict[str, Any]:
    return {"linear": {"weights": list(weights)}}


def blended(out: Path, sources: Sequence[Path], weights: Sequence[float]) -> dict[str, Any]:
    """The weighted sum of every tensor of files with the same header, into one file."""
    header = factory.header(sources[0])
    header.pop("__metadata__", None)
    names = sorted(header, key=lambda name: header[name]["data_offsets"])
    outputs, units = [], []
    for at, name in enumerate(names):
        shape = header[name]["shape"]
        count = shape[0] if shape else 1
        outputs.append({"file": 0, "name": name, "dtype": header[name]["dtype"], "shape": shape})
        operands = [rows(i, name, 0, count) for i in range(len(sources))]
        op = linear(*weights)
        unit = {"name": name, "output": at, "start": 0, "end": count}
        units.append(unit | {"operands": operands, "op": op})
    return {
        "version": 1,
        "overflow": "saturate",
        "target": {"file": {"path": str(out)}},
        "sources": [source(path) for path in sources],
        "files": [{"path": "", "metadata": {"format": "pt"}}],
        "texts": [],
        "copies": [],
        "outputs": outputs,
        "units": units,
    }


def execute(
    plan: dict[str, Any],
    job: _core.Job | None = None,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run a plan; the options not given are those above."""
    text = json.dumps(OPTIONS | options)
    done: dict[str, Any] = json.loads(
        _core.execute(json.dumps(plan), text, job or _core.Job(), progress)
    )
    return done
