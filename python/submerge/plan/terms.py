"""Where numbers come from: what the operands of a unit are made of, as the core reads it.

The first term of an operand is taken as it is, each further one is added to the sum so far, or, for
a magnitude, multiplied onto it; in f32 and in order. Every product and every sum is rounded to f32.
A term with a scale (or strength) of 0 changes nothing, not even a sign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from submerge.checkpoint.codecs import Spec

__all__ = [
    "Hadamard",
    "Kronecker",
    "Layer",
    "LowRank",
    "Magnitude",
    "Mix",
    "Multiplied",
    "Network",
    "Operand",
    "Rows",
    "Scaled",
    "Side",
    "Source",
    "Term",
    "Thin",
    "tagged",
]


class Source(NamedTuple):
    """An input file; `identity` is what the core said of it when its header was read."""

    path: Path
    identity: Mapping[str, int]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"file": {"path": str(self.path), "identity": dict(self.identity)}}


class Side(NamedTuple):
    """A tensor beside the codes of another, in `Plan.sources[source]`."""

    source: int
    tensor: str

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"source": self.source, "tensor": self.tensor}


class Rows(NamedTuple):
    """Rows `start..end` of a tensor in `Plan.sources[source]`.

    `codec` says what its bytes mean, None that its dtype does; `sides` are what the codec wants
    beside them. Rows are those of the numbers, whatever shape the codes have.
    """

    source: int
    tensor: str
    start: int
    end: int
    codec: Spec | None = None
    sides: tuple[Side, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        # By hand: there are two of these for each of a thousand units.
        plain: dict[str, Any] = {
            "source": self.source,
            "tensor": self.tensor,
            "start": self.start,
            "end": self.end,
        }
        if self.codec is not None:
            plain["codec"] = self.codec
            plain["sides"] = [side.plain() for side in self.sides]
        return plain


class Mix(NamedTuple):
    """A weighted sum of tensors of one shape: `sum_i weights[i] * operands[i]`."""

    operands: tuple[Rows, ...]
    weights: tuple[float, ...]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"operands": [o.plain() for o in self.operands], "weights": list(self.weights)}


class Layer(NamedTuple):
    """One affine layer: weight (out, in) and bias (out)."""

    weight: Mix
    bias: Mix

    def plain(self, activation: str) -> dict[str, Any]:
        """Return the JSON form; the output goes through `activation`."""
        weight, bias = self.weight.plain(), self.bias.plain()
        return {"weight": weight, "bias": bias, "activation": activation}


class Network(NamedTuple):
    """The vector `W2 @ act(W1 @ input + b1) + b2`, computed in f64, rounded once to f32."""

    input: tuple[float, ...]
    layers: tuple[Layer, Layer]
    activation: str

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        inner, outer = self.layers
        return {
            "input": list(self.input),
            "layers": [inner.plain(self.activation), outer.plain("none")],
        }


class Scaled(NamedTuple):
    """`scale * rows`: a difference that is stored as it is, or the bias of an adapter.

    `rows` has the shape of the unit.
    """

    rows: Rows
    scale: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"rows": self.rows.plain(), "scale": self.scale}


class Thin(NamedTuple):
    """`up @ down`, up (rows, rank) and down (rank, columns), summed over the rank from 0 on."""

    up: Rows
    down: Rows

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"up": self.up.plain(), "down": self.down.plain()}


class LowRank(NamedTuple):
    """`scale * (up @ down)`, of the unit's shape; the sum over the rank is scaled last."""

    product: Thin
    scale: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**self.product.plain(), "scale": self.scale}


class Multiplied(NamedTuple):
    """`scale * (W @ up @ down)`, W the rows of the operand's first term (GLoRA).

    up (columns of the unit, rank), down (rank, columns); first `W @ up`, summed over the columns
    from 0 on, then that times `down`. It needs a term before it.

    Source: Chavan et al. 2023, "One-for-All: Generalized LoRA", arXiv:2306.07967.
    """

    product: Thin
    scale: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**self.product.plain(), "scale": self.scale}


class Hadamard(NamedTuple):
    """`scale * (left * right)`, both of the unit's shape, element by element (LoHa)."""

    left: Thin
    right: Thin
    scale: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        sides = {"left": self.left.plain(), "right": self.right.plain()}
        return {**sides, "scale": self.scale}


class Kronecker(NamedTuple):
    """Rows of `scale * kron(left, right)` from row `first` on, as many as the unit has (LoKr).

    Factors of shapes (a, b) and (c, d) make (a * c, b * d); b * d are the unit's columns. A worker
    holds both in f32.
    """

    left: Rows | Thin
    right: Rows | Thin
    first: int
    scale: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        sides = {"left": tagged(self.left), "right": tagged(self.right)}
        return {**sides, "first": self.first, "scale": self.scale}


class Magnitude(NamedTuple):
    """Row i of the sum so far is multiplied by `strength * (values[i] / (n + epsilon) - 1) + 1`.

    `n` is the Euclidean norm of that row, summed in f64 and rounded to f32: of the sum so far
    (norm `sum`) or of the operand's first term (`base`). `values` holds one number for each row of
    the unit. With `axis="columns"` the core refuses it: the norm of a column needs every row.

    Source: Liu et al. 2024, "DoRA", arXiv:2402.09353; the strength is that of LyCORIS.
    """

    values: Rows
    axis: Literal["rows", "columns"]
    norm: Literal["sum", "base"]
    strength: float
    epsilon: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self._asdict() | {"values": self.values.plain()}


Term: TypeAlias = Rows | Scaled | LowRank | Multiplied | Hadamard | Kronecker | Magnitude | Network
Operand: TypeAlias = tuple[Term, ...]

_TAGS: Mapping[type, str] = {
    Rows: "rows",
    Scaled: "scaled",
    LowRank: "low_rank",
    Multiplied: "multiplied",
    Hadamard: "hadamard",
    Kronecker: "kronecker",
    Magnitude: "magnitude",
    Network: "network",
    Thin: "low_rank",  # as a factor, without a scale
}


def tagged(term: Term | Thin) -> dict[str, Any]:
    """Return the JSON form of a term, or of a factor, under the name of its kind."""
    return {_TAGS[type(term)]: term.plain()}
