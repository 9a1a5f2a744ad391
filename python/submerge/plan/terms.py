"""Where numbers come from: rows of files, and what is computed from them before a merge begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Layer", "Mix", "Network", "Operand", "Rows", "Source"]


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
        # By hand: there are two of these for each of a thousand units.
        return {
            "source": self.source,
            "tensor": self.tensor,
            "start": self.start,
            "end": self.end,
        }


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


Operand: TypeAlias = Rows | Network
