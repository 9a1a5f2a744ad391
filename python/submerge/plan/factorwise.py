"""Adapters merged otherwise than by adding them up.

Number by number, as peft's `add_weighted_adapter` has it: every `up` and every `down` is merged by
itself, each scaled by the root of the weight. What comes out has the rank of one, and is not the
sum of the adapters; products of one's `up` with another's `down` are part of it. Or `knots`: what
the adapters add is voted on in the directions that all of them share.

Source: peft 0.21 `tuners/lora/model.py` and `utils/merge_utils.py`; Stoica et al. 2024, KnOTS
(arXiv 2410.19735).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from submerge.methods import Blend
from submerge.methods.delta import key_of
from submerge.plan.terms import Scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from submerge.plan.terms import Operand, Rows

__all__ = ["FACTORWISE", "Blending", "Method", "blended", "vote_of"]

Method: TypeAlias = Literal[
    "cat", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "knots"
]

FACTORWISE: tuple[Method, ...] = (
    "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"
)  # fmt: skip
"""The methods that merge factors number by number."""


class Blending(NamedTuple):
    """How factors are merged.

    Attributes:
        method: `cat` puts them beside each other, `knots` votes on what they add, the others merge
            them number by number.
        density: the share of each factor's numbers that is left; of `knots` of each adapter's in
            the directions that all share.
        seed: chooses the random numbers of `dare_linear` and `dare_ties`.
    """

    method: Method = "cat"
    density: float = 0.5
    seed: int = 0


def blended(
    how: Blending, tensor: str, given: Sequence[tuple[str, Rows, float]], *, signed: bool
) -> tuple[Blend, tuple[Operand, ...]]:
    """Return how one factor is merged, and the operands.

    Of `ties` and `dare_ties` the sign of the sum without weights wins, and the weighted sum of
    those that agree is divided by how many they are.

    Args:
        how: the method.
        tensor: what the factor is called, for the random numbers.
        given: by adapter its name, its rows and its weight.
        signed: whether it is the factor that has the signs of the weights.
    """
    names = tuple(name for name, _, _ in given)
    roots = [
        math.copysign(math.sqrt(abs(weight)), weight if signed else 1.0) for *_, weight in given
    ]
    if how.method == "linear":
        operands: tuple[Operand, ...] = tuple((rows,) for _, rows, _ in given)
        return Blend("linear", {"weights": roots}, names, " + ".join(names)), operands
    voted = how.method in ("ties", "dare_ties")
    zero = (Scaled(given[0][1], 0.0),)
    arguments: dict[str, Any] = {
        "weights": roots,
        "lambda": 1.0,
        "normalize": "count" if voted else "none",
        "consensus": "plain" if voted else "none",
        "even": "positive",
        "sparsify": _sparsify(how, tensor, names),
    }
    blend = Blend("delta", arguments, (names[0], *names), f"{how.method}({', '.join(names)})")
    return blend, (zero, *((rows,) for _, rows, _ in given))


def vote_of(how: Blending, models: int) -> dict[str, Any]:
    """Return how so many adapters are voted on in the directions they share, as `knots` does."""
    largest = {"magnitude": {"density": [how.density] * models}}
    sparsify = {"none": {}} if how.density == 1 else largest
    return {"normalize": "weights", "consensus": "plain", "sparsify": sparsify}


def _sparsify(how: Blending, tensor: str, names: Sequence[str]) -> dict[str, Any]:
    if how.density == 1:
        return {"none": {}}
    density = [how.density] * len(names)
    if how.method.startswith("dare"):
        keys = [key_of(how.seed, tensor, name) for name in names]
        return {"random": {"density": density, "rescale": "inverse", "keys": keys}}
    return {"magnitude": {"density": density}}
