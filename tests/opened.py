"""Opened checkpoints that exist in memory alone, for tests that read no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from submerge.checkpoint import Checkpoint, FileInfo, TensorInfo


def headers(
    shapes: dict[str, tuple[int, ...]],
    config: dict[str, Any] | None = None,
    dtypes: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Checkpoint:
    """A checkpoint of one file with these tensors; in BF16, but for those in `dtypes`."""
    types = dtypes or {}
    path = Path("model.safetensors")
    return Checkpoint(
        path=path,
        form="file",
        files=(FileInfo(path, 0, {}, metadata or {}),),
        tensors={
            name: TensorInfo(name, types.get(name, "BF16"), shape, 0, 0, 0)
            for name, shape in shapes.items()
        },
        config=config,
        pipeline=None,
    )
