"""What an adapter does to one unit: formulas over rows of its tensors.

`Span` is rows of one tensor of the adapter's file. A unit's change is a sequence of deltas in the
order in which they apply: a replacement, what is added, and last a magnitude.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Delta",
    "Difference",
    "Factors",
    "Hadamard",
    "Kronecker",
    "Magnitude",
    "Multiplied",
    "Product",
    "Replacement",
    "Span",
    "spans",
]


class Span(NamedTuple):
    """Rows `start` to `end` (exclusive) of a tensor of the adapter's file."""

    tensor: str
    start: int
    end: int


class Factors(NamedTuple):
    """A product of two thin matrices, `up @ down`: (rows of the unit, rank) and (rank, columns)."""

    up: Span
    down: Span


class Product(NamedTuple):
    """LoRA: `scale * up @ down` (Hu et al., arXiv 2106.09685)."""

    factors: Factors
    scale: float


class Multiplied(NamedTuple):
    """GLoRA: `scale * W @ up @ down`, W the model's rows (LyCORIS `glora.py`, arXiv 2306.07967).

    `up` is (columns, rank), `down` (rank, columns); the same for all rows.
    """

    factors: Factors
    scale: float


class Hadamard(NamedTuple):
    """LoHa: `scale * (left.up @ left.down) * (right.up @ right.down)` (LyCORIS `loha.py`)."""

    left: Factors
    right: Factors
    scale: float


class Kronecker(NamedTuple):
    """LoKr: rows `first` and following of `scale * kron(left, right)` (LyCORIS `lokr.py`)."""

    left: Span | Factors
    right: Span | Factors
    first: int
    scale: float


class Difference(NamedTuple):
    """`scale * rows`: a trained difference of a whole weight, a norm or a bias."""

    rows: Span
    scale: float = 1.0


class Replacement(NamedTuple):
    """The rows themselves, in place of the model's."""

    rows: Span


class Magnitude(NamedTuple):
    """DoRA: every row (or column) of `V = W + delta` gets this length (arXiv 2402.09353).

    Attributes:
        values: one for each row of the unit, or for each column.
        axis: which of the two.
        norm: what the length is measured on: `sum` is V, `base` is W.
        epsilon: added to the norm.
        whole: whether what is added counts in full at any strength but 0.
    """

    values: Span
    axis: Literal["rows", "columns"]
    norm: Literal["sum", "base"] = "sum"
    epsilon: float = 0.0
    whole: bool = False


def spans(delta: tuple[Any, ...]) -> Iterator[Span]:
    """Yield the rows that a delta is made of."""
    for part in delta:
        if isinstance(part, Span):
            yield part
        elif isinstance(part, Factors):
            yield from part


Delta: TypeAlias = (
    Product | Multiplied | Hadamard | Kronecker | Difference | Replacement | Magnitude
)
