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

__all__ = [
    "Hadamard",
    "Kronecker",
    "Layer",
    "LowRank",
    "Magnitude",
    "Mix",
    "Mlp",
    "Operand",
    "Pair",
    "Rows",
    "Scaled",
    "Source",
    "Sum",
    "Term",
    "terms_of",
]


class Source(NamedTuple):
    """An input file; `identity` is what the core said of it when its header was read."""

    path: Path
    identity: Mapping[str, int]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"file": {"path": str(self.path), "identity": dict(self.identity)}}


class Rows(NamedTuple):
    """Rows `start..end` of a tensor in `Plan.sources[source]`."""

    source: int
    tensor: str
    start: int
    end: int

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self._asdict()


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


class Mlp(NamedTuple):
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
    """`scale * rows`."""

    rows: Rows
    scale: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"rows": self.rows.plain(), "scale": self.scale}


class Pair(NamedTuple):
    """Two thin matrices, `up @ down`: (rows of the unit, rank) and (rank, columns)."""

    up: Rows
    down: Rows

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"up": self.up.plain(), "down": self.down.plain()}


class LowRank(NamedTuple):
    """`scale * up @ down`."""

    factors: Pair
    scale: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**self.factors.plain(), "scale": self.scale}


class Hadamard(NamedTuple):
    """`scale * (left.up @ left.down) * (right.up @ right.down)`, element by element."""

    left: Pair
    right: Pair
    scale: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"left": self.left.plain(), "right": self.right.plain(), "scale": self.scale}


class Kronecker(NamedTuple):
    """Rows `first` and following of `scale * kron(left, right)`."""

    left: Rows | Pair
    right: Rows | Pair
    first: int
    scale: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        factors = {"left": self.left, "right": self.right}
        return {
            **{
                side: {"rows" if isinstance(found, Rows) else "low_rank": found.plain()}
                for side, found in factors.items()
            },
            "first": self.first,
            "scale": self.scale,
        }


class Magnitude(NamedTuple):
    """Multiplies the sum so far: each row, or column, gets the length that `values` say.

    Attributes:
        values: one for each row of the unit, or for each column.
        axis: `rows` or `columns`.
        norm: what is measured: the sum so far (`sum`) or the first term (`base`).
        strength: 1 for these lengths, 0 for none of it.
        epsilon: added to every norm.
    """

    values: Rows
    axis: str
    norm: str
    strength: float
    epsilon: float

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self._asdict() | {"values": self.values.plain()}


Term: TypeAlias = Rows | Scaled | LowRank | Hadamard | Kronecker | Magnitude | Mlp


class Sum(NamedTuple):
    """An operand of several terms: the first is decoded, the others are added in order, in f32."""

    terms: tuple[Term, ...]


Operand: TypeAlias = Rows | Mlp | Sum

_TAGS: Mapping[type, str] = {
    Rows: "rows",
    Scaled: "scaled",
    LowRank: "low_rank",
    Hadamard: "hadamard",
    Kronecker: "kronecker",
    Magnitude: "magnitude",
    Mlp: "network",
}


def terms_of(operand: Operand) -> list[dict[str, Any]]:
    """Return the JSON form of an operand: its terms, each under its name."""
    terms: tuple[Term, ...] = operand.terms if isinstance(operand, Sum) else (operand,)
    return [{_TAGS[type(term)]: term.plain()} for term in terms]
