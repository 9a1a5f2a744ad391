"""Bytes of a pipeline's parts, by the forms that they may have in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from submerge.inference.activations import Shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CODED", "Sizes", "Stored"]

# The form of a transformer whose layers stay in the codes of its files.
CODED = "coded"


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes of the transformer's weights in one form, scales included.

    Attributes:
        total: all of them.
        blocks: those of each block, in order.
        layer: those of the largest layer.
        unpacked: what a layer that computes takes on top, where its stored form is not computed in.
        package: what must be installed to compute from it.
    """

    total: int
    blocks: tuple[int, ...]
    layer: int
    unpacked: int = 0
    package: str | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the parts in the dtype they are loaded in, from the headers of their files.

    Attributes:
        text: both text encoders; `text_layer` is the largest layer of them.
        text_layer: bytes.
        transformer: its weights as numbers.
        quantized: its weights by each of the `QUANTIZATIONS`.
        vae: bytes.
        shapes: what sizes the tensors between the layers.
        coded: its weights where layers stay in the codes of its files; None where none can.
    """

    text: int
    text_layer: int
    transformer: Stored
    quantized: Mapping[str, Stored]
    vae: int
    shapes: Shapes = field(default_factory=Shapes)
    coded: Stored | None = None

    def stored(self, form: str | None) -> Stored:
        """Return the transformer's weights in a form: as numbers, `CODED` or quantised."""
        if form == CODED and self.coded is not None:
            return self.coded
        return self.transformer if form is None else self.quantized[form]
