"""What the numbers of a model are stored in, in words and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from submerge.checkpoint.codecs import CODECS
from submerge.errors import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from submerge.checkpoint import TensorInfo
    from submerge.layout import Model

__all__ = ["Precision", "precision_of", "precision_words"]


class Precision(NamedTuple):
    """The tensors of one dtype or number format.

    Attributes:
        tensors: how many there are.
        elements: how many numbers they hold.
        nbytes: what they take in the file, scales beside them included.
    """

    tensors: int
    elements: int
    nbytes: int

    @property
    def bits(self) -> float:
        """Bits of a number on average; 0 of none."""
        return 8 * self.nbytes / self.elements if self.elements else 0.0


def precision_of(tensors: Iterable[TensorInfo]) -> dict[str, Precision]:
    """Return the precision of tensors by dtype or number format, that of most numbers first."""
    found: dict[str, Precision] = {}
    for tensor in tensors:
        old = found.get(tensor.dtype, Precision(0, 0, 0))
        found[tensor.dtype] = Precision(
            old.tensors + 1,
            old.elements + tensor.elements,
            old.nbytes + tensor.stored(tensor.rows),
        )
    return dict(sorted(found.items(), key=lambda item: -item[1].elements))


def precision_words(model: Model) -> str:
    """Return what the transformer's numbers are stored in: `304 tensors of q8_0, 8.7 bits each`.

    Empty of a model that is not quantised.
    """
    names = dict.fromkeys(unit.place.tensor for unit in model.units.values())
    found = precision_of(model.checkpoint.tensors[name] for name in names)
    if not found.keys() & CODECS.keys():
        return ""
    kinds = [f"{counted(p.tensors, 'tensor')} of {dtype}" for dtype, p in found.items()]
    total = Precision(*(sum(figures) for figures in zip(*found.values(), strict=True)))
    return f"{', '.join(kinds)}, {total.bits:.2f} bits per weight"
