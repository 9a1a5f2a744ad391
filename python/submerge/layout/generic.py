"""The layout of last resort: nothing is known, so every tensor is one unit under its own name."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from submerge.layout.model import Architecture, Model, Place, UnitInfo

if TYPE_CHECKING:
    from submerge.checkpoint import Checkpoint

__all__ = ["ARCHITECTURE", "identify"]

# All that is known of such a model.
ARCHITECTURE = Architecture("generic", axes_dims_rope=())


def identify(seen: Checkpoint, checkpoint: Checkpoint) -> Model:
    """Take every tensor as a unit; models then merge when names and shapes agree.

    Units are called as in `seen`, whose names are free of wrappers; tensors as in `checkpoint`.
    """
    units = {
        name: UnitInfo(
            name, Place(tensor.name, 0, tensor.rows), tensor.rows, tensor.row_elements, tensor.dtype
        )
        for name, tensor in seen.tensors.items()
    }
    return Model(
        checkpoint=checkpoint._replace(warnings=seen.warnings),
        arch=ARCHITECTURE,
        variant="tensors by name (generic layout)",
        layout="generic",
        prefix="",
        units=MappingProxyType(units),
        extras=(),
    )
