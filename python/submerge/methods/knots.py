"""Differences voted on in the directions that all of them share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from submerge.methods.base import CLOSE, Blend, Blends, Equality, Setting
from submerge.methods.delta import SUM, Ties

if TYPE_CHECKING:
    from submerge.values import Selection

__all__ = ["Knots"]


@dataclass(frozen=True, slots=True)
class Knots(Ties):
    """TIES in the directions that all deltas share: their left singular vectors, side by side.

    The deltas of a unit stand beside each other along the rows, `m` by `n` elements for each model;
    the left vectors `U` of all are common, and model `i` has the block `S V_i^T` in them. The
    blocks are thinned out and voted on as `ties` does with deltas, and the result is taken back
    with `U`. Weights come after the blocks are thinned out, as there, and decide nothing about `U`.

    As in the authors' program the blocks carry the singular values when they are thinned out, and
    directions of no strength are left out first (here below a millionth of the strongest, there
    below 1e-5); its `topK` is `density` (and keeps one element more), its `scaling_coeffs` are
    `lambda`, and shares are of a unit, there of all layers together. The signs of singular vectors
    change nothing but where models cancel to 0: there, where it hangs on rounding, the positive
    sign wins; the largest element of each vector of the shorter side is positive. Where singular
    values are equal any basis of their space is right, and the result differs with it: it is the
    one that the decomposition finds, the same on every machine.

    The decomposition is of the shorter side of all deltas together: of `m` elements, or where `m`
    is more than `n` times the models, of these. A vector, one row or one column, is voted on as it
    is.
    """

    name: ClassVar[str] = "knots"
    ops: ClassVar[tuple[str, ...]] = ("matrix",)
    formula: ClassVar[str] = (
        f"C + {SUM} U top(Z_i) [agrees] / sum_i w_i [agrees], U [Z_1|...|Z_k] = [d_1|...|d_k]"
    )
    source: ClassVar[str] = "Stoica et al. 2024, KnOTS (arXiv 2410.19735), with TIES as in `ties`"
    passes: ClassVar[int] = 5
    state: ClassVar[str] = "what is made in f32, square matrices of the shorter side in f64"
    equal: ClassVar[Equality] = {"numpy": CLOSE}

    def blends(self, setting: Setting, selection: Selection, where: str) -> Blends:
        """Return the sum for every unit, as `ties` does."""
        # Not `super()`: slots make a new class, which the bare form does not know.
        found = Ties.blends(self, setting, selection, where)
        return {unit: _shared(made) for unit, made in found.items()}


def _shared(made: Blend) -> Blend:
    if made.is_sum:
        return made
    vote = {name: made.arguments[name] for name in ("normalize", "consensus", "sparsify")}
    arguments = {
        "weights": made.arguments["weights"],
        "lambda": made.arguments["lambda"],
        "apart": False,
        "make": {"shared": vote},
    }
    return dataclasses.replace(made, op="matrix", arguments=arguments)
