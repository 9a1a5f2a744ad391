"""The layout of last resort: nothing is known, so every tensor is one unit under its own name."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from submerge.layout.model import Architecture, Model, OutTensor, Place, UnitInfo

if TYPE_CHECKING:
    from submerge.checkpoint import Checkpoint

__all__ = ["ARCHITECTURE", "identify", "tensors_like"]

# All that is known of such a model.
ARCHITECTURE = Architecture("generic", axes_dims_rope=())


def identify(checkpoint: Checkpoint) -> Model:
    """Take every tensor as a unit; models then merge when names and shapes agree."""
    units = {
        name: UnitInfo(
            name, Place(name, 0, tensor.rows), tensor.rows, tensor.row_elements, tensor.dtype
        )
        for name, tensor in checkpoint.tensors.items()
    }
    return Model(
        checkpoint=checkpoint,
        arch=ARCHITECTURE,
        variant="tensors by name (generic layout)",
        layout="generic",
        prefix="",
        units=MappingProxyType(units),
        extras=(),
    )


def tensors_like(model: Model) -> list[OutTensor]:
    """Return the tensors of a generic model as they are in its files, in file order."""
    return [
        OutTensor(tensor.name, tensor.shape, (tensor.name,))
        for tensor in model.checkpoint.tensors.values()
    ]
